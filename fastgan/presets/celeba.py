"""CelebA faces at 64x64 from a folder of images (data.path), as published for AdvLatGAN."""

from fastgan.config import Data
from fastgan.presets.advlatgan import runs

# method, eps, flip, noise
_TABLE = (
    ("sngan-cnn", 0.050, False, 1 / 128),
    ("wgan-gp",   0.020, False, 1 / 128),
)  # fmt: skip

CELEBA = runs("celeba", Data(source="folder", resolution=64), _TABLE)
