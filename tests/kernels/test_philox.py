"""The counter-based generator, in torch and in Triton, against the published vectors and a generator of Python integers.

The kernels run through Triton's interpreter on CPU tensors; with TRITON_INTERPRET=0 the same tests run them on the GPU.
"""

import math
import zlib

import pytest
import torch
import triton
import triton.language as tl
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan.kernels import philox
from fastgan.kernels.philox import _cos_sin

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
LARGE = 2**33 + 12345

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def in_torch(output, *arguments):
    return {"words": philox.bits, "uniform": philox.uniform, "normal": philox.normal}[output](*arguments)


def in_triton(output, seed, purpose, rows, count, step=0):
    return philox._launch(output, seed, purpose, rows.to(DEVICE), count, step).cpu()


both = pytest.mark.parametrize("draw", [in_torch, in_triton], ids=["torch", "triton"])


def in_python(counter, key):
    """Philox4x32-10 as in the paper's figure, on integers without a width."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = right >> 32 ^ b ^ k, right % 2**32, left >> 32 ^ d ^ m, left % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def words_in_python(seed, purpose, rows, count, step):
    key = (seed % 2**32, zlib.crc32(purpose.encode()) ^ seed >> 32)
    table = []
    for row in rows.tolist():
        blocks = (in_python((block, row % 2**32, row >> 32, step), key) for block in range(-(-count // 4)))
        table.append([word for block in blocks for word in block][:count])
    return torch.tensor(table, dtype=torch.int64).reshape(len(rows), count)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    assert in_python(counter, key) == words
    c0, c1, c2, c3 = (torch.full((1, 1), word) for word in counter)
    assert tuple(word.item() for word in philox._philox(torch.stack((c0, c2)), torch.stack((c1, c3)), key)) == words


@both
def test_known_answer_through_the_front_door(draw):
    seed = zlib.crc32(b"latent") << 32  # the high half cancels the purpose: key 0
    assert tuple(draw("words", seed, "latent", torch.tensor([0]), 4)[0].tolist()) == KNOWN[0][2]


@both
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 37, 100, 600])
def test_words_and_uniforms_are_exact(draw, count):
    rows = torch.tensor([0, 1, 77, 2**31, 2**32 - 1, 2**32, LARGE, 2**63 - 1])
    for seed, step in ((0, 0), (1, 2**32 - 1), (2**64 - 1, 5), (2**63 + 11, 2**31)):
        expected = words_in_python(seed, "noise", rows, count, step)
        words = draw("words", seed, "noise", rows, count, step)
        assert words.dtype == torch.int64
        assert torch.equal(words, expected)
        uniform = draw("uniform", seed, "noise", rows, count, step)
        assert uniform.dtype == torch.float32
        assert torch.equal(uniform.double(), (expected // 256).double() / 2**24)


@both
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 10, 37, 64, 100, 600, 1201])
def test_normals_are_box_and_muller(draw, count):
    """The first half of the uniforms gives radii, the rest angles, cosines before sines."""
    rows = torch.tensor([3, LARGE, *range(20)])
    pairs = -(-count // 2)
    u = (words_in_python(9, "latent", rows, 2 * pairs, 4) // 256).double() / 2**24
    radius = (-2 * (1 - u[:, :pairs]).log()).sqrt()
    # float32 rounds the angle, by up to 5e-7 before 2 pi: an error of that times the radius, which is below 5.8.
    angle = 2 * math.pi * u[:, pairs:]
    expected = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)[:, :count]
    drawn = draw("normal", 9, "latent", rows, count, 4)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn.double(), expected, rtol=3e-7, atol=3e-6)
    # Between the devices the rounded angle is the same, so they are closer to one another.
    torch.testing.assert_close(drawn, philox.normal(9, "latent", rows, count, 4), rtol=2e-6, atol=1e-6)


@triton.jit
def cos_sin_kernel(angle_ptr, cos_ptr, sin_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cos, sin = _cos_sin(tl.load(angle_ptr + at))
    tl.store(cos_ptr + at, cos)
    tl.store(sin_ptr + at, sin)


def test_cosine_and_sine_to_a_rounding():
    u = torch.arange(2**14, dtype=torch.float64) / 2**14
    u[1::2] += 2.0**-15 - 2.0**-24  # off the multiples of a quarter turn as well
    angle = (2 * math.pi * u.float()).to(DEVICE)
    cos, sin = torch.empty_like(angle), torch.empty_like(angle)
    cos_sin_kernel[(4,)](angle, cos, sin, BLOCK=2**12, enable_fp_fusion=False)
    torch.testing.assert_close(cos.double(), angle.double().cos(), rtol=0, atol=1.5e-7)
    torch.testing.assert_close(sin.double(), angle.double().sin(), rtol=0, atol=1.5e-7)


@both
@pytest.mark.parametrize("output", ["words", "uniform", "normal"])
def test_a_sample_does_not_depend_on_its_batch(draw, output):
    rows = torch.tensor([5, LARGE, 0, 99, 12, 13, 14])
    together = draw(output, 3, "latent", rows, 37, 2)
    for parts in ((1,) * 7, (2, 5), (4, 3)):
        assert torch.equal(torch.cat([draw(output, 3, "latent", part, 37, 2) for part in rows.split(parts)]), together)
    order = torch.tensor([6, 2, 0, 1, 5, 4, 3])
    assert torch.equal(draw(output, 3, "latent", rows[order], 37, 2), together[order])
    strided = torch.stack((rows, rows + 1), dim=1)[:, 0]
    assert torch.equal(draw(output, 3, "latent", strided, 37, 2), together)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_rows_and_many_draw_the_same(count):
    """Python's integers against torch's, at the number of rows where one takes over from the other."""
    rows = torch.arange(LARGE, LARGE + philox._FEW + 1)
    assert torch.equal(philox.bits(5, "share", rows, count, 3)[:-1], philox.bits(5, "share", rows[:-1], count, 3))
    assert philox.uniform(5, "share", rows[:-1], count).is_contiguous()
    assert philox.bits(5, "share", rows[:9].to("meta"), count).shape == (9, count)
    with FakeTensorMode():
        assert philox.uniform(5, "share", torch.arange(9), count).shape == (9, count)


@both
def test_more_words_continue_the_stream(draw):
    rows = torch.arange(3)
    assert torch.equal(draw("words", 3, "latent", rows, 700)[:, :9], draw("words", 3, "latent", rows, 9))


@both
def test_every_argument_makes_another_stream(draw):
    rows = torch.arange(4)
    streams = [
        draw("words", *arguments)
        for arguments in (
            (1, "latent", rows, 8),
            (2, "latent", rows, 8),
            (1 + 2**32, "latent", rows, 8),
            (1, "noise", rows, 8),
            (1, "latent", rows + 2**32, 8),
            (1, "latent", rows + 4, 8),
            (1, "latent", rows, 8, 1),
        )
    ]
    assert len(torch.cat(streams).flatten().unique()) == len(streams) * 32


@both
@pytest.mark.parametrize("output", ["words", "uniform", "normal"])
def test_nothing_asked_nothing_given(draw, output):
    assert draw(output, 1, "latent", torch.arange(0), 5).shape == (0, 5)
    assert draw(output, 1, "latent", torch.arange(3), 0).shape == (3, 0)


@both
def test_statistics(draw):
    """Bounds of about five standard errors. A fixed seed: this doesn't flicker."""
    n = 256 * 512
    uniform = draw("uniform", 7, "noise", torch.arange(256), 512)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    histogram = torch.histc(uniform, 64, 0, 1)
    chi_square = ((histogram - n / 64) ** 2 / (n / 64)).sum()  # 63 degrees of freedom: 63 +- 11
    assert 20 < chi_square < 120
    normal = draw("normal", 7, "latent", torch.arange(256), 512).double()
    assert abs(normal.mean()) < 5 / n**0.5
    assert abs(normal.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((normal**4).mean() - 3) < 5 * (96 / n) ** 0.5
    # Neighbours, cosine against sine of one pair, and rows are uncorrelated.
    for a, b in ((normal[:, 1:], normal[:, :-1]), (normal[:, :256], normal[:, 256:]), (normal[1:], normal[:-1])):
        assert abs((a * b).mean()) < 5 / a.numel() ** 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_rows_draw_on_their_device():
    rows = torch.arange(16, device="cuda")
    assert philox.normal(1, "latent", rows, 100).device == rows.device
    assert torch.equal(philox.bits(1, "latent", rows, 9).cpu(), philox.bits(1, "latent", rows.cpu(), 9))
