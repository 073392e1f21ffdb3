"""`invert` against the definition, written anew in float64, on modules that are not ours."""

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.draw import Draw
from fastgan.latent import Inversion, Prior, inversion, invert
from fastgan.networks.ensemble import Ensemble
from fastgan.networks.sn_cnn import Generator

ADAPTIVE = ("adam", "rmsprop")


class Pictures(nn.Module):
    """A stranger's generator: latents (B, 4), labels where it has classes, images (B, 2, 3, 5). Counts the rows it draws."""

    def __init__(self, classes=0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 30))
        self.table = nn.Embedding(classes, 30) if classes else None
        self.rows = []

    def forward(self, z, labels=None):
        self.rows.append(len(z))
        x = self.body(z)
        return (x if labels is None else x + 2 * self.table(labels)).tanh().view(-1, 2, 3, 5)


def stranger(classes=0, seed=3):
    torch.manual_seed(seed)
    generator = Pictures(classes).double()
    generator(torch.randn(64, 4).double(), *((torch.zeros(64, dtype=torch.int64),) if classes else ()))  # moves the averages
    with torch.no_grad():
        generator.body[1].weight.uniform_(0.5, 1.5)
        generator.body[1].bias.normal_()
    generator.rows.clear()
    return generator


def drawn(generator, count, labels=None, seed=9):
    """A generator's own images, from other latents than the starts."""
    z = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    module = copy.deepcopy(generator).eval()
    with torch.no_grad():
        return module(z, *(() if labels is None else (labels,)))


def loss_of(y, x, loss):
    if loss == "mse":
        return (y - x).square().flatten(1).mean(1)
    return nn.functional.binary_cross_entropy((y + 1) / 2, (x + 1) / 2, reduction="none").flatten(1).mean(1)


