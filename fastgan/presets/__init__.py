"""Named configurations, one file a family."""

from fastgan.checked import UserError, nearest
from fastgan.config import Config
from fastgan.presets.biggan import BIGGAN
from fastgan.presets.cdcgan import CDCGAN
from fastgan.presets.celeba import CELEBA
from fastgan.presets.cifar10 import CIFAR10
from fastgan.presets.consistency import SNDCGAN
from fastgan.presets.digits import DIGITS
from fastgan.presets.emoji64 import EMOJI64
from fastgan.presets.gaia import GAIA
from fastgan.presets.lsun import LSUN
from fastgan.presets.objectives import GRID25_OBJECTIVES
from fastgan.presets.r3gan import R3GAN
from fastgan.presets.stl10 import STL10
from fastgan.presets.toys import TOYS

_FAMILIES = (DIGITS, TOYS, GRID25_OBJECTIVES, EMOJI64, CIFAR10, STL10, CELEBA, LSUN, CDCGAN, SNDCGAN, BIGGAN, R3GAN, GAIA)
PRESETS: dict[str, Config] = {config.name: config for family in _FAMILIES for config in family}
DEFAULT = "digits-sngan-qua"


def preset(name: str) -> Config:
    """The configuration called `name`.

    Raises:
        UserError: there is none; the line suggests the closest.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: {nearest(name, PRESETS)} (fastgan presets lists them)")
    return PRESETS[name]
