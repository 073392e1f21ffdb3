"""What is trained: generators and discriminators, one file a family, and the layers they share."""

from collections.abc import Callable

import torch
from torch import nn

from fastgan.config import Config
from fastgan.networks import mlp, sn_cnn

FAMILIES: dict[str, Callable[[Config], tuple[nn.Module, nn.Module]]] = {
    "sn-cnn": sn_cnn.pair,
    "mlp": mlp.pair,
}


def build(config: Config) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of `config`, initialised from its seed alone, channels-last, on the CPU.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        pair = FAMILIES[config.network.family](config)
    return tuple(network.to(memory_format=torch.channels_last) for network in pair)
