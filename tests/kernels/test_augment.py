"""Augmentation against single pixels in plain Python, and what T is: an affine map with its adjoint, drawn per sample."""

import math
import random

import pytest
import torch
from operations import DEVICE, PATHS, through

from fastgan.kernels import augment as module
from fastgan.kernels.augment import CONSISTENCY, DIFFAUGMENT, Policy, Transforms, augment, augment_reference, draw_transforms

FIELDS = ("flip", "shift", "cutout", "brightness", "saturation", "contrast")
FULL = Policy(flip=0.5, shift=0.5, cutout=0.5, brightness=(-0.5, 0.5), saturation=(0.0, 2.0), contrast=(0.5, 1.5))
both_paths = pytest.mark.parametrize("path", PATHS)
borders = pytest.mark.parametrize("border", module.BORDERS)
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels-last"])


def images(*shape, seed=0, layout=torch.contiguous_format, dtype=torch.float64, path="cpu"):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.to(DEVICE if path == "kernel" else "cpu").contiguous(memory_format=layout)


def any_transforms(batch, size, seed, present=FIELDS, path="cpu"):
    """Shifts as large as the side and beyond, rectangles that reach over the frame or are empty."""
    chance = random.Random(seed)

    def corner(side):
        return [chance.randint(-side, side) for _ in range(batch)], [chance.randint(-1, side + 1) for _ in range(batch)]

    (top, height), (left, width) = map(corner, size)
    whole = {
        "flip": torch.tensor([chance.random() < 0.5 for _ in range(batch)]),
        "shift": torch.tensor([[chance.randint(-2 * side, 2 * side) for side in size] for _ in range(batch)]),
        "cutout": torch.tensor([top, left, height, width], dtype=torch.int32).t(),
        **{name: torch.tensor([chance.uniform(-1, 2) for _ in range(batch)]).double() for name in FIELDS[3:]},
    }
    return moved(Transforms(**{name: whole[name] for name in present}), DEVICE if path == "kernel" else "cpu")


def moved(transforms, device):
    return Transforms(**{n: None if getattr(transforms, n) is None else getattr(transforms, n).to(device) for n in FIELDS})


def by_pixel(x, transforms, border, fill=0.0):
    """T as the head of augment.py defines it, a number at a time; without the colours' algebra and without the folding."""
    t = {name: getattr(transforms, name).tolist() for name in FIELDS if getattr(transforms, name) is not None}
    batch, channels, height, width = x.shape
    out = torch.zeros(x.shape, dtype=torch.float64)
    for b in range(batch):
        image = x[b].double().tolist()
        if "flip" in t and t["flip"][b]:
            image = [[row[::-1] for row in plane] for plane in image]
        if "brightness" in t:
            image = [[[v + t["brightness"][b] for v in row] for row in plane] for plane in image]
        if "saturation" in t:
            for i in range(height):
                for j in range(width):
                    mean = math.fsum(image[c][i][j] for c in range(channels)) / channels
                    for c in range(channels):
                        image[c][i][j] = (image[c][i][j] - mean) * t["saturation"][b] + mean
        if "contrast" in t:
            mean = math.fsum(v for plane in image for row in plane for v in row) / x[b].numel()
            image = [[[(v - mean) * t["contrast"][b] + mean for v in row] for row in plane] for plane in image]
        down, right = t["shift"][b] if "shift" in t else (0, 0)
        top, left, high, wide = t["cutout"][b] if "cutout" in t else (0, 0, 0, 0)
        for i in range(height):
            for j in range(width):
                if top <= i < top + high and left <= j < left + wide:
                    out[b, :, i, j] = fill
                    continue
                p, q = (bounced(i - down, height), bounced(j - right, width)) if border == "reflect" else (i - down, j - right)
                if 0 <= p < height and 0 <= q < width:
                    for c in range(channels):
                        out[b, c, i, j] = image[c][p][q]
    return out


def bounced(position, size):
    """Turned round at the edges until it is inside."""
    if size == 1:
        return 0
    while not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


