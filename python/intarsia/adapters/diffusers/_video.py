# SPDX-License-Identifier: Apache-2.0
"""Decoding a video: whole in time, in overlapping pieces of its pictures, closed where the canvas is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia import layout
from intarsia.adapters.diffusers._finite import Finite
from intarsia.adapters.diffusers._pieces import cover

__all__ = ["decode_video", "memory_of"]


def memory_of(vae: Any) -> int:
    """How many latents before its own a frame of Wan's causal decoder depends on.

    Each convolution in time looks two frames back; a level has two in each of its residual units, and one
    more where it doubles the frames.

    Args:
        vae: an AutoencoderKLWan; its configuration is read.

    Returns:
        A number of latents.

    Example:
        >>> from types import SimpleNamespace
        >>> wan = SimpleNamespace(num_res_blocks=2, temperal_downsample=[False, True, True], dim_mult=[1] * 4)
        >>> memory_of(SimpleNamespace(config=wan))
        38
    """
    config = vae.config
    doubles = [*config.temperal_downsample[::-1], False]
    frames = 2
    for doubled in reversed(doubles[: len(config.dim_mult)]):
        if doubled:
            frames = math.ceil(frames / 2) + 2
        frames += 4 * (config.num_res_blocks + 1)
    return frames + 8 + 2


def decode_video(
    vae: Any,
    latents: Tensor,
    *,
    unit: Sequence[int],
    patch: Sequence[int],
    overlap: Sequence[int],
    wrap: Sequence[bool],
) -> Tensor:
    """Decode [B, C, F, h, w].

    Args:
        vae: an AutoencoderKLWan: causal, its first latent is one frame, every other one `unit[0]`.
        latents: [B, C, F, h, w], raw.
        unit: (frames, rows, columns) of a latent.
        patch: (rows, columns), latents of the largest piece; time is not cut, because the decoder goes
            through it latent by latent with bounded memory.
        overlap: (rows, columns), latents that neighbouring pieces share, at least.
        wrap: which axes are closed. A loop in time is begun as many latents early as the decoder remembers,
            which are cut off; so frame 0 follows the last one as any frame follows another.

    Returns:
        [B, 3, frames, H, W], where frames are `unit[0] * (F - 1) + 1`, or `unit[0] * F` in a loop.

    Note:
        Pieces are averaged under a triangle, in float32; the decoder's attention sees one piece. Memory
        beyond the decoder's own for one piece: the result, and one piece of it.

    Example:
        >>> from types import SimpleNamespace
        >>> vae = SimpleNamespace(decode=lambda z, return_dict: (z,))
        >>> still = torch.zeros(1, 3, 1, 4, 4)
        >>> decode_video(vae, still, unit=(4, 1, 1), patch=(4, 4), overlap=(1, 1), wrap=(False,) * 3).shape
        torch.Size([1, 3, 1, 4, 4])
    """
    decode = Finite("decode", vae, lambda z: vae.decode(z, return_dict=False)[0])
    if wrap[0]:
        early, length = memory_of(vae), latents.shape[2]
        around = torch.arange(-early, length, device=latents.device) % length
        latents = latents.index_select(2, around)
    frames = _decode_pictures(decode, latents, unit, patch, overlap, wrap[1:])
    decode.report()
    if wrap[0]:
        # Latent 0 shares its frames with the end of the loop: the last of them is frame 0.
        return frames[:, :, -unit[0] * length :].roll(1 - unit[0], 2)
    return frames


def _decode_pictures(
    decode: Callable[[Tensor], Tensor],
    latents: Tensor,
    unit: Sequence[int],
    patch: Sequence[int],
    overlap: Sequence[int],
    wrap: Sequence[bool],
) -> Tensor:
    size = tuple(latents.shape[3:])
    if not any(wrap) and all(length <= most for length, most in zip(size, patch, strict=True)):
        return decode(latents)
    pieces = cover(size, patch, overlap, wrap)
    high = torch.promote_types(latents.dtype, torch.float32)
    fine = [extent * u for extent, u in zip(pieces.patch, unit[1:], strict=True)]
    rows, columns = layout.triangle(fine, dtype=high, device=latents.device)
    weight = rows[:, None] * columns
    height, width = (length * u for length, u in zip(size, unit[1:], strict=True))
    total = torch.zeros(height, width, dtype=high, device=latents.device)
    video: Tensor | None = None
    for at in pieces.offsets.tolist():
        answer = decode(latents[(..., *_places(at, pieces.patch, size))])
        if video is None:
            video = torch.zeros(*answer.shape[:3], height, width, dtype=high, device=answer.device)
        begin = [offset * u for offset, u in zip(at, unit[1:], strict=True)]
        y, x = _places(begin, fine, (height, width))
        video[..., y, x] += answer.to(high) * weight
        total[y, x] += weight
    assert video is not None
    return video.div_(total)


def _places(at: Sequence[int], extent: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows [h, 1] and columns [w] of a box, around the edges where it passes them."""
    rows, columns = (torch.arange(o, o + e) % s for o, e, s in zip(at, extent, size, strict=True))
    return rows[:, None], columns