def started(count, settings, dim=4):
    return Prior(dim)(Draw(settings.seed, "inversion/start", 0, torch.arange(count))).double()


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear"])
@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("kind", ADAPTIVE)
def test_torchs_optimiser_on_z_finds_the_same(kind, loss, schedule):
    """Image by image, with autograd's gradient of the formula; the best of all iterates is kept, the last one included."""
    generator, settings = stranger(), Inversion(
        steps=12, rate=0.2, optimiser=kind, loss=loss, schedule=schedule, prior_weight=0.05, seed=4
    )  # fmt: skip
    images = drawn(generator, 3)
    found = invert(generator, images, dim=4, settings=settings)
    network = copy.deepcopy(generator).eval()
    for i, start in enumerate(started(3, settings)):
        z = start[None].clone().requires_grad_()
        optimiser = (torch.optim.Adam if kind == "adam" else torch.optim.RMSprop)([z], lr=1.0)
        best, best_z = torch.inf, None
        for k in range(settings.steps + 1):
            objective = loss_of(network(z), images[i : i + 1], loss).sum() + 0.05 * z.square().sum() / 2 / 4
            if objective.item() < best:
                best, best_z = objective.item(), z.detach().clone()
            passed = torch.tensor(k / settings.steps)
            share = {"cosine": 0.5 + 0.5 * torch.cos(torch.pi * passed.double()), "linear": 1 - passed, "constant": 1.0}
            optimiser.param_groups[0]["lr"] = 0.2 * float(share[schedule])
            optimiser.zero_grad()
            objective.backward()
            optimiser.step()
        torch.testing.assert_close(found.latents[i : i + 1], best_z, rtol=1e-5, atol=1e-5)
        assert found.losses[i].item() == pytest.approx(best, rel=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(found.reconstructions, network(found.latents))
    torch.testing.assert_close(found.errors, loss_of(found.reconstructions, images, "mse"))


def test_lbfgs_recovers_what_the_generator_drew():
    """To the precision of float64, in far fewer iterations than Adam."""
    generator = stranger()
    images = drawn(generator, 8)
    found = invert(generator, images, dim=4, steps=120, starts=4)
    assert found.errors.max() < 1e-8
    adam = invert(generator, images, dim=4, steps=120, starts=4, optimiser="adam")
    assert adam.errors.median() > 100 * found.errors.median()


def test_lbfgs_minimises_a_quadratic_in_as_many_steps_as_it_has_dimensions():
    """With whole steps: its pairs then hold the whole curvature. A generator that is linear."""
    torch.manual_seed(0)
    matrix = torch.randn(6, 12).double() / 12

    def generator(z):
        return (z @ matrix).view(-1, 1, 3, 4)

    x = (torch.rand(5, 1, 3, 4).double() - 0.5) * 0.2
    found = invert(generator, x, dim=6, steps=60)
    pulled = invert(generator, x, dim=6, steps=60, prior_weight=0.3)
    flat = x.flatten(1)
    for result, beta in ((found, 0.0), (pulled, 0.3)):  # ridge regression, by hand
        gram = matrix @ matrix.T * 2 / 12 + beta / 6 * torch.eye(6)
        best = torch.linalg.solve(gram, (flat @ matrix.T * 2 / 12).T).T
        torch.testing.assert_close(result.latents, best, rtol=1e-3, atol=1e-3)
    penalty = 0.3 * pulled.latents.square().sum(1) / 2 / 6
    torch.testing.assert_close(pulled.losses, pulled.errors + penalty)


@pytest.mark.parametrize("optimiser", ["lbfgs", *ADAPTIVE])
def test_pure(optimiser):
    generator = stranger(classes=3).train()
    generator.body[3].eval()  # one part was in another mode
    for parameter in generator.parameters():
        parameter.grad = torch.ones_like(parameter)
    generator.table.requires_grad_(False)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    parts, modes = dict(generator.named_modules()), {name: part.training for name, part in generator.named_modules()}
    tensors = {name: id(value) for name, value in itertools.chain(generator.named_parameters(), generator.named_buffers())}
    images, labels = torch.zeros(2, 2, 3, 5).double(), torch.tensor([0, 2])
    with torch.no_grad():
        invert(generator, images, labels, dim=4, steps=3, optimiser=optimiser)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert {name: part.training for name, part in generator.named_modules()} == modes
    assert all(part is parts[name] for name, part in generator.named_modules())
    after = itertools.chain(generator.named_parameters(), generator.named_buffers())
    assert {name: id(value) for name, value in after} == tensors
    assert all((parameter.grad == 1).all() for parameter in generator.parameters())
    assert {name for name, p in generator.named_parameters() if not p.requires_grad} == {"table.weight"}
    assert torch.equal(images, torch.zeros_like(images))


def test_a_generator_that_fails_is_left_as_it_was():
    generator = stranger().train()
    parts, weights = dict(generator.named_modules()), [id(p) for p in generator.parameters()]
    with pytest.raises(ValueError, match=r"the generator draws \(2, 3, 5\), the images are \(2, 3, 4\)"):
        invert(generator, torch.zeros(1, 2, 3, 4).double(), dim=4, steps=3)
    assert all(part is parts[name] for name, part in generator.named_modules())
    assert [id(p) for p in generator.parameters()] == weights
    assert all(part.training for part in generator.modules())
    assert all(p.requires_grad for p in generator.parameters())


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_nothing_depends_on_how_images_are_split(optimiser):
    """By batches, and by calls that give each image its number."""
    generator = stranger()
    images = drawn(generator, 7)
    options = {"dim": 4, "steps": 30, "starts": 2, "optimiser": optimiser, "stop_error": 1e-3, "patience": 20}
    whole = invert(generator, images, **options)
    batches = invert(generator, images, batch_size=5, **options)
    calls = [invert(generator, images[i], numbers=i, **options) for i in (torch.tensor([6, 0]), torch.tensor([3]))]
    for field in dataclasses.fields(whole):
        expected, split = getattr(whole, field.name), getattr(batches, field.name)
        if field.name == "labels":
            assert expected is split is None
            continue
        torch.testing.assert_close(split, expected, msg=field.name)
        one = torch.cat([getattr(call, field.name) for call in calls])
        torch.testing.assert_close(one, expected[[6, 0, 3]], msg=field.name)
    assert not torch.equal(whole.latents, invert(generator, images, seed=1, **options).latents)


def test_of_several_starts_the_best_is_kept():
    generator = stranger()
    images = drawn(generator, 4)
    several = invert(generator, images, dim=4, steps=6, starts=3)
    starts = [Draw(0, "inversion/start", 0, torch.arange(4) * 3 + s) for s in range(3)]
    single = torch.stack(
        [invert(generator, images, prior=lambda _, s=s: Prior(4)(s), steps=6).errors for s in starts]
    )  # fmt: skip
    torch.testing.assert_close(several.errors, single.min(0).values)
    assert torch.equal(several.starts, single.argmin(0))
    assert several.starts.unique().numel() > 1


def test_a_start_is_the_nearest_of_samples():
    generator = stranger()
    images = drawn(generator, 3)
    found = invert(generator, images, dim=4, steps=0, starts=2, nearest=50, batch_size=16)
    bank = Prior(4)(Draw(0, "inversion/bank/None", 0, torch.arange(100))).double()
    with torch.no_grad():
        pictures = copy.deepcopy(generator).eval()(bank)
    errors = (pictures[None] - images[:, None]).square().flatten(2).mean(2)
    torch.testing.assert_close(found.errors, errors.min(1).values)
    torch.testing.assert_close(found.latents, bank[errors.argmin(1)])
    assert found.errors.mean() < invert(generator, images, dim=4, steps=0).errors.mean()


def test_finished_images_leave_the_batch():
    generator = stranger()
    images = drawn(generator, 40)
    found = invert(generator, images, dim=4, steps=150, stop_error=1e-3)
    moving = generator.rows[2:-1]  # two looks before folding and after, and the pictures at the end
    assert moving[0] == 40
    assert sorted(moving, reverse=True) == moving
    assert sum(moving) < 0.7 * 40 * 150
    assert (found.errors[found.converged] <= 1e-3).all()
    assert found.converged.float().mean() > 0.8
    assert (found.steps[~found.converged] == 150).all()
    assert found.steps[found.converged].unique().numel() > 1
    assert (found.steps % 10 == 0).all()


def test_an_image_takes_all_its_starts_with_it():
    generator = stranger()
    found = invert(generator, drawn(generator, 1), dim=4, steps=300, starts=6, stop_error=1e-3)
    assert found.converged.all()
    assert generator.rows[-1] == 1
    assert set(generator.rows[2:-1]) == {6}
    assert len(generator.rows) < 300


def test_a_start_that_stands_still_is_done():
    generator = stranger()
    images = drawn(generator, 6)
    patient = invert(generator, images, dim=4, steps=400, patience=30)
    assert patient.converged.all()
    assert (patient.steps < 400).all()
    assert not invert(generator, images, dim=4, steps=20).converged.any()


def test_labels_are_given_or_searched():
    generator = stranger(classes=4)
    labels = torch.tensor([2, 0, 3, 1, 1])
    images = drawn(generator, 5, labels)
    given = invert(generator, images, labels, dim=4, classes=4, steps=60, starts=2)
    assert torch.equal(given.labels, labels)
    generator.rows.clear()
    found = invert(generator, images, "search", dim=4, classes=4, steps=60, starts=2)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.errors, given.errors)
    assert generator.rows[2] == 5 * 4 * 2
    near = invert(generator, images, "search", dim=4, classes=4, steps=0, nearest=200)
    assert (near.labels == labels).float().mean() >= 0.6
    # An image with more rows than a batch holds.
    split = invert(generator, images, "search", dim=4, classes=4, steps=60, starts=2, batch_size=3)
    torch.testing.assert_close(split.errors, found.errors)
    torch.testing.assert_close(split.latents, found.latents)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_latents_stay_in_the_priors_support(optimiser):
    generator, white = stranger(), torch.ones(3, 2, 3, 5).double()
    for prior, bound in ((Prior(4, "uniform"), 1.0), (Prior(4, "truncated-normal", 0.5), 0.5)):
        found = invert(generator, white, prior=prior, steps=40, optimiser=optimiser, prior_weight=0.01)
        assert found.latents.abs().max() <= bound
        assert (found.latents.abs() == bound).any()
        penalty = 0.0 if prior.kind == "uniform" else 0.01 / 4 / 2 * found.latents.square().sum(1)
        torch.testing.assert_close(found.losses, found.errors + penalty)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_a_latent_of_several_tensors(optimiser):
    generator = stranger()

    def pieces(z):
        assert z["style"].shape[1:] == (3,)
        return generator(torch.cat([z["style"], z["noise"].flatten(1)], 1))

    def prior(draw):
        z = Prior(4)(draw)
        return {"style": z[:, :3], "noise": z[:, 3:].view(-1, 1, 1)}

    generator.eval()
    images = drawn(generator, 3)
    options = {"steps": 20, "optimiser": optimiser, "batch_size": 2}
    found, plain = invert(pieces, images, prior=prior, **options), invert(generator, images, dim=4, fold=False, **options)
    assert found.latents["noise"].shape == (3, 1, 1)
    torch.testing.assert_close(torch.cat([found.latents["style"], found.latents["noise"].flatten(1)], 1), plain.latents)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_the_member_of_an_ensemble_stays_chosen(optimiser):
    generators = [stranger(seed=seed).eval() for seed in (3, 4)]
    ensemble = Ensemble(generators).double()
    images = drawn(generators[1], 4)
    found = invert(ensemble, images, dim=5, steps=80, starts=6, prior_weight=1e-6, optimiser=optimiser)
    assert (ensemble.member_of(found.latents) == 1).all()
    first = Prior(5)(Draw(0, "inversion/start", 0, torch.arange(4) * 6 + found.starts)).double()[:, :1]
    assert torch.equal(found.latents[:, :1], first)
    pulled = invert(ensemble, images, dim=5, steps=20, prior_weight=0.3, optimiser=optimiser)
    penalty = 0.3 / 5 / 2 * pulled.latents[:, 1:].square().sum(1)  # whatever the coordinate that chooses
    torch.testing.assert_close(pulled.losses, pulled.errors + penalty)


