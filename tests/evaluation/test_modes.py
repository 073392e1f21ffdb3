import math

import pytest
import torch

from fastgan.evaluation import covered_classes, good_samples, is_good

CORNERS = [(0.0, 0.0), (10.0, 0.0), (0.0, 10.0), (1000.0, 1000.0)]


def around(centre, radius, count):
    """`count` points on a circle."""
    angle = torch.arange(count) * 2 * math.pi / count
    return torch.tensor(centre) + radius * torch.stack((angle.cos(), angle.sin()), 1)


def test_four_sigma_divide_good_from_stray():
    for centre in CORNERS:
        assert is_good(around(centre, 0.39, 7), CORNERS, 0.1)[0].all()
        assert not is_good(around(centre, 0.41, 7), CORNERS, 0.1)[0].any()
    assert is_good(torch.tensor([[9.0, 1.0], [0.0, 9.9]]), CORNERS, 0.1)[1].tolist() == [1, 2]


def test_the_report_counts_by_hand():
    samples = torch.cat(
        [around(CORNERS[0], 0.3, 60), around(CORNERS[1], 0.2, 5), around(CORNERS[3], 0.1, 1), around((5.0, 5.0), 1, 34)]
    )
    report = good_samples(samples, CORNERS, 0.1)
    # A fair share of 100 samples over 4 modes is 25, a fifth of it 5.
    assert (report.value, report.modes, report.fair, report.of, report.num) == (0.66, 3, 2, 4, 100)
    assert report.shown == "66.00 % (3 of 4 modes)"


def test_batches_add_up():
    torch.manual_seed(0)
    samples = 5 * torch.rand(1000, 2)
    assert good_samples(samples.split(37), CORNERS, 0.5) == good_samples(samples, CORNERS, 0.5)


def test_a_mode_without_a_sample_has_no_share_of_a_few():
    assert good_samples(torch.zeros(2, 2), CORNERS, 0.1).fair == 1  # a fifth of half a sample is not zero samples


def test_what_is_not_finite_is_not_good():
    samples = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [0.0, 0.0]])
    assert is_good(samples, CORNERS, 0.1)[0].tolist() == [False, False, True]


def test_refusals():
    with pytest.raises(ValueError, match="no modes"):
        good_samples(torch.zeros(3, 2), [], 0.1)
    with pytest.raises(ValueError, match=r"points \(B, 2\), not \(3, 1, 4, 4\)"):
        good_samples(torch.zeros(3, 1, 4, 4), CORNERS, 0.1)
    with pytest.raises(ValueError, match="no samples"):
        good_samples(torch.zeros(0, 2), CORNERS, 0.1)


def test_classes_are_counted_by_hand():
    labels = torch.tensor([3, 3, 0, 3])
    report = covered_classes(labels, 4)
    assert (report.value, report.of, report.num) == (2, 4, 4)
    assert report.kl == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1))
    assert report.shown == "2 of 4 (KL 0.824)"
    assert covered_classes(torch.arange(1000).repeat(3), 1000).kl == 0
    assert covered_classes(torch.zeros(5, dtype=torch.long), 1000).kl == pytest.approx(math.log(1000))


def test_even_samples_have_the_divergence_of_their_number():
    torch.manual_seed(0)
    found = covered_classes(torch.randint(0, 1000, (26_000,)), 1000)
    assert found.value == 1000
    assert found.kl == pytest.approx(999 / 52_000, rel=0.1)


def test_refused_classes():
    with pytest.raises(ValueError, match="N above 0"):
        covered_classes(torch.zeros(0, dtype=torch.long), 10)
    with pytest.raises(ValueError, match="from 0 to 9"):
        covered_classes(torch.tensor([10]), 10)
