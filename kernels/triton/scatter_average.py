# SPDX-License-Identifier: Apache-2.0
"""Merge the regions into the canvas: each element gathers the regions that cover it, in the plan's order."""

from collections.abc import Sequence
from typing import Any

import torch

import triton
import triton.language as tl

from ._launch import accumulator, check_grid, guard, narrow, pad, power_of_two

__all__ = ["scatter_average", "weight_total"]

BLOCK = 256
CHANNELS = 4


@triton.jit
def _axis_offset(at, offset, size):
    # Only regions that cover `at` are listed, so a negative distance means: across the seam.
    distance = at - offset
    return tl.where(distance < 0, distance + size, distance)


@triton.jit
def _scatter_average(
    out,  # [B, C, S0, S1, S2]
    patches,  # [B, K, R, C, s0, s1, s2]
    offsets,  # [R, NDIM] int64
    cell0,  # [S0] int32
    cell1,  # [S1] int32
    cell2,  # [S2] int32
    cell_start,  # [cells + 1] int64
    cell_region,  # [pairs] int32
    weight0,  # [s0], or the full window [R|1, s0, s1, s2]
    weight1,  # [s1]
    weight2,  # [s2]
    coefficient,  # [R]
    guidance,  # [K - 1, R]
    before,  # [B, C, S0, S1, S2], the update's x
    noise,  # [B, C, S0, S1, S2]
    factors,  # [3, B]: a, b and c of the update
    terms,
    batches,
    regions,
    channels,
    canvas0,
    canvas1,
    canvas2,
    patch1,
    patch2,
    cells1,
    cells2,
    canvas_volume,
    patch_volume,
    weight_step,
    blocks,
    chunks,
    NDIM: tl.constexpr,
    SEPARABLE: tl.constexpr,
    HAS_COEFFICIENT: tl.constexpr,
    HAS_PATCHES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    GUIDED: tl.constexpr,
    UPDATED: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    program = program // blocks
    channel = (program % chunks) * CHANNELS + tl.arange(0, CHANNELS)
    batch = program // chunks
    inside = at < canvas_volume

    x2 = at % canvas2
    x1 = (at // canvas2) % canvas1
    x0 = at // canvas2 // canvas1
    cell = tl.load(cell2 + x2, mask=inside, other=0).to(tl.int64)
    if NDIM >= 2:
        cell += tl.load(cell1 + x1, mask=inside, other=0).to(tl.int64) * cells2
    if NDIM == 3:
        cell += tl.load(cell0 + x0, mask=inside, other=0).to(tl.int64) * cells1 * cells2
    begin = tl.load(cell_start + cell, mask=inside, other=0)
    count = tl.load(cell_start + cell + 1, mask=inside, other=0) - begin

    total = tl.zeros([BLOCK], dtype=ACCUMULATOR)
    result = tl.zeros([CHANNELS, BLOCK], dtype=ACCUMULATOR)
    wanted = (channel < channels)[:, None]
    step = 0
    longest = tl.max(count, 0)
    while step < longest:
        live = step < count
        region = tl.load(cell_region + begin + step, mask=live, other=0).to(tl.int64)
        axis = offsets + region * NDIM
        d2 = _axis_offset(x2, tl.load(axis + (NDIM - 1), mask=live, other=0), canvas2)
        place = d2
        if NDIM >= 2:
            d1 = _axis_offset(x1, tl.load(axis + (NDIM - 2), mask=live, other=0), canvas1)
            place += d1 * patch2
        if NDIM == 3:
            d0 = _axis_offset(x0, tl.load(axis, mask=live, other=0), canvas0)
            place += d0 * patch2 * patch1

        # One order of multiplication in every backend: ((coefficient * factor0) * factor1) * factor2.
        weight = tl.full([BLOCK], 1, dtype=ACCUMULATOR)
        if HAS_COEFFICIENT:
            weight = tl.load(coefficient + region, mask=live, other=0)
        if SEPARABLE:
            if NDIM == 3:
                weight = weight * tl.load(weight0 + d0, mask=live, other=0)
            if NDIM >= 2:
                weight = weight * tl.load(weight1 + d1, mask=live, other=0)
            weight = weight * tl.load(weight2 + d2, mask=live, other=0)
        else:
            weight = weight * tl.load(weight0 + region * weight_step + place, mask=live, other=0)

        if HAS_PATCHES:
            row = (((batch * terms + terms - 1) * regions + region) * channels)[None, :] + channel[:, None]
            covered = wanted & live[None, :]
            source = patches + row * patch_volume + place[None, :]
            value = tl.load(source, mask=covered, other=0).to(ACCUMULATOR)
            if GUIDED:
                last = value
                term = 0
                while term < terms - 1:
                    back = (terms - 1 - term) * regions * channels * patch_volume
                    answer = tl.load(source - back, mask=covered, other=0).to(ACCUMULATOR)
                    scale = tl.load(guidance + term * regions + region, mask=live, other=0)
                    value += scale[None, :] * (answer - last)
                    term += 1
            result += weight[None, :] * value
        total += weight
        step += 1

    if HAS_PATCHES:
        if NORMALIZE:
            usable = (total > 0) & (total < float("inf"))
            total = tl.where(usable, total, float("nan"))
            if ACCUMULATOR == tl.float64:
                reciprocal = 1.0 / total
            else:
                reciprocal = tl.div_rn(1.0, total)
            result = result * reciprocal[None, :]
        element = (batch * channels + channel)[:, None] * canvas_volume + at[None, :]
        here = wanted & inside[None, :]
        if UPDATED:
            x = tl.load(before + element, mask=here, other=0).to(ACCUMULATOR)
            result = tl.load(factors + batches + batch) * result + tl.load(factors + batch) * x
            if HAS_NOISE:
                drawn = tl.load(noise + element, mask=here, other=0).to(ACCUMULATOR)
                result += tl.load(factors + 2 * batches + batch) * drawn
        tl.store(out + element, narrow(result, out), mask=here)
    else:
        tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def _launch(
    function: str,
    out: torch.Tensor,
    patches: torch.Tensor | None,
    plan: Any,
    weight: Sequence[torch.Tensor],
    normalize: bool,
    coefficient: torch.Tensor | None,
    fusion: Any = None,
) -> None:
    if out.numel() == 0:
        return
    canvas_size, patch_size = pad(plan.canvas_size), pad(plan.patch_size)
    cells = pad([edges.numel() - 1 for edges in plan.edges])
    canvas_volume = canvas_size[0] * canvas_size[1] * canvas_size[2]
    patch_volume = patch_size[0] * patch_size[1] * patch_size[2]
    separable = weight[0].ndim == 1 and len(weight) == len(plan.canvas_size)
    shared = not separable and weight[0].shape[0] == 1
    batch, channels = (1, 1) if patches is None else out.shape[:2]
    block, group = power_of_two(canvas_volume, BLOCK), power_of_two(channels, CHANNELS)
    blocks, chunks = triton.cdiv(canvas_volume, block), triton.cdiv(channels, group)
    grid = check_grid(function, batch * chunks * blocks)
    guided = fusion is not None and fusion.guidance is not None
    updated = fusion is not None and fusion.x is not None
    noisy = updated and fusion.noise is not None
    dense = accumulator(out.dtype if patches is None else patches.dtype)
    with guard(out):
        _scatter_average[grid](
            out,
            out if patches is None else patches,
            plan.offsets,
            *pad(plan.axis_cell, plan.axis_cell[0]),
            plan.cell_start,
            plan.cell_region,
            *(pad(weight, weight[0]) if separable else [weight[0]] * 3),
            weight[0] if coefficient is None else coefficient,
            fusion.guidance if guided else weight[0],
            fusion.x if updated else out,
            fusion.noise if noisy else out,
            _factors(fusion, batch, weight[0]) if updated else weight[0],
            patches.shape[1] if guided else 1,
            batch,
            plan.num_regions,
            channels,
            *canvas_size,
            *patch_size[1:],
            *cells[1:],
            canvas_volume,
            patch_volume,
            0 if shared else patch_volume,
            blocks,
            chunks,
            NDIM=len(plan.canvas_size),
            SEPARABLE=separable,
            HAS_COEFFICIENT=coefficient is not None,
            HAS_PATCHES=patches is not None,
            NORMALIZE=normalize,
            GUIDED=guided,
            UPDATED=updated,
            HAS_NOISE=noisy,
            ACCUMULATOR=dense,
            CHANNELS=group,
            BLOCK=block,
            enable_fp_fusion=False,
        )


def _factors(fusion: Any, batch: int, like: torch.Tensor) -> torch.Tensor:
    # As a tensor, because Triton passes a Python float as fp32.
    factors = torch.empty(3, batch, dtype=like.dtype, device=like.device)
    for row, number in zip(factors, (fusion.a, fusion.b, fusion.c), strict=True):
        row.fill_(number)
    for row, each in zip(factors, (fusion.a_each, fusion.b_each), strict=False):
        if each is not None:
            row.mul_(each)
    return factors


def scatter_average(
    out: torch.Tensor,
    patches: torch.Tensor,
    plan: Any,
    weight: Sequence[torch.Tensor],
    normalize: bool,
    coefficient: torch.Tensor | None,
    fusion: Any = None,
) -> None:
    """Write the weighted sum, or mean, of the patches that cover each canvas element.

    Args:
        out: `[B, C, *S]`, contiguous.
        patches: `[B, R, C, *s]`, contiguous; `[B, K, R, C, *s]` under guidance.
        plan: geometry and covering lists, on the patches' device.
        weight: one full window `[R|1, *s]`, or n factors `[s_i]`; fp32 (fp64 for fp64 patches).
        normalize: divide by the sum of the weights; where that is not positive the result is NaN.
        coefficient: `[R]` in the weight's dtype, or None for 1.
        fusion: guidance `[K - 1, R]`, and the update `a x + b D + c noise`; see `intarsia.ops._fusion`.
    """
    _launch("scatter_average", out, patches, plan, weight, normalize, coefficient, fusion)


def weight_total(
    out: torch.Tensor, plan: Any, weight: Sequence[torch.Tensor], coefficient: torch.Tensor | None
) -> None:
    """Write the sum of `coefficient[r] * weight[r]` over the regions that cover each canvas element.

    Args:
        out: `[*S]`, fp32 or fp64, contiguous.
        plan: geometry and covering lists, on the weight's device.
        weight: one full window `[R|1, *s]`, or n factors `[s_i]`.
        coefficient: `[R]` in the weight's dtype, or None for 1.
    """
    _launch("weight_total", out, None, plan, weight, False, coefficient)
