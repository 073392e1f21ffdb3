"""GAIA: what its phases compute, against the formulas written anew in float64, and what they leave alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import make_session, saved, tensors

from fastgan import games
from fastgan.checked import UserError
from fastgan.config import Gaia, override
from fastgan.draw import Draw
from fastgan.games import AutoencoderGame, GaiaGame
from fastgan.games.gaia import Errors, discriminator_loss, generator_loss, rate_share
from fastgan.latent.structure import structure_loss
from fastgan.presets import preset

SIDE = 4


class Autoencoder(nn.Module):
    """Images of 4x4 through a content of 3 and a style of 2 numbers; bounded, and small."""

    def __init__(self) -> None:
        super().__init__()
        self.content, self.style, self.out = nn.Linear(16, 3), nn.Linear(16, 2), nn.Linear(5, 16)

    def encode(self, x):
        return self.content(x.flatten(1)), self.style(x.flatten(1))

    def decode(self, code):
        return self.out(torch.cat(code, 1)).tanh().view(-1, 1, SIDE, SIDE)

    def forward(self, x):
        return self.decode(self.encode(x))


class Images:
    """A stream of images, functions of their ordinals."""

    def __init__(self, batch_size, flat=False):
        self.batch_size, self.flat, self.seen = batch_size, flat, 0

    def __next__(self):
        rows = torch.arange(self.seen, self.seen + self.batch_size)
        self.seen += self.batch_size
        images = Draw(9, "images", 0, rows).normal("images", 1, SIDE, SIDE).tanh()
        return {"images": torch.zeros_like(images) if self.flat else images, "labels": rows % 3}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def game(**settings):
    torch.manual_seed(0)
    return GaiaGame(Autoencoder(), Autoencoder(), Gaia(**settings))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def numpy_of(network):
    """The toy autoencoder in numpy: encode and decode."""
    w = {name: p.detach().double().numpy() for name, p in network.named_parameters()}

    def encode(x):
        flat = x.reshape(len(x), -1)
        return [flat @ w[f"{part}.weight"].T + w[f"{part}.bias"] for part in ("content", "style")]

    def decode(code):
        return np.tanh(np.concatenate(code, 1) @ w["out.weight"].T + w["out.bias"])

    return encode, decode


@pytest.mark.parametrize("compared", ["image", "reconstruction"])
@pytest.mark.parametrize("balanced", [True, False])
def test_both_losses(balanced, compared):
    """A round's two losses on toy autoencoders, by the formulas of the module's first lines, pixel for pixel in numpy."""
    played = game(balanced=balanced, compared=compared, structure=0.3).double()
    x = next(Images(6))["images"].double()
    draw = Draw(1, "G", 2, torch.arange(6))
    loss_g, of_g = played.generator_loss({"images": x}, draw)
    loss_d, of_d = played.discriminator_loss({"images": x}, Draw(1, "D", 2, torch.arange(6)))

    encode, decode = numpy_of(played.generator)
    d_encode, d_decode = numpy_of(played.discriminator)
    real = x.numpy().reshape(6, 16)
    a = 0.5 + 0.25 * draw.normal("mixture", 1).double().numpy()
    code = encode(real)
    mixed = [np.concatenate([a[:3] * z[:3] + (1 - a[:3]) * z[3:], a[3:] * z[2::-1] + (1 - a[3:]) * z[3:]]) for z in code]
    drawn, between = decode(code), decode(mixed)

    def error(one, other):
        return np.abs((one + 1) / 2 - (other + 1) / 2).mean()

    def redrawn(images):
        return d_decode(d_encode(images))

    e_real = error(real, redrawn(real))
    e_rec = error(real if compared == "image" else drawn, redrawn(drawn))
    e_int = error(between, redrawn(between))
    structure = structure_loss(x, torch.from_numpy(code[0])).item()
    if balanced:
        share = sigmoid(20 * (e_int - e_rec))
        expected_g = share * e_int + (1 - share) * e_rec + 0.3 * structure
        weight = min(sigmoid(20 * (e_int / 2 - e_real)), 0.9)
        expected_d = e_real - weight * (e_int + e_rec) / 2
    else:
        expected_g, expected_d = e_rec + e_int + 0.3 * structure, e_real - e_rec - e_int
    assert loss_g.item() == pytest.approx(expected_g, rel=1e-6)  # a is drawn in float32
    assert loss_d.item() == pytest.approx(expected_d, rel=1e-6)
    assert of_d["error_real"].item() == pytest.approx(e_real, rel=1e-6)
    assert of_g["structure"].item() == pytest.approx(structure, rel=1e-6)
    paces = played.paces({"G": of_g, "D": of_d})
    assert paces["discriminator"].item() == pytest.approx(sigmoid(20 * (e_real - (e_int + e_rec) / 2)), rel=1e-6)
    assert paces["generator"].item() == pytest.approx(1 - paces["discriminator"].item())


def errors(rec, mixed, real=None):
    return Errors(
        *(None if e is None else torch.tensor(e, dtype=torch.float64, requires_grad=True) for e in (rec, mixed, real))
    )


@pytest.mark.parametrize("detached", [False, True])
def test_balances_in_the_gradient(detached):
    """d loss / d e with the balances' own part, or without."""
    settings, (e_rec, e_int, e_real) = Gaia(detached=detached, slope=7.0), (0.3, 0.25, 0.11)
    given = errors(e_rec, e_int, e_real)
    loss, weight = discriminator_loss(given, settings)
    loss.backward()
    p = sigmoid(7 * (e_int / 2 - e_real))
    slope = 0 if detached else 7 * p * (1 - p)
    fake = (e_rec + e_int) / 2
    assert weight.item() == pytest.approx(p)
    assert given.real.grad.item() == pytest.approx(1 + slope * fake)
    assert given.mixed.grad.item() == pytest.approx(-p / 2 - slope / 2 * fake)
    assert given.reconstructed.grad.item() == pytest.approx(-p / 2)

    given = errors(e_rec, e_int)
    generator_loss(given, torch.tensor(0.0), settings)[0].backward()
    p = sigmoid(7 * (e_int - e_rec))
    slope = 0 if detached else 7 * p * (1 - p)
    assert given.mixed.grad.item() == pytest.approx(p + slope * (e_int - e_rec))
    assert given.reconstructed.grad.item() == pytest.approx(1 - p - slope * (e_int - e_rec))


