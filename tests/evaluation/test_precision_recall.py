import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from fastgan.evaluation import neighbours, precision_recall


def cloud(n, width=6, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("counts", [(80, 60), (5, 6)])
def test_it_is_torch_fidelitys(counts):
    for dtype in (torch.float32, torch.float64):
        real, generated = cloud(counts[0]).to(dtype), 1.5 * cloud(counts[1], seed=1).to(dtype)
        found, theirs = precision_recall(real, generated), prc_features_to_metric(generated, real, verbose=False)
        for name in ("precision", "recall", "f_score"):
            assert getattr(found, name) == pytest.approx(theirs[name], rel=1e-6)


def test_blocks_change_nothing(monkeypatch):
    real, generated = cloud(80).double(), 1.5 * cloud(70, seed=1).double()
    whole = precision_recall(real, generated)
    assert 0 < whole.precision < 1
    assert 0 < whole.recall < 1
    monkeypatch.setattr(neighbours, "BLOCK", 700)
    assert precision_recall(real, generated) == whole


def test_known_answers():
    real = cloud(50)
    assert (precision_recall(real, real).precision, precision_recall(real, real).recall) == (1, 1)
    apart = precision_recall(real, real + 100)
    assert (apart.precision, apart.recall, apart.f_score) == (0, 0, 0)
    # Two of four modes: all that is generated is real, and half of what is real is generated.
    modes = torch.cat([cloud(40) + 100 * shift for shift in range(4)])
    half = precision_recall(modes, modes[:80] + 1e-4)
    assert (half.precision, half.recall) == (1, 0.5)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="nearest must be"):
        precision_recall(cloud(3), cloud(9))
