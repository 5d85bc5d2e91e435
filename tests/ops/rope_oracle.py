# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding once more, as the product of complex numbers in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PAIRINGS = ("interleaved", "half")


def frequencies(dim: int, axes: int, theta: float = 10000.0) -> list[list[float]]:
    shares = [dim // 2 // axes + (axis < dim // 2 % axes) for axis in range(axes)]
    return [[theta ** (-j / share) for j in range(share)] for share in shares]


def rope(
    x: Tensor,
    positions: Tensor,
    pairing: str = "interleaved",
    chosen: Sequence[Sequence[float]] | None = None,
) -> Tensor:
    """x [B, H, T, D], positions [T, n] or [B, T, n]."""
    places, dim = positions.double().cpu(), x.shape[-1]
    lists = frequencies(dim, places.shape[-1]) if chosen is None else chosen
    angles = [places[..., axis] * f for axis, one in enumerate(lists) for f in one]
    turn = torch.polar(torch.ones((), dtype=torch.float64), torch.stack(angles, -1))
    if places.dim() == 3:
        turn = turn[:, None]
    values = x.double().cpu()
    pairs = values.unflatten(-1, (-1, 2)) if pairing == "interleaved" else values.unflatten(-1, (2, -1)).mT
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return (turned if pairing == "interleaved" else turned.mT).flatten(-2)


def published(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin with doubled tables [T, D], as the public models write it."""
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine


def lattice(*axes: int) -> Tensor:
    """Positions [T, n] of a grid, row by row."""
    return torch.cartesian_prod(*map(torch.arange, axes)).view(-1, len(axes))
