"""LSUN church (outdoor) at 64x64 from a folder of images (data.path), as published for AdvLatGAN."""

from fastgan.config import Data
from fastgan.presets.advlatgan import runs

# method, eps, flip, noise
_TABLE = (
    ("sngan-cnn", 0.050, False, 1 / 128),
    ("wgan-gp",   0.050, False, 1 / 128),
)  # fmt: skip

LSUN = runs("lsun", Data(source="folder", resolution=64), _TABLE)
