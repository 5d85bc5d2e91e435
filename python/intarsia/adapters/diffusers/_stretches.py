# SPDX-License-Identifier: Apache-2.0
"""A long sound through its VAE in stretches: convolutions look a known way around, so joints are exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["in_stretches", "reach"]


def reach(vae: Any) -> int:
    """How many latents to either side an Oobleck decoder, or encoder, looks.

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


def in_stretches(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    stretch: int,
    context: int,
    wrap: bool,
    given: int = 1,
) -> Tensor:
    """Call a convolutional network on stretches, each with its surroundings, which are then cut off.

    Args:
        network: [B, C, l * given] to [B, c, l * unit].
        x: [B, C, L * given].
        stretch: latents of the result at a time; the network sees up to `2 * context` more.
        context: latents to either side that an element depends on.
        wrap: whether the end continues at the start.
        given: elements of `x` per latent.

    Returns:
        [B, c, L * unit], what the whole would give to rounding (around the ring where it is one).

    Example:
        >>> twice = lambda z: torch.repeat_interleave(z, 2, dim=2)
        >>> in_stretches(twice, torch.arange(3.0).reshape(1, 1, 3), stretch=2, context=1, wrap=True)
        tensor([[[0., 0., 1., 1., 2., 2.]]])
    """
    length = x.shape[2] // given
    if length <= stretch and not wrap:
        return network(x)
    parts = []
    for start in range(0, length, stretch):
        stop = min(start + stretch, length)
        first, last = start - context, stop + context
        if not wrap:
            first, last = max(0, first), min(length, last)
        around = torch.arange(first * given, last * given, device=x.device) % (length * given)
        answer = network(x.index_select(2, around))
        unit = answer.shape[2] // (last - first)
        parts.append(answer[:, :, (start - first) * unit : (stop - first) * unit])
    return torch.cat(parts, dim=2)