def test_bounds():
    """Generated images weigh at most `most_fake`; losses stop at `bound`, where nothing pulls any more."""
    given = errors(0.9, 0.9, 0.0)
    assert discriminator_loss(given, Gaia())[1].item() == 0.9
    given = errors(0.9, 0.9)
    loss, _ = generator_loss(given, torch.tensor(0.0), Gaia(bound=0.5))
    loss.backward()
    assert loss.item() == 0.5
    assert given.mixed.grad.item() == 0
    assert rate_share(torch.tensor(0.2), torch.tensor(0.1), Gaia(slope=0)).item() == 0.5


def test_a_phase_moves_its_own_player():
    """G's loss has no gradient in D and the other way round; D sees the very images of G's phase."""
    session = make_session(game(), Images, batch_size=6)
    played = session.game
    before = tensors(session)
    shown = []
    played.discriminator.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].detach().clone()))
    session.play_round()
    assert [len(x) for x in shown] == [12, 18]
    assert torch.equal(shown[1][6:], shown[0])
    after = tensors(session)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.startswith("/game"))
    assert not played._drawn


def test_both_step_on_the_same_networks_with_balanced_rates():
    """One round equals two optimisers that are given the gradients, and the rates, of one evaluation."""
    session = make_session(game(structure=0.1), Images, batch_size=6)
    reference = game(structure=0.1)
    batch = next(Images(6))
    loss_g, of_g = reference.generator_loss(batch, Draw(0, "G", 0, torch.arange(6)))
    loss_d, of_d = reference.discriminator_loss(batch, Draw(0, "D", 0, torch.arange(6)))
    paces = reference.paces({"G": of_g, "D": of_d})
    for loss, name in ((loss_g, "generator"), (loss_d, "discriminator")):
        parameters = list(reference.get_submodule(name).parameters())
        gradients = torch.autograd.grad(loss, parameters)
        adam = torch.optim.Adam(parameters, lr=1e-2 * paces[name].item(), betas=(0.0, 0.9))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    session.play_round()
    for ours, theirs in zip(session.game.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {"balanced": False}, {"mixtures": "batch"}, {"balanced_rates": False}])
