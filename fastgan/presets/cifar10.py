"""CIFAR-10 at 32x32, as published for AdvLatGAN; the ResNets take the eps of the "cnn" pair, as no other is published."""

from fastgan.config import Data
from fastgan.presets.advlatgan import runs

# method, eps, flip, noise
_TABLE = (
    ("dcgan",        0.030, True,  0.0),
    ("sngan-cnn",    0.040, False, 1 / 128),
    ("sngan-resnet", 0.040, False, 1 / 128),
    ("wgan",         0.010, True,  0.0),
    ("wgan-gp",      0.015, True,  0.0),
)  # fmt: skip

CIFAR10 = runs("cifar10", Data(source="cifar10", resolution=32), _TABLE)
