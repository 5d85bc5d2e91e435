# SPDX-License-Identifier: Apache-2.0
"""The errors allowed against a float64 truth, and how they are measured; each family brings its truths."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PEER_TOLERANCE", "TOLERANCE", "relative_error", "squares"]

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3}
PEER_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
CHUNK = 1 << 22


def squares(result: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return the sums of (result - truth)^2 and of truth^2 in float64."""
    square = norm = 0.0
    for r, t in zip(result.reshape(-1).split(CHUNK), truth.reshape(-1).split(CHUNK), strict=True):
        exact = t.double()
        square += float((r.double() - exact).square().sum())
        norm += float(exact.square().sum())
    return square, norm


def relative_error(result: Tensor, truth: Tensor) -> float:
    """Return |result - truth| / |truth| in the 2-norm, infinite for a wrong shape or a non-finite element."""
    if result.shape != truth.shape:
        return float("inf")
    if result.dtype == truth.dtype and torch.equal(result, truth):
        return 0.0
    square, norm = squares(result, truth)
    error = (square / norm) ** 0.5 if norm else float("inf")
    return error if error == error else float("inf")