@both_paths
@borders
@layouts
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (5, 1, 1, 7), (5, 3, 6, 1), (3, 2, 2, 2), (2, 4, 3, 3), (2, 3, 1, 1)])
def test_every_pixel_is_where_the_definition_puts_it(shape, layout, border, path):
    chance = random.Random(repr((shape, border)))
    for seed in range(6):
        present = [name for name in FIELDS if seed == 0 or chance.random() < 0.5]
        x, t = images(*shape, seed=seed, layout=layout, path=path), any_transforms(shape[0], shape[2:], seed, present, path)
        fill = chance.choice((0.0, 0.1, -0.75))  # 0.1 is another number in float32
        with through(path):
            y = augment(x, t, border, fill)
        torch.testing.assert_close(y.cpu(), by_pixel(x.cpu(), moved(t, "cpu"), border, fill), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(augment_reference(x, t, border, fill), y, rtol=1e-10, atol=1e-12)


@both_paths
@borders
@layouts
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (5, 1, 1, 7), (3, 2, 2, 2), (2, 3, 40, 24)])
def test_the_gradient_is_the_adjoint(shape, layout, border, path):
    """<T'(g), x> = <g, T(x) - T(0)>, exactly what T being affine means."""
    for seed in range(4):
        t = any_transforms(shape[0], shape[2:], seed, path=path)
        x = images(*shape, seed=seed, layout=layout, path=path).requires_grad_()
        g = images(*shape, seed=seed + 100, layout=layout, path=path)
        with through(path):
            y, zero = augment(x, t, border, 0.5), augment(torch.zeros_like(x), t, border, 0.5)
            (back,) = torch.autograd.grad(y, x, g)
        assert back.stride() == g.stride()
        torch.testing.assert_close((back * x).sum(), (g * (y - zero)).sum(), rtol=1e-9, atol=1e-9)


@both_paths
@borders
def test_nothing_to_do_is_the_identity(border, path):
    x = images(3, 3, 5, 6, path=path)
    device = x.device
    assert augment(x, Transforms(), border) is x
    still = Transforms(
        flip=torch.zeros(3, dtype=torch.bool, device=device),
        shift=torch.zeros(3, 2, dtype=torch.int32, device=device),
        cutout=torch.zeros(3, 4, dtype=torch.int64, device=device),
        brightness=torch.zeros(3, device=device),
        saturation=torch.ones(3, device=device),
        contrast=torch.ones(3, device=device),
    )
    with through(path):
        torch.testing.assert_close(augment(x, still, border), x, rtol=1e-14, atol=1e-14)
        for name in FIELDS[:3]:
            assert torch.equal(augment(x, Transforms(**{name: getattr(still, name)}), border), x)
        flipped = Transforms(flip=torch.ones(3, dtype=torch.bool, device=device))
        assert torch.equal(augment(x, flipped, border), x.flip(3))
        assert torch.equal(augment(augment(x, flipped, border), flipped, border), x)


@both_paths
def test_a_reflected_shift_is_a_crop_of_torchs_reflected_padding(path):
    x = images(2, 3, 8, 8, path=path)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    for down, right in ((2, -1), (-2, 2), (0, 1)):
        shift = torch.tensor([[down, right]] * 2, device=x.device)
        with through(path):
            assert torch.equal(
                augment(x, Transforms(shift=shift), "reflect"), padded[:, :, 2 - down :, 2 - right :][..., :8, :8]
            )


@both_paths
@borders
def test_the_same_transforms_are_the_same_map_for_two_tensors(border, path):
    x, y = images(3, 3, 6, 5, seed=1, path=path), images(3, 3, 6, 5, seed=2, path=path)
    t = any_transforms(3, (6, 5), 0, path=path)
    doubled = Transforms(**{name: torch.cat((getattr(t, name), getattr(t, name))) for name in FIELDS})
    with through(path):
        pair = torch.cat((augment(x, t, border), augment(y, t, border)))
        assert torch.equal(augment(torch.cat((x, y)), doubled, border), pair)


@both_paths
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_what_is_cut_out_is_the_fill_even_where_it_was_broken(fill, path):
    x = images(1, 2, 4, 4, path=path)
    x[0, 0, 1, 1], x[0, 1, 2, 2] = math.nan, math.inf
    t = Transforms(cutout=torch.tensor([[1, 1, 2, 2]], device=x.device))
    with through(path):
        y = augment(x.requires_grad_(), t, fill=fill)
        (back,) = torch.autograd.grad(y, x, torch.full_like(x, math.nan))
    assert (y[:, :, 1:3, 1:3] == fill).all()
    assert torch.equal(y[:, :, 0], x[:, :, 0])
    assert (back[:, :, 1:3, 1:3] == 0).all()
    assert back[:, :, 0].isnan().all()


