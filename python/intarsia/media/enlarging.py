# SPDX-License-Identifier: Apache-2.0
"""Finished pictures, enlarged."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["enlarge"]


def enlarge(picture: Tensor, *, factor: int, loop: bool) -> Tensor:
    """Enlarge a picture with cubic interpolation; a loop stays one.

    Args:
        picture: `[3, H, W]` in [-1, 1].
        factor: a whole number; 1 returns the picture itself.
        loop: whether the right edge continues at the left one.

    Returns:
        `[3, factor H, factor W]` in [-1, 1].

    Example:
        >>> enlarge(torch.zeros(3, 2, 5), factor=2, loop=True).shape
        torch.Size([3, 4, 10])
    """
    if factor == 1:
        return picture
    margin = min(4, picture.shape[-1])
    mode = "circular" if loop else "replicate"
    wide = torch.nn.functional.pad(picture[None], (margin, margin, 0, 0), mode=mode)
    large = torch.nn.functional.interpolate(wide, scale_factor=factor, mode="bicubic", align_corners=False)
    return large[0, ..., margin * factor : large.shape[-1] - margin * factor].clamp(-1, 1)
