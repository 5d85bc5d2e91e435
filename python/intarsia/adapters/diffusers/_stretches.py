# SPDX-License-Identifier: Apache-2.0
"""Decoding a long sound in stretches: convolutions look a known way around, so the joints are exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["decode_stretches", "reach"]


def reach(vae: Any) -> int:
    """How many latents to either side a sample of an Oobleck decoder depends on.

    Each level doubles back from its output: three residual units with kernels of 7, dilated by 1, 3 and 9,
    over a transposed convolution of twice its stride; a convolution of 7 at either end.

    Args:
        vae: an AutoencoderOobleck; its strides are read.

    Returns:
        A number of latents, for strides of two or more never too small.

    Example:
        >>> from types import SimpleNamespace
        >>> reach(SimpleNamespace(upsampling_ratios=[8, 8, 4, 4, 2]))
        10
    """
    radius = 3
    for ratio in reversed(vae.upsampling_ratios):
        radius = math.ceil((radius + 3 * (1 + 3 + 9) + ratio) / ratio)
    return radius + 3


def decode_stretches(
    decode: Callable[[Tensor], Tensor], latents: Tensor, *, stretch: int, context: int, wrap: bool
) -> Tensor:
    """Decode [B, C, L] in stretches, each with its surroundings, which are then cut off.

    Args:
        decode: [B, C, l] to [B, c, l * unit].
        latents: [B, C, L].
        stretch: latents of the result at a time; the decoder sees up to `2 * context` more.
        context: latents to either side that an element depends on.
        wrap: whether the end continues at the start.

    Returns:
        [B, c, L * unit], what decoding the whole would give to rounding (around the ring where it is one).

    Example:
        >>> twice = lambda z: torch.repeat_interleave(z, 2, dim=2)
        >>> decode_stretches(twice, torch.arange(3.0).reshape(1, 1, 3), stretch=2, context=1, wrap=True)
        tensor([[[0., 0., 1., 1., 2., 2.]]])
    """
    length = latents.shape[2]
    if length <= stretch and not wrap:
        return decode(latents)
    parts = []
    for start in range(0, length, stretch):
        stop = min(start + stretch, length)
        first, last = start - context, stop + context
        if not wrap:
            first, last = max(0, first), min(length, last)
        around = torch.arange(first, last, device=latents.device) % length
        sound = decode(latents.index_select(2, around))
        unit = sound.shape[2] // (last - first)
        parts.append(sound[:, :, (start - first) * unit : (stop - first) * unit])
    return torch.cat(parts, dim=2)