def test_folding_is_judged_by_every_member_of_an_ensemble():
    """One looks at what is between its layer and the norm."""

    class Tapped(nn.Sequential):
        def forward(self, z):
            y = self[0][0](z)
            return (self[0][1](y) + y).view(-1, 2, 3, 5)

    torch.manual_seed(2)
    members = [kind(nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30))) for kind in (Tapped, Tapped)]
    members[0] = nn.Sequential(members[0][0], nn.Unflatten(1, (2, 3, 5)))
    for member in members:
        nn.init.uniform_(next(m for m in member.modules() if isinstance(m, nn.BatchNorm1d)).running_var, 2, 3)
    ensemble, images = Ensemble(members).double().eval(), torch.zeros(6, 2, 3, 5).double()
    for number in range(4):  # the first image's first start chooses one or the other
        numbers = torch.arange(number, number + 6)
        found = invert(ensemble, images, dim=5, steps=0, numbers=numbers)
        with torch.no_grad():
            torch.testing.assert_close(found.reconstructions, ensemble(found.latents))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_our_generator_in_any_memory_order_and_half_precision(layout):
    torch.manual_seed(0)
    generator = Generator(8, 16, 3, 2).to(memory_format=torch.channels_last)
    with torch.no_grad():
        images = generator.eval()(Prior(8)(Draw(1, "x", 0, torch.arange(5)))).contiguous(memory_format=layout)
    full = invert(generator, images, dim=8, steps=60)
    assert full.errors.max() < 0.3 * images.square().mean()
    with torch.autocast("cpu", torch.bfloat16):
        half = invert(generator, images, dim=8, steps=60)
    assert half.latents.dtype == half.reconstructions.dtype == half.errors.dtype == torch.float32
    assert half.errors.mean() < full.errors.mean() + 2**-8


