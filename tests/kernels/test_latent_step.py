"""What the catalogue's tests don't say of the latent step: torch's own optimisers, the best iterate, and wrong arguments."""

import math

import pytest
import torch
from operations import PATHS, through

from fastgan.kernels.latent_step import latent_step


def state(rows, columns, momentum=True):
    z = torch.randn(rows, columns, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given = {"z": z, "square": torch.zeros_like(z), "best_z": z.clone(), "best_loss": z.new_full((rows,), math.inf)}
    return given | ({"momentum": torch.zeros_like(z)} if momentum else {})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_steps_are_those_of_torch(kind, path):
    """With the prior's gradient added by hand."""
    given = state(3, 5, momentum=kind == "adam")
    z = given["z"].clone().requires_grad_()
    rate, beta2 = 0.1, 0.999 if kind == "adam" else 0.99
    optimiser = torch.optim.Adam([z], rate) if kind == "adam" else torch.optim.RMSprop([z], rate)
    for k in range(1, 6):
        grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        scales = (rate / (1 - 0.9**k), (1 - 0.999**k) ** -0.5) if kind == "adam" else (rate, 1.0)
        numbers = {"beta1": 0.9, "beta2": beta2, "pull": 0.3}
        with through(path):
            latent_step(grad=grad, scales=torch.tensor(scales).double(), loss=torch.ones(3).double(), **given, **numbers)
        z.grad = grad + 0.3 * z.detach()
        optimiser.step()
        torch.testing.assert_close(given["z"], z.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("path", PATHS)
def test_the_best_iterate_is_that_before_the_step(path):
    given = state(4, 3)
    start, scales = given["z"].clone(), torch.tensor([0.1, 1.0]).double()
    given["best_z"].zero_()
    given["best_loss"] = torch.tensor([1.0, 1.0, 1.0, 5.0]).double()
    loss = torch.tensor([0.5, 1.0, math.nan, 2.0]).double()
    with through(path):
        latent_step(grad=torch.ones(4, 3).double(), scales=scales, loss=loss, **given)
    assert given["best_loss"].tolist() == [0.5, 1.0, 1.0, 2.0]
    assert torch.equal(given["best_z"], torch.stack([start[0], torch.zeros(3), torch.zeros(3), start[3]]).double())
    assert (given["z"] < start).all()


@pytest.mark.parametrize("path", PATHS)
def test_held_columns_stay_and_do_not_count(path):
    """The others go as they would without them."""
    given, grad = state(3, 7), torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).double()
    alone = {name: tensor[:, 2:].clone() if tensor.dim() == 2 else tensor.clone() for name, tensor in given.items()}
    start, numbers = given["z"].clone(), {"scales": torch.tensor([0.1, 1.0]).double(), "loss": torch.ones(3).double()}
    with through(path):
        latent_step(grad=grad, **numbers, **given, pull=0.3, bound=0.4, held=2)
        latent_step(grad=grad[:, 2:], **numbers, **alone, pull=0.3, bound=0.4)
    assert torch.equal(given["z"][:, :2], start[:, :2])
    assert torch.equal(given["z"][:, 2:], alone["z"])
    torch.testing.assert_close(given["best_loss"], alone["best_loss"])


@pytest.mark.parametrize("path", PATHS)
def test_a_broken_gradient_is_seen(path):
    given = state(2, 3)
    grad = torch.tensor([[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]]).double()
    with through(path):
        latent_step(grad=grad, scales=torch.ones(2).double(), loss=torch.ones(2).double(), bound=1.0, **given)
    assert given["z"].isnan().tolist() == [[False, True, False], [False, False, False]]


def test_operator():
    given = state(2, 3)
    tensors = (given["z"], torch.ones(2, 3).double(), given["square"], torch.ones(2).double(), torch.ones(2).double())
    arguments = (*tensors, given["best_loss"], given["best_z"], given["momentum"], 0.9, 0.999, 1e-8, 0.1, 1.0, 0)
    torch.library.opcheck(torch.ops.fastgan.latent_step.default, arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"z": torch.ones(4)}, r"z must be a contiguous floating-point \(B, D\) tensor"),
        ({"grad": torch.ones(4, 2)}, r"grad must match z .* not torch.float32 \(4, 2\)"),
        ({"square": torch.ones(3, 4).T}, "square is written in place and must be contiguous"),
        ({"scales": torch.ones(3)}, r"scales must be contiguous torch.float32 \(2,\)"),
        ({"loss": torch.ones(4).double()}, r"loss must be contiguous torch.float32 \(4,\)"),
        ({"beta2": 1.0}, r"betas must be in \[0, 1\)"),
        ({"bound": 0.0}, "eps and bound above 0"),
        ({"held": 4}, "held must be at least 0 and at most 3, not 4"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    names = ("z", "grad", "square", "best_z")
    given = {name: torch.ones(4, 3) for name in names} | {name: torch.ones(4) for name in ("loss", "best_loss")}
    with pytest.raises(ValueError, match=message):
        latent_step(**given | {"scales": torch.ones(2)} | wrong)
