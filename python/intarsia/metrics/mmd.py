# SPDX-License-Identifier: Apache-2.0
"""Maximum mean discrepancy between two sets of points, kernel and estimator stated."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["mmd"]


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: float,
    estimator: Literal["biased", "unbiased"] = "biased",
    rows: int = 1024,
) -> float:
    """Return the squared maximum mean discrepancy with the kernel `exp(-||a - b||^2 / (2 bandwidth^2))`.

    "biased": means over all pairs, a point with itself included; at least 0, and about 2/N for two sets of N
    from one density that is wide beside the kernel. "unbiased": without those pairs; about 0 then, at times
    below.

    Args:
        x: [N, D], floating.
        y: [M, D], like `x`.
        bandwidth: standard deviation of the kernel, in the units of the points.
        estimator: which of the two.
        rows: of the kernel's matrix that are held at once.

    Returns:
        MMD^2, computed in float64. Its logarithm is what papers print.

    Raises:
        ValueError: shapes that do not fit, a bandwidth of 0, too few points, or another estimator.

    Note:
        A value means nothing without kernel, bandwidth, estimator and N: for samples of the right density it
        is a noise floor that N sets.

    Source:
        Gretton et al. 2012, "A kernel two-sample test", equations 3 and 5.

    Example:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> mmd(x, x, bandwidth=1.0) < 1e-12 < mmd(x, x + 1, bandwidth=1.0)
        True
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"mmd: x and y must be [N, D] and [M, D] with at least two points, got {list(x.shape)} and "
            f"{list(y.shape)}. Flatten what has more axes."
        )
    if not bandwidth > 0:
        raise ValueError(f"mmd: bandwidth must be above 0, got {bandwidth}. It is in the points' units.")
    if estimator not in ("biased", "unbiased"):
        raise ValueError(
            f"mmd: estimator must be 'biased' or 'unbiased', got {estimator!r}. Say which when you print it."
        )
    x, y = x.double(), y.double()

    def mean(a: Tensor, b: Tensor, same: bool) -> Tensor:
        parts = [
            torch.exp(-torch.cdist(part, b).square() / (2 * bandwidth**2)).sum() for part in a.split(rows)
        ]
        total, count = torch.stack(parts).sum(), len(a) * len(b)
        if same and estimator == "unbiased":
            return (total - len(a)) / (count - len(a))
        return total / count

    return float(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))
