# SPDX-License-Identifier: Apache-2.0
"""Interpolate between two vectors along the great circle: inner products, then the result."""

import torch

import triton
import triton.language as tl

from ._gram import MOST_PARTS, angle_of, gram, joined, power, split
from ._launch import check_grid, guard, narrow

__all__ = ["arc", "slerp"]

BLOCK = 1024


@triton.jit
def arc(g00, g01, g11, w):
    """How much of two vectors is in their interpolation, from inner products; and its norm."""
    n0 = tl.sqrt(g00)
    n1 = tl.sqrt(g11)
    dead = (n0 == 0) | (n1 == 0)
    safe0 = tl.where(n0 == 0, 1.0, n0)
    safe1 = tl.where(n1 == 0, 1.0, n1)
    norm = tl.where(dead, 0.0, power(safe0, 1 - w) * power(safe1, w))
    cosine = g01 / (safe0 * safe1)
    cosine = tl.where(cosine > 1, 1.0, tl.where(cosine < -1, -1.0, cosine))
    sine = tl.sqrt((1 - cosine) * (1 + cosine))
    flat = sine < 1e-4
    turn = tl.where(flat, 1.0, sine)
    angle = angle_of(sine, cosine)
    length = tl.sqrt(tl.where(cosine > 0, (1 - w) * (1 - w) + w * w + 2 * w * (1 - w) * cosine, 1.0))
    nearer = tl.where(w <= 0.5, 1.0, 0.0)
    first = tl.where(cosine > 0, (1 - w) / length, nearer)
    second = tl.where(cosine > 0, w / length, 1 - nearer)
    first = norm / safe0 * tl.where(flat, first, tl.sin((1 - w) * angle) / turn)
    second = norm / safe1 * tl.where(flat, second, tl.sin(w * angle) / turn)
    first = tl.where(w == 0, 1.0, tl.where(w == 1, 0.0, first))
    second = tl.where(w == 0, 0.0, tl.where(w == 1, 1.0, second))
    norm = tl.where(w == 0, n0, tl.where(w == 1, n1, norm))
    return first, second, norm


@triton.jit
def _slerp(
    out,  # [B, n]
    x0,  # [B, n]
    x1,  # [B, n]
    sums,  # [B, parts, 3] fp64
    ws,  # [B] fp64, not read without HAS_WS
    w_high,
    w_low,
    size,
    parts,
    blocks,
    HAS_WS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    if HAS_WS:
        w = tl.load(ws + sample)
    else:
        w = joined(w_high, w_low)
    part = tl.arange(0, PARTS)
    row = sums + (sample * parts + part) * 3
    g00 = tl.sum(tl.load(row, mask=part < parts, other=0), 0)
    g01 = tl.sum(tl.load(row + 1, mask=part < parts, other=0), 0)
    g11 = tl.sum(tl.load(row + 2, mask=part < parts, other=0), 0)
    first, second, _ = arc(g00, g01, g11, w)
    place = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = sample * size + place
    a = tl.load(x0 + at, mask=place < size, other=0).to(tl.float64)
    b = tl.load(x1 + at, mask=place < size, other=0).to(tl.float64)
    value = tl.where(w == 0, a, tl.where(w == 1, b, first * a + second * b))
    tl.store(out + at, narrow(value, out), mask=place < size)


def slerp(out: torch.Tensor, x0: torch.Tensor, x1: torch.Tensor, w: float, ws: torch.Tensor | None) -> None:
    """Write the interpolation of every sample.

    Args:
        out: `[B, ...]`, contiguous.
        x0: `[B, ...]`, contiguous.
        x1: `[B, ...]`, contiguous.
        w: share of x1.
        ws: `[B]` fp64 shares, instead of w, or None.
    """
    batch = out.shape[0]
    size = out.numel() // batch
    sums, parts = gram([x0, x1], [], batch, size)
    blocks = triton.cdiv(size, BLOCK)
    high, low = split(w)
    grid = check_grid("slerp", batch * blocks)
    with guard(out):
        _slerp[grid](
            out,
            x0,
            x1,
            sums,
            sums if ws is None else ws,
            high,
            low,
            size,
            parts,
            blocks,
            HAS_WS=ws is not None,
            PARTS=MOST_PARTS,
            BLOCK=BLOCK,
        )
