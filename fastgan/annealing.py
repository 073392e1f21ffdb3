"""Settings that go from where a run begins to where its burn-in ends, along half a cosine in images.

    value = end + (start - end) (1 + cos(pi s)) / 2        s = min(real images shown / training.burn_in, 1)

R3GAN (Huang, Gokaslan, Kuleshov, Tompkin, NeurIPS 2024, appendix on hyper-parameters) has the gamma of R1 and R2, Adam's beta2,
the rates and the half-life of the average go so, all over the same images. s is a function of the round: nothing is saved, and
nothing depends on who shares the batch.
"""

from math import cos, pi


def annealed(start: float, end: float | None, share: float) -> float:
    """The value when `share` of the burn-in has passed, in [0, 1]; where there is no `end` it stays at `start`."""
    if end is None or share <= 0:
        return start
    return end if share >= 1 else end + (start - end) * (1 + cos(pi * share)) / 2
