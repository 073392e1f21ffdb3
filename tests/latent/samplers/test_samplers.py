"""What all samplers share: the table, the networks that they may ask, refinement on top."""

import dataclasses

import pytest
import torch
from lines import Affine, Function, draw, make_pair, mixture_pair
from torch import nn

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.latent import Prior, refine, samplers
from fastgan.latent.samplers import DRS, SAMPLERS, Pair, Plain, Refined, Truncation

SMALL = {
    "drs": {"burn_in": 200},
    "mh": {"proposals": 3, "calibrated_on": 200},
    "ddls": {"steps": 3, "calibrated_on": 200},
    "dot": {"steps": 3, "pairs": 20},
    "hubness": {"pool": 200, "neighbours": 5, "threshold": 9},
}


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return samplers.choose(request.param, SMALL.get(request.param, {}))


def networks():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))
    discriminator = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.utils.parametrizations.spectral_norm(nn.Linear(16, 1)))
    return generator.eval(), discriminator.eval()


def test_networks_stay_as_they_are(sampler):
    generator, discriminator = networks()
    state = [t.clone() for network in (generator, discriminator) for t in network.state_dict().values()]
    pair = Pair(generator, discriminator, Prior(20), real=lambda n: (torch.randn(n, 4), None))
    drawn = draw(sampler, pair, 10)
    assert not drawn.z.requires_grad
    assert drawn.z.shape == (10, 20)
    after = [t for network in (generator, discriminator) for t in network.state_dict().values()]
    assert all(map(torch.equal, state, after))
    assert all(p.requires_grad and p.grad is None for network in (generator, discriminator) for p in network.parameters())


def test_they_work_without_gradients_and_in_inference_mode(sampler):
    pairs = [Pair(*networks(), Prior(20), real=lambda n: (torch.ones(n, 4), None)) for _ in range(3)]
    whole = draw(sampler, pairs[0], 10).z
    with torch.no_grad():
        assert torch.equal(draw(sampler, pairs[1], 10).z, whole)
    with torch.inference_mode():
        assert torch.equal(draw(sampler, pairs[2], 10).z, whole)


def test_one_iteration_of_a_graph_is_alive_at_a_time(sampler):
    """Graphs hold what their forward saved: the most bytes so held must not rise with the number of iterations."""
    if not hasattr(sampler, "steps"):
        return
    most = []
    for steps in (2, 12):
        alive = peak = 0

        class Held:
            def __init__(self, tensor):
                nonlocal alive, peak
                self.tensor = tensor
                alive += 1
                peak = max(peak, alive)

            def __del__(self):
                nonlocal alive
                alive -= 1

        pair = Pair(*networks(), Prior(20), real=lambda n: (torch.ones(n, 4), None))
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            draw(dataclasses.replace(sampler, steps=steps), pair, 4)
        most.append(peak)
    assert most[0] == most[1] > 0


def test_truncation_cuts_the_prior():
    pair = mixture_pair()
    z = draw(Truncation(threshold=0.3), pair, 500).z
    assert torch.equal(z, Prior(1, "truncated-normal", 0.3)(Draw(0, "samples", 0, torch.arange(500))))
    with pytest.raises(UserError, match="cuts a normal prior"):
        Truncation().prepare(make_pair(Affine(), Function(lambda x: x[:, 0]), prior=Prior(1, "uniform")))


def test_refinement_goes_on_top_of_any(sampler):
    pair = Pair(*networks(), Prior(20), objective="hinge", real=lambda n: (torch.ones(n, 4), None))
    drawn = draw(sampler, pair, 10)
    before = pair.passes.copy()
    found = Refined(steps=4, step_size=0.1, keep_best=True)(pair, drawn)
    expected = refine(pair.generator, pair.discriminator, drawn.z, steps=4, step_size=0.1, objective="hinge", keep_best=True)
    assert torch.equal(found.z, expected)
    assert found.images is None
    assert pair.passes - before == {"generator": 50, "discriminator": 50, "backward": 40}
    assert Refined()(pair, drawn) is drawn


def test_scores_may_be_maps():
    pair = make_pair(Affine(), Function(lambda x: torch.stack([x, 3 * x], 2)))
    images, scores = pair.judge(torch.tensor([[1.0], [2.0]]))
    assert torch.equal(images[:, 0] * 2, scores)
    with pair.slopes() as slopes:
        score, gradient = slopes(torch.tensor([[1.0], [2.0]]), None)
    assert torch.equal(score, scores)
    assert gradient.tolist() == [[2.0], [2.0]]


def test_networks_in_training_mode_are_refused():
    generator, discriminator = networks()
    with pytest.raises(ValueError, match="evaluation mode"):
        Pair(generator.train(), discriminator, Prior(20))


def test_settings_come_as_fields_or_as_words():
    assert samplers.choose("drs", ["percentile=null", "burn_in=7"]) == DRS(percentile=None, burn_in=7)
    assert samplers.choose("plain") == Plain()
    assert samplers.refinement(["steps=3", "keep_best=true"]) == Refined(steps=3, keep_best=True)
    assert [samplers.name_of(samplers.choose(name)) for name in SAMPLERS] == list(SAMPLERS)


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("drss", [], "unknown sampler 'drss': did you mean 'drs'?"),
        ("drs", ["percentil=3"], "drs: unknown field 'percentil': did you mean 'percentile'?"),
        ("drs", ["percentile=101"], "drs: percentile should be less than or equal to 100, not 101"),
        ("drs", ["percentile"], "drs: settings are name=value, not 'percentile'"),
        ("ddls", ["steps=many"], "ddls: steps should be a valid integer"),
        ("ddls", ["steps=[1"], "ddls: the value '[1' of steps can't be read"),
        ("plain", ["steps=3"], "plain takes no settings, but was given steps"),
    ],
)
def test_mistakes_are_one_line(name, words, line):
    with pytest.raises(UserError) as caught:
        samplers.choose(name, words)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
