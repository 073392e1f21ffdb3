"""The step that a CUDA graph would repeat, watched on the CPU; on a GPU the graph against the eager loop."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.config import override
from fastgan.latent import refine
from fastgan.latent.replay import repeat
from fastgan.networks import build
from fastgan.presets import preset

LOOKS_AT_VALUES = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
EVERYTHING = {
    "radius": 0.3, "radius_norm": "l2", "direction": "l2", "momentum": 0.5, "stop_score": 0.1, "keep_best": True,
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Notes the operations that a capture would refuse: those that bring a value to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        name = function.overloadpacket.__name__
        if name in LOOKS_AT_VALUES:
            self.seen.add(name)
        return function(*args, **(kwargs or {}))


def pair(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor, torch.Tensor | None]:
    small = () if name.startswith("grid") else ("latent.dim=20", "network.width=4")
    config = override(preset(name), small)
    torch.manual_seed(0)
    labels = torch.arange(4) % config.network.classes if config.network.classes else None
    return *build(config), torch.randn(4, config.latent.dim), labels


@pytest.mark.parametrize("times", [0, 1, 7])
def test_on_the_cpu_the_step_is_called(times):
    found = torch.zeros(())
    repeat(lambda: found.add_(1), times, torch.device("cpu"))
    assert found == times


# The conditional DCGAN is not here: torch's one_hot looks at its values, though on the CPU alone.
@pytest.mark.parametrize("name", ["cifar10-sngan-cnn-qua", "cifar10-biggan", "grid25-qua"])
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["published", "everything"])
def test_no_iteration_brings_a_value_to_the_host(name, options):
    generator, discriminator, z, labels = pair(name)
    with Watch() as watch:
        refine(generator, discriminator, z, labels, steps=2, step_size=0.05, **options)
    assert watch.count > 50
    assert not watch.seen


def test_the_watch_sees_a_network_that_looks():
    class Looking(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 1e9 else -super().forward(x)

    with Watch() as watch:
        refine(nn.Linear(3, 4), Looking(4, 1), torch.randn(2, 3), steps=1)
    assert watch.seen == {"_local_scalar_dense"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["cifar10-sngan-cnn-qua", "cifar10-biggan", "grid25-qua"])
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["published", "everything"])
def test_a_graph_gives_what_the_loop_gives(name, options):
    generator, discriminator, z, labels = (x if x is None else x.cuda() for x in pair(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replayed = refine(generator, discriminator, z, labels, steps=8, step_size=0.05, **options)
    called = refine(generator, discriminator, z, labels, steps=8, step_size=0.05, capture=False, **options)
    torch.testing.assert_close(replayed, called)
    assert not torch.allclose(replayed, z)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_network_that_looks_at_values_is_called_instead():
    class Looking(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1 if x.sum().item() > 1e9 else -1)

    generator, critic, z = nn.Linear(3, 4).cuda(), Looking(4, 1).cuda(), torch.randn(2, 3).cuda()
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        found = refine(generator, critic, z, steps=8)
    torch.testing.assert_close(found, refine(generator, critic, z, steps=8, capture=False))
