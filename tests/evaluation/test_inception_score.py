import math

import pytest
import torch
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from fastgan.evaluation import inception_score


def test_it_is_torch_fidelitys():
    logits = 3 * torch.randn(57, 10, generator=torch.Generator().manual_seed(0))
    found, theirs = inception_score(logits), isc_features_to_metric(logits)
    assert found.value == pytest.approx(theirs[KEY_METRIC_ISC_MEAN], rel=1e-12)
    assert found.deviation == pytest.approx(theirs[KEY_METRIC_ISC_STD], rel=1e-12)


def test_known_answers():
    """Certain and even over C classes: C. All alike: 1. In one part: exp of the mutual information."""
    certain = 100.0 * torch.eye(5).repeat(40, 1)
    assert inception_score(certain, splits=1).value == pytest.approx(5)
    assert inception_score(torch.zeros(50, 5)).value == pytest.approx(1)
    p = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).repeat(10, 1)
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score(p.log(), splits=1).value == pytest.approx(expected)


def test_what_cannot_be_judged_is_refused():
    for shape in ((9, 3), (20,)):
        with pytest.raises(ValueError, match=r"parts needs|logits come"):
            inception_score(torch.zeros(shape))
