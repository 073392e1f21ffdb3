"""Points judged by the modes that they should lie on: the good-sample rate, and how many modes are covered.

A sample is good within `REACH` sigma of a mode's centre; all but e^-8 of a round Gaussian's own points lie there. A mode is
covered if one good sample lies at it, and has its fair share if at least `FAIR` of (samples / modes) do: one sample in many
thousands covers a mode, so the second count falls first. AdvLatGAN (Li et al., NeurIPS 2022) and the samplers that it is
compared with count so on grids and rings of Gaussians.

Where a mode is a class, as in StackedMNIST (Metz et al., "Unrolled generative adversarial networks", ICLR 2017, section 3.3.1),
every sample has one, which a classifier says: what is counted are the classes that appear, and how evenly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 4.0
FAIR = 0.2


@dataclass(frozen=True)
class ModesReport:
    """What `good_samples` found."""

    value: float
    """The good-sample rate, in [0, 1]."""
    modes: int
    """Modes with at least one good sample."""
    fair: int
    """Modes with at least `FAIR` of an equal share of all samples."""
    of: int
    """Modes there are."""
    num: int
    """Samples judged."""

    @property
    def shown(self) -> str:
        """For people: "70.52 % (25 of 25 modes)"; one sample of 5,000 is 0.02 %."""
        return f"{100 * self.value:.2f} % ({self.modes} of {self.of} modes)"


@dataclass(frozen=True)
class CoverageReport:
    """What `covered_classes` found."""

    value: int
    """Classes with at least one sample."""
    of: int
    """Classes there are."""
    kl: float
    """KL divergence of the samples from the uniform distribution over the classes, sum p log(p / uniform), in nats: 0 to log of
    the classes. Evenly drawn samples have (classes - 1) / (2 samples) on average."""
    num: int
    """Samples judged."""

    @property
    def shown(self) -> str:
        """For people: "987 of 1000 (KL 0.121)"."""
        return f"{self.value} of {self.of} (KL {self.kl:.3f})"


def covered_classes(labels: Tensor, classes: int) -> CoverageReport:
    """Judge samples by their classes.

    Args:
        labels: int64 (N,), 0 to classes - 1, N above 0.
        classes: how many there are.

    Raises:
        ValueError: no samples, or labels of another shape or range.
    """
    if labels.dim() != 1 or not len(labels):
        raise ValueError(f"labels are (N,), N above 0, not {tuple(labels.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels are whole numbers from 0 to {classes - 1}")
    counts = torch.bincount(labels.cpu(), minlength=classes)
    share = counts[counts > 0].double() / len(labels)
    kl = (share * (share * classes).log()).sum().item()
    return CoverageReport(value=len(share), of=classes, kl=max(kl, 0.0), num=len(labels))


def is_good(samples: Tensor, centres: Sequence[tuple[float, float]], sigma: float) -> tuple[Tensor, Tensor]:
    """Which samples are good, bool (B,), and which mode each is nearest to, int64 (B,).

    Args:
        samples: (B, 2), on any device. A sample that is not finite is not good.
        centres: (x, y) of each mode, at least one.
        sigma: of every mode.

    Raises:
        ValueError: no modes, or samples of another shape.
    """
    if not len(centres):
        raise ValueError("good samples are those near a mode, but there are no modes")
    if samples.dim() != 2 or samples.shape[1] != 2:
        raise ValueError(f"samples are points (B, 2), not {tuple(samples.shape)}")
    # Differences, not cdist: its products lose the digits that 4 sigma of a far mode depend on.
    offsets = samples.detach().double()[:, None] - torch.tensor(centres, dtype=torch.float64, device=samples.device)
    distance, nearest = offsets.norm(dim=2).min(1)
    return distance <= REACH * sigma, nearest


def good_samples(samples: Tensor | Iterable[Tensor], centres: Sequence[tuple[float, float]], sigma: float) -> ModesReport:
    """Judge points, given at once or batch by batch; arguments and errors as for `is_good`."""
    counts, num = torch.zeros(len(centres), dtype=torch.int64), 0
    for batch in [samples] if isinstance(samples, Tensor) else samples:
        good, nearest = is_good(batch, centres, sigma)
        counts += torch.bincount(nearest[good], minlength=len(centres)).cpu()
        num += len(batch)
    if num == 0:
        raise ValueError("there are no samples to judge")
    return ModesReport(
        value=counts.sum().item() / num,
        modes=int((counts > 0).sum()),
        fair=int((counts >= max(1, FAIR * num / len(centres))).sum()),
        of=len(centres),
        num=num,
    )
