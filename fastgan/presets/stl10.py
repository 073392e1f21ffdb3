"""STL-10 at 48x48, as published for AdvLatGAN; the ResNets take the eps of the "cnn" pair, as no other is published."""

from fastgan.config import Data
from fastgan.presets.advlatgan import runs

# method, eps, flip, noise
_TABLE = (
    ("dcgan",        0.040, True,  0.0),
    ("sngan-cnn",    0.050, False, 1 / 128),
    ("sngan-resnet", 0.050, False, 1 / 128),
    ("wgan",         0.020, True,  0.0),
    ("wgan-gp",      0.015, True,  0.0),
)  # fmt: skip

STL10 = runs("stl10", Data(source="stl10", resolution=48), _TABLE)
