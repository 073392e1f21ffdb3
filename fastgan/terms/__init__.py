"""Terms: what a player's loss has beside the adversarial objective. One class in one file, one line in this table.

A term is at once its settings (frozen, checked) and its formula, so a configuration's `terms` holds the terms themselves:
`terms: {r1: {gamma: 1.0}}`.
"""

from fastgan.terms.bcr import BalancedConsistency
from fastgan.terms.cr import Consistency
from fastgan.terms.dragan import Dragan
from fastgan.terms.entropy import Entropy
from fastgan.terms.lecam import LeCam
from fastgan.terms.mode_seeking import ModeSeeking
from fastgan.terms.orthogonal import Orthogonal
from fastgan.terms.r1 import R1
from fastgan.terms.r2 import R2
from fastgan.terms.term import Imagined, Scene, Term
from fastgan.terms.top_k import TopK
from fastgan.terms.wgan_gp import WganGP
from fastgan.terms.zcr import LatentConsistency, LatentDiversity

TERMS: dict[str, type[Term]] = {
    "bcr": BalancedConsistency,
    "cr": Consistency,
    "dragan": Dragan,
    "entropy": Entropy,
    "lecam": LeCam,
    "mode_seeking": ModeSeeking,
    "orthogonal": Orthogonal,
    "r1": R1,
    "r2": R2,
    "top_k": TopK,
    "wgan_gp": WganGP,
    "zcr": LatentConsistency,
    "zcr_diversity": LatentDiversity,
}

__all__ = [
    "R1",
    "R2",
    "TERMS",
    "BalancedConsistency",
    "Consistency",
    "Dragan",
    "Entropy",
    "Imagined",
    "LatentConsistency",
    "LatentDiversity",
    "LeCam",
    "ModeSeeking",
    "Orthogonal",
    "Scene",
    "Term",
    "TopK",
    "WganGP",
]
