"""Named configurations, one file a family."""

from fastgan.checked import UserError, nearest
from fastgan.config import Config
from fastgan.presets.digits import DIGITS
from fastgan.presets.toys import TOYS

PRESETS: dict[str, Config] = {config.name: config for config in (*DIGITS, *TOYS)}
DEFAULT = "digits-sngan-qua"


def preset(name: str) -> Config:
    """The configuration called `name`.

    Raises:
        UserError: there is none; the line suggests the closest.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: {nearest(name, PRESETS)} (fastgan presets lists them)")
    return PRESETS[name]
