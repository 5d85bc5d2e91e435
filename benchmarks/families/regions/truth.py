# SPDX-License-Identifier: Apache-2.0
"""Float64 truths of extraction and averaging: plain loops written from the definitions."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType

import torch
from torch import Tensor

__all__ = ["average", "extract", "total"]

Place = tuple[slice | EllipsisType, ...]


def _places(starts: Sequence[Sequence[int]], patch: Sequence[int]) -> list[Place]:
    return [(..., *(slice(o, o + s) for o, s in zip(start, patch, strict=True))) for start in starts]


def extract(canvas: Tensor, starts: Sequence[Sequence[int]], patch: Sequence[int]) -> Tensor:
    """Return the patches [B, R, C, *s] of a canvas [B, C, *S], in the canvas' dtype: a crop loses nothing."""
    return torch.stack([canvas[place] for place in _places(starts, patch)], dim=1)


def total(starts: Sequence[Sequence[int]], weight: Tensor, size: Sequence[int]) -> Tensor:
    """Return the sum of the weights over the regions, [*S] float64."""
    out = torch.zeros(tuple(size), dtype=torch.float64, device=weight.device)
    for place in _places(starts, weight.shape):
        out[place] += weight.double()
    return out


def average(patches: Tensor, starts: Sequence[Sequence[int]], weight: Tensor, size: Sequence[int]) -> Tensor:
    """Return the weighted mean of the patches [B, R, C, *s] on the canvas, [B, C, *S] float64."""
    shape = (patches.shape[0], patches.shape[2], *size)
    out = torch.zeros(shape, dtype=torch.float64, device=patches.device)
    for r, place in enumerate(_places(starts, weight.shape)):
        out[place] += patches[:, r].double() * weight.double()
    return out / total(starts, weight, size)