def test_brightness_alone_passes_its_gradient_on():
    x, g = images(2, 3, 4, 4).requires_grad_(), images(2, 3, 4, 4, seed=1)
    (back,) = torch.autograd.grad(augment(x, Transforms(brightness=torch.ones(2))), x, g)
    assert back.data_ptr() == g.data_ptr()


@both_paths
@layouts
def test_memory_layouts_are_kept_and_the_input_is_not_written(layout, path):
    for dtype in (torch.float32, torch.bfloat16):
        x = images(2, 3, 6, 5, layout=layout, dtype=dtype, path=path)
        before = x.clone()
        for name in FIELDS:
            with through(path):
                y = augment(x, any_transforms(2, (6, 5), 0, [name], path), fill=1.0)
            assert (y.stride(), y.dtype) == (x.stride(), dtype)
            assert torch.equal(x, before)
    with through(path):
        assert augment(images(2, 3, 6, 5, path=path).transpose(2, 3), any_transforms(2, (5, 6), 0, path=path)).is_contiguous()


def test_draws_belong_to_the_sample():
    rows = torch.tensor([0, 1, 2, 3, 7, 2**33])
    whole = draw_transforms(FULL, rows, (32, 24), seed=5, purpose="augment", step=9)
    parts = [
        draw_transforms(FULL, part, (32, 24), seed=5, purpose="augment", step=9) for part in (rows[:1], rows[1:4], rows[4:])
    ]
    later = draw_transforms(FULL, rows, (32, 24), seed=5, purpose="augment", step=10)
    for name in FIELDS:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
        assert name == "flip" or not torch.equal(getattr(whole, name), getattr(later, name))


def test_a_transform_more_leaves_the_others_as_they_were():
    rows = torch.arange(64)
    one, all_ = (draw_transforms(p, rows, (32, 32), seed=1, purpose="augment") for p in (Policy(shift=0.5), FULL))
    assert torch.equal(one.shift, all_.shift)
    assert all(getattr(one, name) is None for name in FIELDS if name != "shift")


def test_draws_have_the_policys_distribution():
    rows = torch.arange(20000)
    t = draw_transforms(DIFFAUGMENT, rows, (32, 16), seed=0, purpose="augment")
    assert t.flip is None
    for axis, most in enumerate((4, 2)):
        count = torch.bincount(t.shift[:, axis].long() + most)
        assert len(count) == 2 * most + 1
        assert count.min() > 0.9 * len(rows) / len(count)
    for name in FIELDS[3:]:
        low, high = getattr(DIFFAUGMENT, name)
        value = getattr(t, name)
        assert low <= value.min() < low + 0.01 < high - 0.01 < value.max() <= high
        assert abs(value.mean() - (low + high) / 2) < 0.02
    top, left, high, wide = t.cutout.unbind(1)
    assert set(high.tolist()) == {16}
    assert set(wide.tolist()) == {8}
    assert (top.min(), top.max(), left.min(), left.max()) == (-8, 24, -4, 12)  # as published: centres 0 .. side, of an even cut
    t = draw_transforms(CONSISTENCY, rows, (32, 16), seed=0, purpose="augment")
    assert abs(t.flip.float().mean() - 0.5) < 0.02
    assert all(getattr(t, name) is None for name in FIELDS[2:])