def test_lbfgs_does_not_stand_still_in_half_precision(monkeypatch):
    """Without slack it waits for losses to fall by less than their rounding."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(24, 24), nn.Tanh())]
    generator = nn.Sequential(*layers, nn.Linear(24, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4)))
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.35)
    with torch.no_grad():
        images = generator(torch.randn(32, 24))
    medians = {}
    for slack in (inversion.HALF_SLACK, 0.0):
        monkeypatch.setattr(inversion, "HALF_SLACK", slack)
        with torch.autocast("cpu", torch.bfloat16):
            medians[slack] = invert(generator, images, dim=24, steps=150).errors.median().item()
    with_slack, without = medians.values()
    assert with_slack < 0.7 * without


def test_no_images():
    found = invert(stranger(classes=2), torch.zeros(0, 2, 3, 5).double(), "search", dim=4, classes=2, nearest=3)
    assert len(found) == 0
    assert found.latents.shape == (0, 4)
    assert found.reconstructions.shape == (0, 2, 3, 5)
    assert found.labels.shape == found.starts.shape == (0,)


def test_progress_goes_from_nothing_to_everything():
    told = []
    invert(stranger(), torch.zeros(3, 2, 3, 5).double(), dim=4, steps=60, starts=2, batch_size=1, progress=told.append)
    assert told == sorted(told)
    assert len(told) == 12
    assert told[-1] == pytest.approx(1)


def test_an_iteration_brings_no_value_to_the_host(monkeypatch):
    """What a captured graph may not do. The looks at who is done are outside."""
    fetched = []

    class Fetches(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                fetched.append(function)
            return function(*args, **(kwargs or {}))

    def watched(step, times, device, capture):
        for _ in range(times):
            with Fetches():
                step()

    monkeypatch.setattr(inversion, "repeat", watched)
    for optimiser in ("lbfgs", *ADAPTIVE):
        for loss in ("mse", "bce"):
            options = {"optimiser": optimiser, "loss": loss, "fold": False, "prior_weight": 0.1}
            invert(stranger(), torch.zeros(2, 2, 3, 5).double(), dim=4, steps=5, **options)
    assert not fetched
    with Fetches():
        torch.ones(1).item()
    assert fetched


_IMAGES = torch.zeros(2, 2, 3, 5).double()


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (_IMAGES, None, {}, "say what latents are drawn from: prior, or dim"),
        (_IMAGES, None, {"dim": 4, "step": 3}, "inversion has no setting 'step'; it has batch_size"),
        (_IMAGES.long(), None, {"dim": 4}, r"images must be floating-point \(N, C, H, W\), not torch.int64"),
        (_IMAGES[0], None, {"dim": 4}, r"not torch.float64 \(2, 3, 5\)"),
        (_IMAGES + torch.tensor([0, torch.nan]).view(2, 1, 1, 1), None, {"dim": 4}, "image 1 holds numbers that are"),
        (_IMAGES + 255, None, {"dim": 4}, r"images must be in \[-1, 1\]; image 0 goes from 255 to 255"),
        (_IMAGES, torch.tensor([0, 7]), {"dim": 4, "classes": 7}, "labels must be at least 0 and below 7, not 7"),
        (_IMAGES, torch.tensor([0]), {"dim": 4}, r"labels must be int64 \(2,\), not torch.int64 \(1,\)"),
        (_IMAGES, "search", {"dim": 4}, "together with the number of classes"),
        (_IMAGES, "all", {"dim": 4, "classes": 3}, "not 'all'"),
        (_IMAGES, None, {"dim": 4, "numbers": torch.zeros(3).long()}, r"numbers must be int64 \(2,\)"),
        (_IMAGES, None, {"prior": Prior(4).__call__, "prior_weight": 1.0}, "prior_weight needs a prior whose density is known"),
    ],
)  # fmt: skip
def test_mistakes_are_named(images, labels, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        invert(stranger(), images, labels, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": -1}, "steps must be a whole number, at least 0, not -1"),
        ({"starts": 0}, "starts must be a whole number, at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"steps": 3.0}, "steps must be a whole number, at least 0, not 3.0"),
        ({"steps": None}, "steps must be a whole number, at least 0, not None"),
        ({"steps": float("inf")}, "steps must be a whole number, at least 0, not inf"),
        ({"steps": 99999999999999999999}, "steps must be at most 1000000, not 99999999999999999999"),
        ({"nearest": 3000000000000}, "nearest must be at most 1000000"),
        ({"nearest": 10000, "starts": 1000}, "nearest times starts must be at most 1000000, not 10000000"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"seed": 2**64}, "seed must be at most 18446744073709551615"),
        ({"rate": None}, "rate must be above 0, not None"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"rate": float("nan")}, "rate must be above 0"),
        ({"prior_weight": -1.0}, "prior_weight must be at least 0"),
        ({"min_improvement": 1.0}, "min_improvement must be at least 0 and below 1"),
        ({"stop_error": float("nan")}, "stop_error must be at least 0"),
        ({"optimiser": "sgd"}, "optimiser must be one of lbfgs, adam, rmsprop, not 'sgd'"),
        ({"loss": "l1"}, "loss must be one of mse, bce, not 'l1'"),
        ({"schedule": "step"}, "schedule must be one of cosine, constant, linear, not 'step'"),
    ],
)  # fmt: skip
def test_settings_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        Inversion(**setting)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_a_result_that_is_no_number_has_not_converged(optimiser):
    generator, images = stranger(), torch.zeros(2, 2, 3, 5).double()
    found = invert(lambda z: generator(z) * torch.nan, images, dim=4, steps=30, patience=2, optimiser=optimiser, nearest=2)
    assert found.errors.isnan().all()
    assert not found.converged.any()


def test_of_samples_a_picture_that_is_no_number_is_not_the_nearest():
    def generator(z):
        return (z.tanh() * torch.where(z[:, :1] > 0, 1.0, torch.nan)).view(-1, 1, 2, 2)

    found = invert(generator, torch.zeros(3, 1, 2, 2), dim=4, steps=0, nearest=20)
    assert found.errors.isfinite().all()


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
@pytest.mark.parametrize("pulled", [{"prior_weight": 0.3}, {"loss": "bce"}])
def test_an_image_is_done_by_the_error_of_what_is_kept(optimiser, pulled):
    generator = stranger()
    options = {"dim": 4, "steps": 200, "starts": 3, "optimiser": optimiser, "stop_error": 2e-2}
    found = invert(generator, drawn(generator, 20), **options, **pulled)
    assert found.converged.any()
    assert (found.errors[found.converged] <= 2e-2).all()


def test_each_label_looks_through_its_own_samples():
    generator = stranger(classes=3)
    labels = torch.tensor([2, 0, 2, 1])
    images = drawn(generator, 4, labels)
    options = {"dim": 4, "classes": 3, "steps": 0, "nearest": 40, "starts": 2}
    searched = invert(generator, images, "search", **options)
    whole = invert(generator, images, labels, **options)
    for i in range(4):
        one = invert(generator, images[i : i + 1], labels[i : i + 1], **options)
        assert torch.equal(one.latents[0], whole.latents[i])
    torch.testing.assert_close(searched.latents[searched.labels == labels], whole.latents[searched.labels == labels])
    generator.rows.clear()  # an image at a time: no bank but that of its label
    invert(generator, images, labels, **options, batch_size=2, fold=False)
    assert sum(generator.rows) == 4 * (80 + 2 + 1)


def folding(*more):
    """In training mode, with a norm that may be folded."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.Tanh(), nn.Unflatten(1, (2, 3, 5)), *more).double()


