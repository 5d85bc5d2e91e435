# SPDX-License-Identifier: Apache-2.0
"""Interpolation on the sphere by the compiled CPU kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.ops._compiled import _C

_slerp, _aggregate = _C.cpu.slerp, _C.cpu.spherical_aggregate


def slerp(out: Tensor, x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> None:
    """Out [B, ...] from x0 and x1 [B, ...] at w, or at ws [B] float64."""
    _slerp(out, x0, x1, w, ws, None, torch.get_num_threads())


def spherical_aggregate(
    out: Tensor,
    states: Sequence[Tensor],
    means: Sequence[Tensor],
    weights: Sequence[float],
    eta: float,
    etas: Tensor | None,
    fold: int,
    over_batch: bool,
) -> None:
    """Out [N, B, ...] from states and means (N tensors, or one [N, B, ...]) and etas [B] float64."""
    _aggregate(out, states, means, weights, eta, etas, fold, over_batch, None, torch.get_num_threads())
