"""The adversarial objectives: one class each, a file a kin, and a name in this table. docs/objectives.md lists them.

An entry is an objective with its own settings; `chosen` gives it with others.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fastgan.checked import explain, nearest
from fastgan.objectives.dual import DesignedDual
from fastgan.objectives.f_gan import KL, Alpha, FGan, JensenShannon, Pearson, ReverseKL, SquaredHellinger, TotalVariation
from fastgan.objectives.features import MMD, McGan
from fastgan.objectives.fisher import Fisher, FisherRatio
from fastgan.objectives.objective import UNTRAINED, Objective, Scored, Seen, score_of
from fastgan.objectives.of_scores import BoundarySeeking, Hinge, LeastSquares, Minimax, NonSaturating, Wasserstein
from fastgan.objectives.relativistic import Relativistic, RelativisticAverage, Softmax
from fastgan.objectives.transport import CTransform, QuadraticPotential

OBJECTIVES: dict[str, Objective] = {
    "hinge": Hinge(),
    "non-saturating": NonSaturating(),
    "softplus": NonSaturating(),  # the name that AdvLatGAN's code gives it
    "minimax": Minimax(),
    "wasserstein": Wasserstein(),
    "least-squares": LeastSquares(),
    "boundary-seeking": BoundarySeeking(),
    "f-gan-kl": KL(),
    "f-gan-reverse-kl": ReverseKL(),
    "f-gan-js": JensenShannon(),
    "f-gan-pearson": Pearson(),
    "f-gan-hellinger": SquaredHellinger(),
    "f-gan-total-variation": TotalVariation(),
    "f-gan-alpha": Alpha(),
    "softmax": Softmax(),
    "relativistic": Relativistic(),
    "relativistic-average": RelativisticAverage(),
    "gan-qp": QuadraticPotential(),
    "designed-dual": DesignedDual(),
    "c-transform": CTransform(),
    "mcgan": McGan(),
    "mmd": MMD(),
    "fisher-ratio": FisherRatio(),
    "fisher": Fisher(),
}


def chosen(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of this name, with settings of its own where `options` has them.

    Raises:
        ValueError: one line: there is no such objective or option, or a value is out of range.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: {nearest(name, OBJECTIVES)}")
    objective = OBJECTIVES[name]
    if not options:
        return objective
    known = options_of(objective)
    if not known:
        raise ValueError(f"objective {name} has no options, and was given {next(iter(options))!r}")
    try:
        return dataclasses.replace(objective, **options)
    except (ValidationError, TypeError) as error:
        unknown = next((option for option in options if option not in known), None)
        if unknown is not None:
            raise ValueError(f"objective {name} has no option {unknown!r}: {nearest(unknown, known)}") from None
        raise ValueError(f"objective {name}: {explain(error)}") from None


def options_of(objective: Objective) -> list[str]:
    """The names of its settings."""
    return [field.name for field in dataclasses.fields(objective)] if dataclasses.is_dataclass(objective) else []


__all__ = [
    "KL",
    "MMD",
    "OBJECTIVES",
    "UNTRAINED",
    "Alpha",
    "BoundarySeeking",
    "CTransform",
    "DesignedDual",
    "FGan",
    "Fisher",
    "FisherRatio",
    "Hinge",
    "JensenShannon",
    "LeastSquares",
    "McGan",
    "Minimax",
    "NonSaturating",
    "Objective",
    "Pearson",
    "QuadraticPotential",
    "Relativistic",
    "RelativisticAverage",
    "ReverseKL",
    "Scored",
    "Seen",
    "Softmax",
    "SquaredHellinger",
    "TotalVariation",
    "Wasserstein",
    "chosen",
    "options_of",
    "score_of",
]