@pytest.mark.parametrize(("size", "flat"), [(2, False), (5, False), (6, True), (2, True)])
def test_degenerate_batches_stay_finite(size, flat, settings):
    """A batch of two, an odd one, images that are all one."""
    session = make_session(game(structure=1.0, **settings), lambda size: Images(size, flat), batch_size=size)
    for _ in range(4):
        session.play_round()
    assert session.is_finite()


def test_resumes_bit_for_bit():
    whole, begun, resumed = (make_session(game(), Images, batch_size=6) for _ in range(3))
    for _ in range(5):
        whole.play_round()
    for _ in range(2):
        begun.play_round()
    resumed.load_state_dict(saved(begun))
    for _ in range(3):
        resumed.play_round()
    one, other = tensors(whole), tensors(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_autoencoder_alone():
    torch.manual_seed(0)
    session = make_session(AutoencoderGame(Autoencoder()), Images, batch_size=6)
    x = next(Images(6))["images"]
    expected = ((session.game.generator(x) - x).abs() / 2).mean()
    session.play_round()
    assert session.read_tally()["G/loss"] == pytest.approx(expected.item())
    assert list(session.engines) == ["generator"]


SMALL = ("data.resolution=16", "network.width=2", "network.content=4", "network.style=2", "network.blocks=1")


def test_presets_build_their_games():
    assert isinstance(games.build(override(preset("gaia-digits"), SMALL)), GaiaGame)
    assert isinstance(games.build(override(preset("digits-autoencoder"), SMALL)), AutoencoderGame)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["terms.r1.gamma=1"], "terms has no meaning in a game gaia"),
        (["latent.refine_steps=1"], "latent.refine_steps has no meaning in a game gaia"),
        (["latent.pair=hard"], "latent.pair has no meaning"),
        (["objective=wasserstein"], "objective has no meaning"),
        (["augmentation.policy=ada"], "augmentation has no meaning"),
        (["training.n_dis=2"], "training.n_dis has no meaning"),
        (["network.classes=10"], "network.classes has no meaning"),
        (["training.accumulate=2"], "game=gaia couples"),
        (["training.batch_size=1"], "training.batch_size must be above 1"),
        (["network.family=sn-cnn"], "game gaia needs autoencoders"),
        (["game=adversarial"], "is of autoencoders"),
        (["gaia.slope=-1"], "gaia.slope"),
        (["gaia.most_fake=2"], "gaia.most_fake"),
    ],
)
def test_what_does_not_go_together_is_refused(assignments, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        override(preset("gaia-digits"), assignments)


@pytest.mark.parametrize(
    "assignment", ["gaia.structure=1", "gaia.mixtures=batch", "discriminator.rate=1e-3", "latent.refine_steps=1"]
)
def test_an_autoencoder_alone_takes_nothing_that_it_does_not_use(assignment):
    with pytest.raises(UserError, match="has no meaning in a game autoencoder"):
        override(preset("digits-autoencoder"), [assignment])
    override(preset("digits-autoencoder"), ["gaia.mix_deviation=0.1"])  # of its samples


def test_gaias_settings_need_the_game():
    with pytest.raises(UserError, match="gaia's settings need game=gaia"):
        override(preset("digits-sngan"), ["gaia.slope=3"])
