# SPDX-License-Identifier: Apache-2.0
"""Interpolation on the sphere by the compiled CUDA kernels: two launches, and memory for partial sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.ops._compiled import _C

_slerp, _aggregate, _parts = _C.cuda.slerp, _C.cuda.spherical_aggregate, _C.cuda.gram_parts


def _sums(out: Tensor, batch: int, size: int, products: int) -> Tensor:
    return torch.empty(batch * _parts(size) * products, dtype=torch.float64, device=out.device)


def slerp(out: Tensor, x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> None:
    """Out [B, ...] from x0 and x1 [B, ...] at w, or at ws [B] float64."""
    batch = out.shape[0]
    with torch.cuda.device(out.device):
        sums = _sums(out, batch, out.numel() // batch, 3)
        _slerp(out, x0, x1, w, ws, sums, torch.cuda.current_stream(out.device).cuda_stream)


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
    count, batch = out.shape[:2]
    products = count * (count + 1) // 2 + count * count + count
    with torch.cuda.device(out.device):
        sums = _sums(out, batch, out.numel() // (count * batch), products)
        stream = torch.cuda.current_stream(out.device).cuda_stream
        _aggregate(out, states, means, weights, eta, etas, fold, over_batch, sums, stream)