def test_the_probability_is_of_each_transform_of_each_sample():
    rows = torch.arange(4000)
    changed = {
        "flip": lambda v: v,
        "shift": lambda v: (v != 0).any(1),
        "cutout": lambda v: v[:, 2] > 0,
        "brightness": lambda v: v != 0,
        "saturation": lambda v: v != 1,
        "contrast": lambda v: v != 1,
    }
    policy = Policy(flip=1.0, shift=0.5, cutout=0.5, brightness=(1.0, 2.0), saturation=(2.0, 3.0), contrast=(2.0, 3.0))
    for probability in (0.0, 0.3, torch.tensor(0.3), torch.linspace(0, 0.6, 4000)):
        t = draw_transforms(policy, rows, (64, 64), seed=0, purpose="augment", probability=probability)
        done = torch.stack([changed[name](getattr(t, name)) for name in FIELDS]).float()
        want = torch.as_tensor(probability).mean().item()
        assert (done.mean(1) - want).abs().max() < 0.03
        assert abs((done[0] * done[1]).mean() - (done[0].mean() * done[1].mean())) < 0.05
    x = images(4, 3, 8, 8)
    none = draw_transforms(policy, torch.arange(4), (8, 8), seed=0, purpose="augment", probability=torch.tensor(0.0))
    torch.testing.assert_close(augment(x, none), x)


def test_nothing_waits_for_the_device():
    """Meta tensors have no values to wait for."""
    rows, p = torch.arange(4, device="meta"), torch.empty((), device="meta")
    t = draw_transforms(FULL, rows, (8, 8), seed=0, purpose="augment", probability=p)
    x = torch.empty(4, 3, 8, 8, device="meta", requires_grad=True)
    y = augment(x, t, "reflect")
    assert torch.autograd.grad(y, x, torch.empty_like(y))[0].shape == x.shape
    assert module._augment_cpu(x.detach(), *(getattr(t, name) for name in FIELDS), "zero", 1.0).shape == x.shape


@borders
def test_operators(border):
    t = any_transforms(3, (4, 5), 0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = images(3, 3, 4, 5, layout=layout).requires_grad_()
        for drop in ((), ("flip", "shift"), FIELDS[3:]):
            given = {name: None if name in drop else getattr(t, name) for name in FIELDS}
            torch.library.opcheck(torch.ops.fastgan.augment.default, (x, *given.values(), border, 0.5))
            linear = [value for name, value in given.items() if name != "brightness"]
            torch.library.opcheck(torch.ops.fastgan.augment_backward.default, (x, *linear, border))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 8, 8)}, r"floating-point images \(B, C, H, W\)"),
        ({"x": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "floating-point images"),
        ({"x": torch.zeros(2, 3, 0, 8)}, "a pixel or more"),
        ({"border": "wrap"}, "border must be one of zero, reflect, not 'wrap'"),
        ({"fill": math.nan}, "fill must be finite in torch.float32, not nan"),
        ({"fill": 1e5, "x": torch.zeros(2, 3, 8, 8, dtype=torch.float16)}, "fill must be finite in torch.float16"),
        ({"flip": torch.zeros(2)}, r"flip must be bool \(2,\) on cpu, not torch.float32"),
        ({"flip": torch.zeros(3, dtype=torch.bool)}, r"flip must be bool \(2,\) on cpu, not torch.bool \(3,\)"),
        ({"shift": torch.zeros(2, 2)}, r"shift must be int32 or int64 \(2, 2\)"),
        ({"shift": torch.zeros(2, dtype=torch.int64)}, r"shift must be int32 or int64 \(2, 2\)"),
        ({"cutout": torch.zeros(2, 2, dtype=torch.int64)}, r"cutout must be int32 or int64 \(2, 4\)"),
        ({"brightness": torch.zeros(2, 1)}, r"brightness must be floating point \(2,\)"),
        ({"saturation": torch.zeros(2, dtype=torch.int64)}, r"saturation must be floating point \(2,\)"),
        ({"contrast": torch.zeros(2, device="meta")}, r"contrast must be floating point \(2,\) on cpu, .* on meta"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    x, border, fill = change.pop("x", torch.zeros(2, 3, 8, 8)), change.pop("border", "zero"), change.pop("fill", 0.0)
    with pytest.raises(ValueError, match=message):
        augment(x, Transforms(**change), border, fill)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip is a probability"),
        ({"flip": math.nan}, "flip is a probability"),
        ({"shift": -0.1}, "shift is a fraction of the side"),
        ({"cutout": math.inf}, "cutout is a fraction of the side"),
        ({"contrast": (1.0, 0.5)}, "contrast is drawn from"),
        ({"border": "same"}, "border must be one of"),
        ({"fill": math.inf}, "fill must be finite"),
    ],
)
def test_wrong_policies_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Policy(**settings)
