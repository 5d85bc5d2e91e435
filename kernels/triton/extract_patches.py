# SPDX-License-Identifier: Apache-2.0
"""Cut every region out of the canvas, scale it and cast it, in one launch."""

from typing import Any

import torch

import triton
import triton.language as tl

from ._launch import accumulator, check_grid, guard, narrow, pad, power_of_two

__all__ = ["extract_patches"]

BLOCK = 1024
CHANNELS = 4


@triton.jit
def _extract_patches(
    out,  # [B, K, R, C, s0, s1, s2]
    canvas,  # [B, C, S0, S1, S2]
    offsets,  # [R, NDIM] int64
    scale,  # [B]
    regions,
    channels,
    canvas0,
    canvas1,
    canvas2,
    patch1,
    patch2,
    canvas_volume,
    patch_volume,
    blocks,
    chunks,
    copies,
    NDIM: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    WORK: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    program = program // blocks
    channel = (program % chunks) * CHANNELS + tl.arange(0, CHANNELS)
    program = program // chunks
    region = program % regions
    batch = program // regions

    x2 = at % patch2 + tl.load(offsets + region * NDIM + (NDIM - 1))
    source = tl.where(x2 >= canvas2, x2 - canvas2, x2)
    if NDIM >= 2:
        x1 = (at // patch2) % patch1 + tl.load(offsets + region * NDIM + (NDIM - 2))
        source += tl.where(x1 >= canvas1, x1 - canvas1, x1) * canvas2
    if NDIM == 3:
        x0 = at // patch2 // patch1 + tl.load(offsets + region * NDIM)
        source += tl.where(x0 >= canvas0, x0 - canvas0, x0) * canvas1 * canvas2

    live = (channel < channels)[:, None] & (at < patch_volume)[None, :]
    value = tl.load(
        canvas + (batch * channels + channel)[:, None] * canvas_volume + source[None, :], mask=live, other=0
    )
    if HAS_SCALE:
        value = value.to(WORK) * tl.load(scale + batch).to(WORK)
    result = narrow(value, out)
    copy = 0
    while copy < copies:
        row = ((batch * copies + copy) * regions + region) * channels + channel
        tl.store(out + row[:, None] * patch_volume + at[None, :], result, mask=live)
        copy += 1


def extract_patches(out: torch.Tensor, canvas: torch.Tensor, plan: Any, scale: torch.Tensor | None) -> None:
    """Write `out[b, r, c, d] = scale[b] * canvas[b, c, offset[r] + d]`.

    Args:
        out: `[B, R, C, *s]`, or `[B, K, R, C, *s]` for K copies, contiguous; receives the patches in its own
            dtype.
        canvas: `[B, C, *S]`, contiguous.
        plan: geometry of the regions, on the canvas' device.
        scale: `[B]`, fp32 (fp64 for an fp64 canvas), or None for 1.
    """
    if out.numel() == 0:
        return
    copies = out.shape[1] if out.ndim == canvas.ndim + 2 else 1
    (batch, channels), regions = canvas.shape[:2], plan.num_regions
    canvas_size, patch_size = pad(canvas.shape[2:]), pad(plan.patch_size)
    canvas_volume = canvas_size[0] * canvas_size[1] * canvas_size[2]
    patch_volume = patch_size[0] * patch_size[1] * patch_size[2]
    block, group = power_of_two(patch_volume, BLOCK), power_of_two(channels, CHANNELS)
    blocks, chunks = triton.cdiv(patch_volume, block), triton.cdiv(channels, group)
    grid = check_grid("extract_patches", batch * regions * chunks * blocks)
    with guard(out):
        _extract_patches[grid](
            out,
            canvas,
            plan.offsets,
            canvas if scale is None else scale,
            regions,
            channels,
            *canvas_size,
            *patch_size[1:],
            canvas_volume,
            patch_volume,
            blocks,
            chunks,
            copies,
            NDIM=canvas.ndim - 2,
            HAS_SCALE=scale is not None,
            WORK=accumulator(canvas.dtype),
            CHANNELS=group,
            BLOCK=block,
            enable_fp_fusion=False,
        )
