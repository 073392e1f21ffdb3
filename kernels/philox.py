"""Counter-based random numbers: what a sample gets depends on its index, never on who draws it.

    words(row, block) = Philox4x32-10( counter = (block, row low, row high, step), key = (seed, purpose) )

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 3. One counter gives four 32-bit words, so
sample `row` owns the stream of blocks 0, 1, 2, ... and a run draws the same latents and noise on one rank or on sixty-four,
with or without accumulation, after a resume, and on any device. No generator state has to be saved.

The integer words are equal bit for bit everywhere. Uniform numbers take the top 24 bits of a word, so they are equal too;
normal numbers pass through the device's own logarithm, sine and cosine.

Bytes per number: the CUDA kernels write it (4; a word 8) and read nothing but the row's index. In torch operations, which the
CPU uses, the ten rounds alone read and write some 300 bytes per word: there it is the cache that has to hold. A number or four
for each of few samples (labels, shares) it computes in Python's integers.
"""

import ctypes
import math
import sys
import zlib
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, taken
from .operation import Example, Operation

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF

WARPS = 4
_TILE = 128  # philox blocks of a program: one a thread
_FEW = 512  # rows up to which Python's integers are the faster: 64 take 17 microseconds, in torch 116; 1024 take 139 and 130


def bits(seed: int, purpose: str, rows: Tensor, count: int, step: int = 0) -> Tensor:
    """Random 32-bit words.

    Args:
        seed: 0 to 2**64 - 1; the low half keys the generator, the high half is mixed into the purpose.
        purpose: what the numbers are for ("latent", "noise"); different purposes give independent streams.
        rows: int64 (B,), the samples' global indices, at least 0.
        count: how many words a sample gets.
        step: 0 to 2**32 - 1, for example the round.

    Returns:
        int64 (B, count), each in [0, 2**32).
    """
    if rows.is_cuda or taken():
        return _launch("words", seed, purpose, rows, count, step)
    blocks = -(-count // 4)
    real = rows.device.type == "cpu" and type(rows) is Tensor and not torch.compiler.is_compiling()  # not a fake tensor
    if real and blocks == 1 and 0 < len(rows) <= _FEW:
        return _few(rows, step & _MASK, _key(seed, purpose))[:, :count]
    even = torch.empty((2, len(rows), blocks), dtype=torch.int64, device=rows.device)  # words 0 and 2 of the counter
    odd = torch.empty_like(even)  # words 1 and 3
    even[0] = torch.arange(blocks, device=rows.device)
    even[1] = (rows >> 32)[:, None]
    odd[0] = (rows & _MASK)[:, None]
    odd[1] = step & _MASK
    return torch.stack(_philox(even, odd, _key(seed, purpose)), dim=-1).flatten(1)[:, :count]


def uniform(seed: int, purpose: str, rows: Tensor, count: int, step: int = 0) -> Tensor:
    """Numbers uniform on [0, 1), float32 (B, count), multiples of 2**-24. Arguments as for `bits`."""
    if rows.is_cuda or taken():
        return _launch("uniform", seed, purpose, rows, count, step)
    return (bits(seed, purpose, rows, count, step) >> 8).to(torch.float32).mul_(2.0**-24)


def normal(seed: int, purpose: str, rows: Tensor, count: int, step: int = 0) -> Tensor:
    """Standard normal numbers by Box and Muller (1958), float32 (B, count). Arguments as for `bits`.

    The first half of a sample's uniforms gives radii, the second half angles; the cosines come before the sines.
    """
    if rows.is_cuda or taken():
        return _launch("normal", seed, purpose, rows, count, step)
    pairs = -(-count // 2)
    u = uniform(seed, purpose, rows, 2 * pairs, step)
    radius = (1.0 - u[:, :pairs]).log_().mul_(-2.0).sqrt_()  # 1 - u lies in (0, 1]: the logarithm is finite
    angle = 2.0 * math.pi * u[:, pairs:]
    return torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)[:, :count]


def _key(seed: int, purpose: str) -> tuple[int, int]:
    return seed & _MASK, zlib.crc32(purpose.encode()) ^ (seed >> 32) & _MASK


def _few(rows: Tensor, step: int, key: tuple[int, int]) -> Tensor:
    """The first block of each of a few rows, int64 (B, 4): `_philox` on integers in which every row has 64 bits."""
    rows = rows.to(torch.int64).contiguous()
    size = rows.numel() * rows.element_size()
    one = int.from_bytes((1).to_bytes(8, sys.byteorder) * len(rows), sys.byteorder)  # in every row
    low = _MASK * one
    index = int.from_bytes(ctypes.string_at(rows.data_ptr(), size), sys.byteorder)
    a, b, c, d = 0, index & low, index >> 32 & low, step * one
    for round_ in range(_ROUNDS):
        # A product of two 32-bit words fits into its row's 64 bits.
        left, right = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        first, second = (key[word] + round_ * _WEYL[word] & _MASK for word in (0, 1))
        a, b = (right >> 32 & low) ^ b ^ first * one, right & low
        c, d = (left >> 32 & low) ^ d ^ second * one, left & low
    words = b"".join(word.to_bytes(size, sys.byteorder) for word in (a, b, c, d))
    return torch.frombuffer(bytearray(words), dtype=torch.int64).view(4, -1).t().clone(memory_format=torch.contiguous_format)


def _philox(even: Tensor, odd: Tensor, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten Philox rounds on int64 tensors (2, ...) that hold unsigned 32-bit words: 0 and 2, 1 and 3. Both are overwritten."""
    keys = [[key[word] + round_ * _WEYL[word] & _MASK for word in (0, 1)] for round_ in range(_ROUNDS)]
    first, second = even.unbind()
    product = torch.empty_like(even)
    for round_key in torch.tensor(keys, device=even.device).view(_ROUNDS, 2, 1, 1):
        # A product of two 32-bit words wraps in int64, yet its 64 bits are right: the mask after the shift drops the sign.
        # Word 0 becomes high(word 2 * m1) ^ word 1 ^ k0, and word 1 that product's low half, so each product goes across. The
        # low halves keep their high bits until the mask: three buffers for all rounds, and half of the calls of word by word.
        torch.mul(first, _MULTIPLIERS[0], out=product[1])
        torch.mul(second, _MULTIPLIERS[1], out=product[0])
        torch.bitwise_right_shift(product, 32, out=even)
        even.bitwise_xor_(odd).bitwise_xor_(round_key).bitwise_and_(_MASK)
        odd, product = product, odd
    odd.bitwise_and_(_MASK)
    return first, odd[0], second, odd[1]


@triton.jit
def _words(rows_ptr, row, block, inside, key, step, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The four words of each (row, block): `_philox`, by Triton's own rounds."""
    index = tl.load(rows_ptr + row, mask=inside, other=0)
    low = tl.broadcast_to((index & 0xFFFFFFFF).to(tl.uint32)[:, None], (ROWS, BLOCK))
    high = tl.broadcast_to((index >> 32).to(tl.uint32)[:, None], (ROWS, BLOCK))
    counter = tl.broadcast_to(block.to(tl.uint32)[None, :], (ROWS, BLOCK))
    return tl.philox(key, counter, low, high, tl.full((ROWS, BLOCK), step, tl.uint32))


@triton.jit
def _in_order(w0, w1, w2, w3, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """(ROWS, BLOCK) four times -> (ROWS, 4 BLOCK), block by block, so that a thread writes its four side by side."""
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (ROWS, 4 * BLOCK))


@triton.jit
def _uniform(word):
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2**-24


@triton.jit(do_not_specialize=["batch", "key", "step"])
def words_kernel(
    out_ptr,
    rows_ptr,
    batch,
    count,
    key: tl.uint64,
    step: tl.uint32,
    UNIFORM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tiles = tl.cdiv(count, 4 * BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)
    first = (program % tiles) * BLOCK
    inside = row < batch
    w0, w1, w2, w3 = _words(rows_ptr, row, first + tl.arange(0, BLOCK), inside, key, step, ROWS, BLOCK)
    words = _in_order(w0, w1, w2, w3, ROWS, BLOCK)
    column = 4 * first + tl.arange(0, 4 * BLOCK)[None, :]
    out = out_ptr + row[:, None] * count + column
    mask = inside[:, None] & (column < count)
    if UNIFORM:
        tl.store(out, _uniform(words), mask=mask)
    else:
        tl.store(out, words.to(tl.int64), mask=mask)


@triton.jit
def _cos_sin(angle):
    """Cosine and sine of 0 <= angle <= 2 pi. libdevice's serve any angle, and for that put an array on each thread's stack."""
    quarter = tl.floor(angle * 0.6366197723675814 + 0.5)  # the nearest multiple of pi / 2, which is taken off in two parts:
    x = (angle - quarter * 1.5703125) - quarter * 4.838267948966e-4  # the first has few bits, so that its product is exact
    x2 = x * x
    # Taylor on |x| <= pi / 4 (and rounding): the first terms left out are below 2e-9 and 5e-11.
    sine = x + x * x2 * (-1 / 6 + x2 * (1 / 120 + x2 * (-1 / 5040 + x2 * (1 / 362880))))
    cosine = 1 - x2 * (1 / 2 - x2 * (1 / 24 - x2 * (1 / 720 - x2 * (1 / 40320 - x2 * (1 / 3628800)))))
    turn = quarter.to(tl.int32)
    swap = (turn & 1) == 1
    cos = tl.where(swap, sine, cosine)
    sin = tl.where(swap, cosine, sine)
    return tl.where(((turn + 1) & 2) == 2, -cos, cos), tl.where((turn & 2) == 2, -sin, sin)


@triton.jit
def _normals(rows_ptr, row, first, inside, pairs, key, step, SHIFT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The normal numbers 4 first, ... of each row, and those `pairs` further on, (ROWS, 4 BLOCK): cosines and sines."""
    block = first + tl.arange(0, BLOCK)
    w0, w1, w2, w3 = _words(rows_ptr, row, block, inside, key, step, ROWS, BLOCK)
    radius_word = _in_order(w0, w1, w2, w3, ROWS, BLOCK)

    a0, a1, a2, a3 = _words(rows_ptr, row, pairs // 4 + block, inside, key, step, ROWS, BLOCK)
    if SHIFT > 0:  # four angles straddle two blocks
        b0, b1, b2, _ = _words(rows_ptr, row, pairs // 4 + 1 + block, inside, key, step, ROWS, BLOCK)
        if SHIFT == 1:
            a0, a1, a2, a3 = a1, a2, a3, b0
        elif SHIFT == 2:
            a0, a1, a2, a3 = a2, a3, b0, b1
        else:
            a0, a1, a2, a3 = a3, b0, b1, b2
    angle_word = _in_order(a0, a1, a2, a3, ROWS, BLOCK)

    radius = tl.sqrt(-2.0 * tl.log(1.0 - _uniform(radius_word)))
    cos, sin = _cos_sin(6.283185307179586 * _uniform(angle_word))
    return radius * cos, radius * sin


@triton.jit(do_not_specialize=["batch", "key", "step"])
def normal_kernel(
    out_ptr,
    rows_ptr,
    batch,
    count,
    pairs,  # count / 2, rounded up
    key: tl.uint64,
    step: tl.uint32,
    SHIFT: tl.constexpr,  # the first angle's place in its block of words: pairs % 4
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tiles = tl.cdiv(pairs, 4 * BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)
    first = (program % tiles) * BLOCK
    inside = row < batch
    cosines, sines = _normals(rows_ptr, row, first, inside, pairs, key, step, SHIFT, ROWS, BLOCK)
    pair = 4 * first + tl.arange(0, 4 * BLOCK)[None, :]
    out = out_ptr + row[:, None] * count + pair
    mask = inside[:, None] & (pair < pairs)
    tl.store(out, cosines, mask=mask)
    tl.store(out + pairs, sines, mask=mask & (pairs + pair < count))


def blocks_of(output: str, count: int) -> int:
    """How many blocks of four words the programs of a sample share: for normals, those that give the radii."""
    return -(-count // 8) if output == "normal" else -(-count // 4)


def tile(blocks: int) -> tuple[int, int]:
    """Rows and blocks of words that a program handles: together one a thread."""
    block = min(triton.next_power_of_2(max(blocks, 1)), _TILE)
    return _TILE // block, block


def _launch(output: str, seed: int, purpose: str, rows: Tensor, count: int, step: int) -> Tensor:
    out = torch.empty((len(rows), count), dtype=torch.int64 if output == "words" else torch.float32, device=rows.device)
    if out.numel() == 0:
        return out
    low, high = _key(seed, purpose)
    blocks = blocks_of(output, count)
    tile_rows, tile_blocks = tile(blocks)
    grid = (triton.cdiv(len(rows), tile_rows) * triton.cdiv(blocks, tile_blocks),)
    counter = (high << 32 | low, step & _MASK)
    tiles = {"ROWS": tile_rows, "BLOCK": tile_blocks}
    if output == "normal":
        pairs = -(-count // 2)
        launch(
            normal_kernel, grid, out, rows.contiguous(), len(rows), count, pairs, *counter,
            warps=WARPS, SHIFT=pairs % 4, **tiles,
        )  # fmt: skip
    else:
        launch(
            words_kernel, grid, out, rows.contiguous(), len(rows), count, *counter,
            warps=WARPS, UNIFORM=output == "uniform", **tiles,
        )  # fmt: skip
    return out


def _arguments(example: Example, device: str, seed: int) -> dict:
    batch, count = example.shape
    return {"seed": seed, "rows": torch.arange(batch, device=device), "count": count}


def _operation(output: str, function: Callable[..., Tensor], eager: Callable[..., Tensor], *counts: int) -> Operation:
    size = 8 if output == "words" else 4
    return Operation(
        name=f"philox_{output}",
        summary=f"counter-based {output} numbers",
        arguments=_arguments,
        fused=lambda seed, rows, count: function(seed, "catalog", rows, count),
        eager=lambda seed, rows, count: eager((len(rows), count), device=rows.device),
        reference=lambda seed, rows, count: function(seed, "catalog", rows.cpu(), count),
        minimum=lambda example: (example.shape[0] * (size * example.shape[1] + 8), 0),
        wrt=(),
        examples=tuple(Example(f"{count}", (64, count)) for count in counts),
        small=tuple(Example(f"{count}", (batch, count)) for count in (1, 7, 100) for batch in (0, 1, 5)),
    )


OPERATIONS = (
    _operation("words", bits, lambda size, device: torch.randint(2**32, size, device=device), 128),
    _operation("uniform", uniform, torch.rand, 3072),  # dequantisation noise of a 32 x 32 image
    _operation("normal", normal, torch.randn, 128, 100),  # with 100 its angles don't begin at a block of words
)
