"""Every objective against formulas written anew in numpy, and their gradients against differences of those."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.judgement import Judgement
from fastgan.objectives import OBJECTIVES, Objective, chosen, options_of
from fastgan.presets import preset


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def relu(x):
    return np.maximum(x, 0)


def each(on_real, on_fake, mine):
    """An objective of means over scores."""
    return lambda s: on_real(s.a).mean() + on_fake(s.b).mean(), lambda s: mine(s.b).mean()


def f_gan(g, conjugate, alternative=False):
    mine = (lambda b: -g(b)) if alternative else (lambda b: -conjugate(g(b)))
    return each(lambda a: -g(a), lambda b: conjugate(g(b)), mine)


def alpha(alpha):
    g = (lambda v: v) if alpha > 1 else (lambda v: 1 / (1 - alpha) - softplus(-v))
    return f_gan(g, lambda t: relu(t * (alpha - 1) + 1) ** (alpha / (alpha - 1)) / alpha - 1 / alpha)


def average(a, b):
    return softplus(-(a - b.mean())).mean() + softplus(b - a.mean()).mean()


def partition(s):
    return math.log(sum(math.exp(x) for x in (*s.a.ravel(), *s.b.ravel())))


def quadratic(lam, distance):
    def loss(s):
        total = 0.0
        for a, b, x, y in zip(s.a, s.b, s.x, s.y, strict=True):
            d = np.abs(x - y).mean() if distance == "l1" else math.sqrt(((x - y) ** 2).mean())
            total += -(a - b) + (a - b) ** 2 / (2 * lam * d)
        return total / len(s.a)

    return loss, lambda s: -s.b.mean()


def transform(cost):
    def potentials(s):
        return [min(cost(x - y) - a for x, a in zip(s.x, s.a, strict=True)) for y in s.y]

    return lambda s: -s.a.mean() - np.mean(potentials(s)), lambda s: np.mean(potentials(s))


def opposite(distance):
    return lambda s: -distance(s), distance


def mcgan(p):
    def distance(s):
        moments = [sum(np.outer(row, row) for row in side) / len(side) for side in (s.f, s.g)]
        apart = np.abs(s.f.mean(0) - s.g.mean(0))
        return (apart**p).sum() ** (1 / p) + np.linalg.svd(moments[0] - moments[1], compute_uv=False).sum()

    return opposite(distance)


def mmd(k):
    def mean(u, v, same):
        values = [k(np.linalg.norm(a - b)) for i, a in enumerate(u) for j, b in enumerate(v) if not (same and i == j)]
        return sum(values) / len(values)

    return opposite(lambda s: mean(s.f, s.f, True) + mean(s.g, s.g, True) - 2 * mean(s.f, s.g, False))


def moment(s):
    return ((s.a**2).mean() + (s.b**2).mean()) / 2


def fisher(rho, multiplier):
    def loss(s):
        c = 1 - moment(s)
        return -(s.a.mean() - s.b.mean()) - multiplier * c + rho / 2 * c**2

    return loss, lambda s: -s.b.mean()


def dual(alpha):
    def integral(slope, t):
        """From 0 to t, by Gauss and Legendre."""
        nodes, weights = np.polynomial.legendre.leggauss(60)
        return sum(w * t / 2 * slope(t / 2 * (x + 1)) for x, w in zip(nodes, weights, strict=True))

    def w_inverse(t):
        return np.where(t >= 0, 1 + np.abs(t), 1 / (1 + np.abs(t)))

    def phi(t):
        return integral(lambda u: w_inverse(u) ** -alpha, t)

    def psi(t):
        return integral(lambda u: -(w_inverse(u) ** (1 - alpha)), t)

    return each(lambda a: -phi(a), lambda b: -psi(b), psi)


LOGISTIC = (lambda a: softplus(-a), softplus)
PAIRWISE = (lambda s: softplus(-(s.a - s.b)).mean(), lambda s: softplus(-(s.b - s.a)).mean())
REVERSE_KL = (lambda v: -np.exp(-v), lambda t: -1 - np.log(-t))
REFERENCES = {  # (name, options): D's loss, G's
    ("hinge", ()): each(lambda a: relu(1 - a), lambda b: relu(1 + b), lambda b: -b),
    ("non-saturating", ()): each(*LOGISTIC, lambda b: softplus(-b)),
    ("softplus", ()): each(*LOGISTIC, lambda b: softplus(-b)),
    ("minimax", ()): each(*LOGISTIC, lambda b: -softplus(b)),
    ("wasserstein", ()): each(lambda a: -a, lambda b: b, lambda b: -b),
    ("least-squares", ()): each(lambda a: (a - 1) ** 2 / 2, lambda b: b**2 / 2, lambda b: (b - 1) ** 2 / 2),
    ("least-squares", (("c0", -1), ("c1", 2), ("cg", 0.5))): each(
        lambda a: (a - 2) ** 2 / 2, lambda b: (b + 1) ** 2 / 2, lambda b: (b - 0.5) ** 2 / 2
    ),
    ("boundary-seeking", ()): each(*LOGISTIC, lambda b: b**2 / 2),
    ("f-gan-kl", ()): f_gan(lambda v: v, lambda t: np.exp(t - 1)),
    ("f-gan-reverse-kl", ()): f_gan(*REVERSE_KL),
    ("f-gan-reverse-kl", (("alternative", True),)): f_gan(*REVERSE_KL, alternative=True),
    ("f-gan-js", ()): f_gan(lambda v: np.log(2) - softplus(-v), lambda t: -np.log(2 - np.exp(t))),
    ("f-gan-pearson", ()): f_gan(lambda v: v, lambda t: np.where(t >= -2, t**2 / 4 + t, -1)),
    ("f-gan-hellinger", ()): f_gan(lambda v: 1 - np.exp(-v), lambda t: t / (1 - t)),
    ("f-gan-total-variation", ()): f_gan(lambda v: np.tanh(v) / 2, lambda t: t),
    ("f-gan-alpha", ()): alpha(0.5),
    ("f-gan-alpha", (("alpha", 3),)): alpha(3),
    ("f-gan-alpha", (("alpha", -1.5),)): alpha(-1.5),
    ("softmax", ()): (
        lambda s: -s.a.mean() + partition(s),
        lambda s: -(s.a.sum() + s.b.sum()) / (s.a.size + s.b.size) + partition(s),
    ),
    ("relativistic", ()): PAIRWISE,
    ("relativistic-average", ()): (lambda s: average(s.a, s.b), lambda s: average(s.b, s.a)),
    ("gan-qp", ()): quadratic(10, "l1"),
    ("gan-qp", (("lam", 0.3), ("distance", "rms"))): quadratic(0.3, "rms"),
    ("designed-dual", ()): dual(0.5),
    ("designed-dual", (("alpha", 1),)): dual(1),
    ("c-transform", ()): transform(lambda d: math.sqrt((d**2).sum())),
    ("c-transform", (("cost", "l1"),)): transform(lambda d: np.abs(d).sum()),
    ("c-transform", (("cost", "square"),)): transform(lambda d: (d**2).sum() / 2),
    ("mcgan", ()): mcgan(2),
    ("mcgan", (("p", 3),)): mcgan(3),
    ("mmd", ()): mmd(lambda d: math.exp(-d)),
    ("mmd", (("kernel", "gaussian"), ("widths", (0.5, 2)))): mmd(lambda d: math.exp(-2 * d**2) + math.exp(-(d**2) / 8)),
    ("fisher-ratio", ()): opposite(lambda s: (s.a.mean() - s.b.mean()) / math.sqrt(moment(s))),
    ("fisher", ()): fisher(1e-6, 0.7),
    ("fisher", (("rho", 0.2),)): fisher(0.2, 0.7),
}
ALL = pytest.mark.parametrize("name", OBJECTIVES)
MEMORY = {"fisher": {"multiplier": 0.7}}


def sides(name, shape=(), wide=False, scale=2.0):
    """5 real samples and, unless they are compared one by one, 7 generated ones: scores a and b of this shape, images x and y,
    features f and g, in float64."""
    generator = torch.Generator().manual_seed(3)
    fakes = 5 if OBJECTIVES[name].pairs else 7
    pixels = (3, 4, 4) if wide else (1, 2, 2)
    shapes = {"a": (5, *shape), "b": (fakes, *shape), "x": (5, *pixels), "y": (fakes, *pixels), "f": (5, 3), "g": (fakes, 3)}
    return {
        key: (scale * torch.randn(size, generator=generator, dtype=torch.float64)).requires_grad_()
        for key, size in shapes.items()
    }


def given(objective, s):
    """What the objective is given of both sides."""
    if not objective.needs:
        return s["a"], s["b"]
    return Judgement(s["a"], images=s["x"], features=s["f"]), Judgement(s["b"], images=s["y"], features=s["g"])


def slope(function, values, key):
    """Central differences."""
    found, step = np.zeros_like(values[key]), 1e-6
    for at in np.ndindex(values[key].shape):
        ends = []
        for sign in (1, -1):
            moved = {name: value.copy() for name, value in values.items()}
            moved[key][at] += sign * step
            ends.append(float(function(SimpleNamespace(**moved))))
        found[at] = (ends[0] - ends[1]) / (2 * step)
    return found


def test_every_objective_has_a_reference():
    assert {name for name, _ in REFERENCES} == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "options", "wide"),
    [(*case, wide) for case in REFERENCES for wide in (False, True) if not wide or "images" in OBJECTIVES[case[0]].needs],
)
def test_values_and_gradients_of_both_players(name, options, wide):
    objective, memory = chosen(name, dict(options)), MEMORY.get(name, {})
    s = sides(name, wide=wide)
    values = {key: tensor.detach().numpy() for key, tensor in s.items()}
    losses = objective.discriminator(*given(objective, s), **memory), objective.generator(*given(objective, s), **memory)
    if name == "gan-qp":  # what is left out of G's loss where real scores aren't at hand
        losses = losses[0], objective.generator(None, given(objective, s)[1])
    learns = ("a", "b", "f", "g"), ("b", "y", "g")  # each player's loss is differentiated towards these alone
    for loss, reference, keys in zip(losses, REFERENCES[name, options], learns, strict=True):
        assert loss.shape == ()
        assert loss.item() == pytest.approx(float(reference(SimpleNamespace(**values))), rel=1e-9)
        gradients = torch.autograd.grad(loss, [s[key] for key in keys], allow_unused=True, retain_graph=True)
        for key, gradient in zip(keys, gradients, strict=True):
            expected = slope(reference, values, key)
            found = np.zeros_like(expected) if gradient is None else gradient.numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=f"{name} {key}")
    if not objective.real_in_generator:  # then it may be None, and D is spared the pass
        fake = given(objective, s)[1]
        alone = torch.autograd.grad(objective.generator(None, fake, **memory), s["b"])[0]
        torch.testing.assert_close(alone, torch.autograd.grad(objective.generator(*given(objective, s), **memory), s["b"])[0])


@pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if not objective.needs])
def test_maps_of_scores_are_so_many_scores(name):
    objective = OBJECTIVES[name]
    s = sides(name, (1, 2, 2))
    flat = {key: value.flatten() for key, value in s.items()}
    for loss in (objective.discriminator, objective.generator):
        torch.testing.assert_close(loss(*given(objective, s)), loss(*given(objective, flat)))
    assert objective.per_score(s["b"]).shape == s["b"].shape


@ALL
def test_extreme_inputs_stay_finite(name):
    objective, s = OBJECTIVES[name], sides(name)
    for value in s.values():
        value.data = value.data.float()
        value.data[0], value.data[1], value.data[2] = -1e4, 0.0, 1e4
    for loss in (objective.discriminator, objective.generator):
        found = loss(*given(objective, s))
        found.backward()
        assert found.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in s.values())


@ALL
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_sides_that_are_alike_have_finite_gradients(name, value):
    objective, s = OBJECTIVES[name], sides(name)
    for tensor in s.values():
        tensor.data.fill_(value)
    (objective.discriminator(*given(objective, s)) + objective.generator(*given(objective, s))).backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in s.values())


@ALL
def test_half_precision_is_computed_in_single(name):
    objective = OBJECTIVES[name]
    half = {key: value.detach().bfloat16() for key, value in sides(name).items()}
    single = {key: value.float() for key, value in half.items()}
    for loss in (objective.discriminator, objective.generator):
        found = loss(*given(objective, half))
        assert found.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(loss(*given(objective, single)), found)
        torch.testing.assert_close(found, loss(*given(objective, single)))


@ALL
def test_what_is_logged_with_the_loss(name):
    objective, s = OBJECTIVES[name], sides(name)
    loss, *logged = objective.scored(*given(objective, s))
    assert torch.equal(loss, objective.discriminator(*given(objective, s)))
    a, b = s["a"].tolist(), s["b"].tolist()
    expected = [sum(a) / len(a), sum(b) / len(b), sum(x > y for x in a for y in b) / (len(a) * len(b))]
    assert [value.item() for value in logged] == pytest.approx(expected)
    assert not any(value.requires_grad for value in (*logged, *objective.logged(*given(objective, s)).values()))


@ALL
def test_refinement_descends_towards_more_real_scores(name):
    """All but the three that have a target, which they approach from above as well."""
    scores = torch.linspace(-1.9, 0.9, 15, dtype=torch.float64, requires_grad=True)
    objective = OBJECTIVES[name]
    if not objective.refines:
        with pytest.raises(ValueError, match="trains no score"):
            objective.per_score(scores)
        return
    below = scores[:10] if name == "boundary-seeking" else scores
    (gradient,) = torch.autograd.grad(objective.per_score(below).sum(), below)
    assert (gradient < 0).all()


def test_gan_qp_of_equal_images_is_finite_and_pairs_must_match():
    objective, s = OBJECTIVES["gan-qp"], sides("gan-qp")
    s["y"] = s["x"].detach().clone()
    s["b"] = s["a"].detach().clone()
    assert objective.discriminator(*given(objective, s)) == 0
    for name in ("relativistic", "gan-qp"):
        s = sides("hinge")
        with pytest.raises(ValueError, match="compared in pairs"):
            OBJECTIVES[name].discriminator(*given(OBJECTIVES[name], s))


def test_the_c_transform_moves_g_through_the_cost_alone():
    objective, s = OBJECTIVES["c-transform"], sides("c-transform")
    loss = objective.generator(*given(objective, s))
    found = torch.autograd.grad(loss, [s["a"], s["b"], s["x"], s["y"]], allow_unused=True)
    assert [gradient is None for gradient in found] == [True, True, True, False]
    torch.testing.assert_close(found[3].flatten(1).norm(dim=1), torch.full((7,), 1 / 7, dtype=torch.float64))


def test_an_objective_of_ones_own_is_two_functions():
    own = Objective(lambda real, fake: (fake - real).exp().mean(), lambda fake: -2 * fake)
    real, fake = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0.0, 3.0], requires_grad=True)
    loss, score_real, score_fake, separation = own.scored(real, fake)
    assert loss.item() == pytest.approx((math.exp(-1) + math.exp(1)) / 2)
    assert (score_real.item(), score_fake.item(), separation.item()) == (1.5, 1.5, 0.5)
    assert own.generator(real, fake).item() == -3
    assert not own.couples


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (["objective=mmdd"], "unknown objective 'mmdd': did you mean 'mmd'?"),
        (["objective=fisher", "objective_options.roh=1"], "objective fisher has no option 'roh': did you mean 'rho'?"),
        (["objective=fisher", "objective_options.rho=0"], "objective fisher: rho should be greater than 0, not 0"),
        (["objective=hinge", "objective_options.rho=1"], "objective hinge has no options, and was given 'rho'"),
        (["objective=f-gan-alpha", "objective_options.alpha=1"], "alpha 1 is a limit: f-gan-kl has it"),
        (["objective=mmd", "objective_options.widths=[]"], "objective mmd: widths should"),
        (["objective=mmd", "network.gradient_norm=gn"], "network.gradient_norm is of D's score, and objective mmd trains"),
        (["objective=mmd", "latent.refine_steps=1"], "latent.refine_steps must be 0 with objective mmd"),
        (["objective=relativistic", "training.generator_batch=2"], "so training.generator_batch must be 1"),
        (["objective=fisher", "training.accumulate=2"], "objective=fisher couples the samples of a batch"),
        (["objective=softmax", "training.batch_size=1"], "so training.batch_size must be above 1"),
        (["objective=gan-qp", "terms.top_k.share=0.5"], "top_k chooses among generated scores by themselves"),
        (["objective=relativistic-average", "terms.top_k.share=0.5"], "which objective relativistic-average compares"),
    ],
)
def test_refusals_are_one_line(fields, line):
    with pytest.raises(UserError) as found:
        override(preset("grid25"), fields)
    assert line in str(found.value)
    assert "\n" not in str(found.value)


def test_options_are_kept_in_the_configuration():
    config = override(preset("grid25"), ["objective=gan-qp", "objective_options.lam=3"])
    assert chosen(config.objective, config.objective_options).lam == 3
    assert options_of(OBJECTIVES["gan-qp"]) == ["lam", "distance"]
    assert override(config, ["objective=hinge", "objective_options={}"]).objective_options == {}
