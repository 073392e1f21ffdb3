"""Batch norm whose gain and bias each sample gets from its class or its latent, with the activation that follows.

De Vries et al., "Modulating early visual processing by language" (NeurIPS 2017); in generators Miyato and Koyama, "cGANs with
projection discriminator" (ICLR 2018), and BigGAN (Brock et al., ICLR 2019, appendix B).
"""

from torch import Tensor, nn

from fastgan.networks.layers import BatchNormAct, SNLinear


class ConditionalNormAct(BatchNormAct):
    """gain = 1 + linear(condition), bias = linear(condition), both spectrally normalised.

    Args:
        channels: C.
        condition: numbers of a sample's condition.
        eps: of the spectral norms.
        act, slope, upsample: as `BatchNormAct` takes them.
    """

    def __init__(self, channels: int, condition: int, eps: float = 1e-12, **options) -> None:
        super().__init__(channels, affine=False, **options)
        self.gain = SNLinear(condition, channels, bias=False, eps=eps)
        self.shift = SNLinear(condition, channels, bias=False, eps=eps)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, h, w), condition (B, condition)."""
        return self.normalise(x, 1 + self.gain(condition), self.shift(condition))


class ClassNormAct(BatchNormAct):
    """gain and bias from a table of classes, which starts as 1 and 0."""

    def __init__(self, channels: int, classes: int, **options) -> None:
        super().__init__(channels, affine=False, **options)
        self.gain, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        self.reset()

    def reset(self) -> None:
        """Every class as if there were none."""
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x (B, C, h, w), labels int64 (B,)."""
        return self.normalise(x, self.gain(labels), self.shift(labels))
