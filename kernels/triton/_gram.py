# SPDX-License-Identifier: Apache-2.0
"""Inner products of a few vectors in fp64, as partial sums; and angles from sine and cosine."""

from collections.abc import Sequence

import torch

import triton
import triton.language as tl

from ._launch import check_grid, guard

__all__ = ["BLOCK", "MOST_PARTS", "angle_of", "gram", "joined", "power", "split"]

BLOCK = 512
MOST_PARTS = 64


@triton.jit
def _product(sums, one, other, first, last, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(first, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        a = tl.load(one + at, mask=at < last, other=0).to(tl.float64)
        b = tl.load(other + at, mask=at < last, other=0).to(tl.float64)
        total += a * b
    tl.store(sums, tl.sum(total, 0))


@triton.jit
def _gram(
    sums,  # [B, parts, products] fp64
    states,  # COUNT pointers to [B, n]
    means,  # COUNT pointers to [B, n], not read without MEANS
    size,
    parts,
    length,
    COUNT: tl.constexpr,
    MEANS: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // parts
    first = sample * size + (program % parts) * length
    last = tl.minimum(first + length, (sample + 1) * size)
    to = sums + program * PRODUCTS
    HALF: tl.constexpr = COUNT * (COUNT + 1) // 2
    for i in tl.static_range(COUNT):
        for j in tl.static_range(i, COUNT):
            _product(to + i * COUNT - i * (i - 1) // 2 + j - i, states[i], states[j], first, last, BLOCK)
        if MEANS:
            for j in tl.static_range(COUNT):
                _product(to + HALF + i * COUNT + j, states[i], means[j], first, last, BLOCK)
            _product(to + HALF + COUNT * COUNT + i, means[i], means[i], first, last, BLOCK)


@triton.jit
def power(base, exponent):
    """Base ** exponent for base > 0."""
    return tl.exp(exponent * tl.log(base))


@triton.jit
def angle_of(sine, cosine):
    """The angle in [0, pi]; every step of Newton's method triples the number of right digits."""
    quarter: tl.constexpr = 1.5707963267948966
    angle = quarter * sine / (sine + tl.abs(cosine))
    angle = tl.where(cosine < 0, 2 * quarter - angle, angle)
    for _ in tl.static_range(3):
        angle += sine * tl.cos(angle) - cosine * tl.sin(angle)
    return angle


@triton.jit
def joined(high, low):
    """The number that `split` took apart."""
    return tl.full([], 0, tl.float64) + high + low


def split(value: float) -> tuple[float, float]:
    """Split a number into two of single precision, as which Triton passes it, that add up to it."""
    value = min(value, 1e38)
    high = float(torch.tensor(value, dtype=torch.float32))
    return high, value - high


def gram(
    states: Sequence[torch.Tensor], means: Sequence[torch.Tensor], batch: int, size: int
) -> tuple[torch.Tensor, int]:
    """Return partial inner products `[B, parts, products]` of states and means `[B, n]`, and `parts`."""
    count = len(states)
    products = count * (count + 1) // 2 + (count * count + count if means else 0)
    parts = min(MOST_PARTS, triton.cdiv(size, BLOCK))
    length = triton.cdiv(triton.cdiv(size, parts), BLOCK) * BLOCK
    sums = torch.empty(batch, parts, products, dtype=torch.float64, device=states[0].device)
    grid = check_grid("gram", batch * parts)
    with guard(sums):
        _gram[grid](
            sums,
            tuple(states),
            tuple(means or states),
            size,
            parts,
            length,
            COUNT=count,
            MEANS=bool(means),
            PRODUCTS=products,
            BLOCK=BLOCK,
        )
    return sums, parts
