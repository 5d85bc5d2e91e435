# SPDX-License-Identifier: Apache-2.0
"""Fold N states on the sphere and pull each result toward its mean: inner products, then the results."""

from collections.abc import Sequence

import torch

import triton
import triton.language as tl

from ._gram import angle_of, gram, joined, split
from ._launch import check_grid, guard, narrow
from .slerp import arc

__all__ = ["spherical_aggregate"]

BLOCK = 1024
PARTS = 16


@triton.jit
def _entry(values, lane, wanted):
    return tl.sum(tl.where(lane == wanted, values, 0.0), 0)


@triton.jit
def _sums_of(sums, parts, product, known, PRODUCTS: tl.constexpr, PARTS: tl.constexpr):
    """Add up the partial sums of a vector of products."""
    total = tl.zeros_like(product).to(tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        at = sums + part[None, :] * PRODUCTS + product[:, None]
        total += tl.sum(tl.load(at, mask=known[:, None] & (part < parts)[None, :], other=0), 1)
    return total


@triton.jit
def _to_mean(states, shares, lane, COUNT: tl.constexpr):
    """Coefficients of the spherical mean from the states' Gram matrix [LANES, LANES]."""
    live = lane < COUNT
    norm = tl.sqrt(tl.sum(tl.where(lane[:, None] == lane[None, :], states, 0.0), 1))
    zero = tl.sum(tl.where(live & (norm == 0), 1, 0), 0) > 0
    safe = tl.where(norm == 0, 1.0, norm)
    size = tl.exp(tl.sum(tl.where(live, shares * tl.log(safe), 0.0), 0))
    cosines = states / (safe[:, None] * safe[None, :])
    c = shares
    square = tl.sum(c * tl.sum(c[:, None] * cosines, 0), 0)
    most = tl.max(tl.where(live, shares, -1.0), 0)
    heaviest = tl.min(tl.where(live & (shares == most), lane, COUNT), 0)
    lost = square < 1e-8
    c = tl.where(lost, tl.where(lane == heaviest, 1.0, 0.0), c / tl.sqrt(tl.where(lost, 1.0, square)))
    for _ in range(64):
        near = tl.sum(c[:, None] * cosines, 0)
        near = tl.where(near > 1, 1.0, tl.where(near < -1, -1.0, near))
        sine = tl.sqrt((1 - near) * (1 + near))
        flat = sine <= 1e-4
        away = angle_of(sine, near) / tl.where(flat, 1.0, sine)
        pull = tl.where(live, shares * tl.where(flat, tl.where(near > 0, 1.0, 0.0), away), 0.0)
        shift = pull - tl.sum(pull * near, 0) * c
        square = tl.sum(shift * tl.sum(shift[:, None] * cosines, 0), 0)
        still = square <= 1e-28
        far = tl.sqrt(tl.where(still, 1.0, square))
        moved = tl.cos(far) * c + tl.sin(far) / far * shift
        moved = moved / tl.sqrt(tl.sum(moved * tl.sum(moved[:, None] * cosines, 0), 0))
        c = tl.where(still, c, moved)
    return tl.where(zero | ~live, 0.0, c * size / safe)


@triton.jit
def _fold(
    sums, parts, weights, COUNT: tl.constexpr, FOLD: tl.constexpr, LANES: tl.constexpr, PARTS: tl.constexpr
):
    """Coefficients [LANES] of the folded state and squared distances [LANES] to the means of one sample."""
    HALF: tl.constexpr = COUNT * (COUNT + 1) // 2
    PRODUCTS: tl.constexpr = HALF + COUNT * COUNT + COUNT
    lane = tl.arange(0, LANES)
    pair = tl.arange(0, LANES * LANES)
    i = pair // LANES
    j = pair % LANES
    known = (i < COUNT) & (j < COUNT)
    low = tl.minimum(i, j)
    product = low * COUNT - low * (low - 1) // 2 + tl.maximum(i, j) - low
    states = _sums_of(sums, parts, product, known, PRODUCTS, PARTS)
    states = tl.reshape(states, [LANES, LANES])
    crossed = _sums_of(sums, parts, HALF + i * COUNT + j, known, PRODUCTS, PARTS)
    crossed = tl.reshape(crossed, [LANES, LANES])
    means = _sums_of(sums, parts, HALF + COUNT * COUNT + lane, lane < COUNT, PRODUCTS, PARTS)

    c = tl.where(lane == 0, 1.0, 0.0).to(tl.float64)
    if FOLD == 2:
        shares = tl.zeros([LANES], dtype=tl.float64)
        for k in tl.static_range(COUNT):
            share = joined(weights[2 * k], weights[2 * k + 1])
            shares += tl.where(lane == k, share, 0.0)
        c = _to_mean(states, shares, lane, COUNT)
    else:
        here = (lane[:, None] == 0) & (lane[None, :] == 0)
        square = tl.sum(tl.sum(tl.where(here, states, 0.0), 1), 0)
        for k in tl.static_range(1, COUNT):
            w = joined(weights[2 * k - 2], weights[2 * k - 1])
            column = tl.sum(tl.where(lane[None, :] == k, states, 0.0), 1)
            if FOLD == 1:
                old = w
                fresh = tl.sqrt(tl.maximum(1 - w * w, 0.0))
            else:
                fresh, old, norm = arc(_entry(column, lane, k), tl.sum(c * column, 0), square, w)
                square = norm * norm
            c = tl.where(lane == k, fresh, c * old)
    length = tl.sum(c * tl.sum(c[:, None] * states, 0), 0)
    dot = tl.sum(c[:, None] * crossed, 0)
    return c, tl.maximum((length - dot) + (means - dot), 0.0)


@triton.jit
def _combine(
    out,  # [COUNT, B, n]
    states,  # COUNT pointers to [B, n]
    means,  # COUNT pointers to [B, n]
    sums,  # [B, parts, products] fp64
    weights,  # high and low parts of numbers
    etas,  # [B] fp64, not read without HAS_ETAS
    eta_high,
    eta_low,
    batch,
    size,
    parts,
    blocks,
    COUNT: tl.constexpr,
    FOLD: tl.constexpr,
    OVER_BATCH: tl.constexpr,
    HAS_ETAS: tl.constexpr,
    LANES: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    lane = tl.arange(0, LANES)
    step = parts * (COUNT * (COUNT + 1) // 2 + COUNT * COUNT + COUNT)
    c, squares = _fold(sums + sample * step, parts, weights, COUNT, FOLD, LANES, PARTS)
    if OVER_BATCH:
        squares = tl.zeros([LANES], dtype=tl.float64)
        for other in range(batch):
            _, more = _fold(sums + other * step, parts, weights, COUNT, FOLD, LANES, PARTS)
            squares += more
    if HAS_ETAS:
        eta = tl.load(etas + sample)
    else:
        eta = joined(eta_high, eta_low)
    r = tl.sqrt(squares)
    go = tl.where(r <= eta, 1.0, eta / tl.where(r == 0, 1.0, r))

    place = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = sample * size + place
    merged = tl.zeros([BLOCK], dtype=tl.float64)
    for k in tl.static_range(COUNT):
        x = tl.load(states[k] + at, mask=place < size, other=0).to(tl.float64)
        merged += _entry(c, lane, k) * x
    for k in tl.static_range(COUNT):
        t = _entry(go, lane, k)
        mean = tl.load(means[k] + at, mask=place < size, other=0).to(tl.float64)
        value = narrow((1 - t) * merged + t * mean, out)
        tl.store(out + k * batch * size + at, value, mask=place < size)


def spherical_aggregate(
    out: torch.Tensor,
    states: Sequence[torch.Tensor],
    means: Sequence[torch.Tensor],
    weights: Sequence[float],
    eta: float,
    etas: torch.Tensor | None,
    fold: int,
    over_batch: bool,
) -> None:
    """Write every result: the folded state, moved toward the mean of that model.

    Args:
        out: `[N, B, ...]`, contiguous.
        states: N tensors `[B, ...]`, or one `[N, B, ...]`, contiguous.
        means: likewise.
        weights: N - 1 numbers, or N for a mean.
        eta: longest step.
        etas: `[B]` fp64, instead of eta, or None.
        fold: 0 along great circles, 1 as if every angle were right, 2 to the mean of all directions.
        over_batch: whether distances are taken over the whole batch.
    """
    count, batch = out.shape[:2]
    size = out.numel() // (count * batch)
    x, mu = (list(given if len(given) > 1 else given[0]) for given in (states, means))
    sums, parts = gram(x, mu, batch, size)
    blocks = triton.cdiv(size, BLOCK)
    high, low = split(eta)
    grid = check_grid("spherical_aggregate", batch * blocks)
    with guard(out):
        _combine[grid](
            out,
            tuple(x),
            tuple(mu),
            sums,
            tuple(half for weight in (weights or [0.0]) for half in split(weight)),
            sums if etas is None else etas,
            high,
            low,
            batch,
            size,
            parts,
            blocks,
            COUNT=count,
            FOLD=fold,
            OVER_BATCH=over_batch,
            HAS_ETAS=etas is not None,
            LANES=triton.next_power_of_2(count),
            PARTS=PARTS,
            BLOCK=BLOCK,
        )