class Given(nn.Module):
    """A generator around another whose images go through a function."""

    def __init__(self, change):
        super().__init__()
        self.body, self.change = folding(), change

    def forward(self, z):
        return self.change(self.body(z))


class Under(Given):
    """The same in one of torch's modes."""

    def forward(self, z):
        with self.change():
            return self.body(z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Given(lambda images: (images,)), "the generator must return a tensor of images, not a tuple"),
        (lambda: Given(lambda images: images[:1]), "the generator must draw an image for each latent, not 1 for 2"),
        (lambda: Given(torch.Tensor.detach), "the generator's images have no gradient"),
        (lambda: Under(torch.no_grad), "the generator's images have no gradient"),
        (lambda: Under(torch.inference_mode), "the generator's images have no gradient"),
        (lambda: torch.inference_mode()(folding)(), "the generator's weights were made in inference_mode"),
    ],
)
def test_generators_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        invert(make(), _IMAGES, dim=4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("export", [torch.jit.script, lambda network: torch.jit.trace(network, torch.zeros(3, 4).double())])
def test_torchscript(export):
    network = folding()
    network(torch.randn(32, 4).double())
    network.eval()
    images = drawn(network, 3)
    exported, wanted = export(network).train(), invert(network, images, dim=4, steps=10)
    before = {name: value.clone() for name, value in exported.state_dict().items()}
    torch.testing.assert_close(invert(exported, images, dim=4, steps=10).latents, wanted.latents)
    assert exported.training
    assert all(parameter.requires_grad for parameter in exported.parameters())
    assert all(torch.equal(value, before[name]) for name, value in exported.state_dict().items())


def test_a_method_of_a_module_is_as_the_module():
    network = stranger().train()
    images, before = drawn(network, 3), {name: value.clone() for name, value in network.state_dict().items()}
    found = invert(network.forward, images, dim=4, steps=10)
    assert torch.equal(found.latents, invert(network, images, dim=4, steps=10).latents)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
