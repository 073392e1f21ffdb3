import torch
from torch.nn import functional

from fastgan.kernels.launch import recording
from fastgan.kernels.norm_act import batch_norm_act
from fastgan.planning.meter import Meter


def test_work_bytes_and_memory_of_a_convolution_by_hand():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3, requires_grad=True)
    with Meter() as meter:
        y = functional.conv2d(x, weight, padding=1)
        of_y = 4 * 2 * 5 * 64
        assert meter.held == of_y
        forward = 2 * (2 * 64) * (3 * 5 * 9)
        assert sum(meter.flops) == forward
        assert sum(meter.bytes) == 4 * (x.numel() + weight.numel()) + of_y
        y.sum().backward()
    assert sum(meter.flops) == 2 * forward  # x asks for no gradient
    assert meter.live[-1] >= of_y + weight.grad.numel() * 4


def test_memory_is_counted_as_long_as_somebody_holds_it():
    with Meter() as meter:
        a = torch.zeros(100)
        b = a[:50].view(5, 10)
        assert meter.held == 400
        del a
        assert meter.held == 400  # the view holds it
        c = b + 1
        del b
        assert meter.held == 200
        meter.forget()
        assert (meter.at_rest, meter.live) == (200, [])
        del c
    assert meter.held == 0


def test_places():
    with Meter() as meter:
        a = torch.ones(2)
        with meter.at("D", "refine", 1):
            a + a
            with meter.at(part="terms"):
                a * a
        a - a
    assert [(p.phase, p.part, p.micro) for p in meter.places] == [
        ("", "other", -1),
        ("D", "refine", 1),
        ("D", "terms", 1),
        ("", "other", -1),
    ]


def test_a_kernel_counts_by_its_launches_and_batch_statistics_by_their_channels():
    x = torch.empty(4, 6, 8, 8, device="meta", requires_grad=True)
    with recording() as launches, Meter(launches) as meter:
        batch_norm_act(x, torch.empty(6, device="meta"), torch.empty(6, device="meta"), act="relu").sum().backward()
    elements = 4 * x.numel()
    # forward reads x for the statistics, reads it again, writes y; backward reads x and dy twice and writes dx
    assert 8 * elements <= sum(meter.kernel_bytes) <= 1.1 * 8 * elements
    assert [shared for shared in meter.shared if shared] == [3 * 6 * 8, 2 * 6 * 4]
    assert not launches
