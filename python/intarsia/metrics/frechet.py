# SPDX-License-Identifier: Apache-2.0
"""Frechet distance between two sets in the space of a fixed random network: nothing to download."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["frechet_distance", "random_features"]


def random_features(windows: Tensor, *, count: int = 32, seed: int = 0) -> Tensor:
    """Features of windows by a fixed random convolutional network.

    Three convolutions of stride 2 with random weights, each followed by a leaky rectifier; the mean and the
    standard deviation over the cells of the last one are the features.

    Args:
        windows: `[N, C, T]` floating, channels of comparable scale; T at least 16.
        count: features of a window, even.
        seed: of the network: only features of one seed, C and count can be compared.

    Returns:
        `[N, count]` float64.

    Raises:
        ValueError: windows of another rank or shorter than 16, or a count that is odd or not positive.

    Note:
        Random features tell distributions apart as trained ones do, but weigh differences otherwise: they
        rank methods on one data set, and mean nothing beside other papers' FID.

    Source:
        Heusel et al. 2017 (Frechet distance of features); Naeem et al. 2020 (random networks as features).

    Example:
        >>> random_features(torch.zeros(5, 3, 32)).shape
        torch.Size([5, 32])
    """
    if windows.ndim != 3 or windows.shape[2] < 16 or count < 2 or count % 2:
        raise ValueError(
            "random_features: windows must be [N, C, T >= 16] and count even, got "
            f"{tuple(windows.shape)} and {count}. Cut longer windows."
        )
    generator = torch.Generator().manual_seed(seed)
    x, widths = windows.double().cpu(), (4 * count, 4 * count, count // 2)
    for width in widths:
        fan = x.shape[1] * 5
        weight = (
            torch.randn(width, x.shape[1], 5, generator=generator, dtype=torch.float64) * (2 / fan) ** 0.5
        )
        x = F.leaky_relu(F.conv1d(x, weight, stride=2, padding=2), 0.2)
    return torch.cat([x.mean(2), x.std(2)], 1)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`.

    Args:
        first: `[N, D]` floating; N should be several times D.
        second: `[M, D]` floating.

    Returns:
        The distance, 0 for sets of equal means and covariances.

    Raises:
        ValueError: sets of different D, of fewer than two rows, or not finite.

    Note:
        Computed in float64. Small sets seem farther apart than they are: compare only sets of equal sizes.

    Example:
        >>> x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + torch.tensor([3.0, 0, 0, 0])), 4)
        9.0
    """
    one, two = first.double().cpu(), second.double().cpu()
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1] or min(len(one), len(two)) < 2:
        raise ValueError(
            f"frechet_distance: first and second must be [N, D] and [M, D] with N, M > 1, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}. Use random_features of one seed."
        )
    if not (one.isfinite().all() and two.isfinite().all()):
        raise ValueError("frechet_distance: first and second must be finite, got NaN or infinity. Drop them.")
    c1, c2 = torch.cov(one.T).reshape(one.shape[1], -1), torch.cov(two.T).reshape(one.shape[1], -1)
    size, axes = torch.linalg.eigh(c1)
    root = axes * size.clamp_min(0).sqrt() @ axes.T
    # The eigenvalues of C1 C2 are those of the symmetric product.
    mixed = torch.linalg.eigvalsh(root @ c2 @ root).clamp_min(0).sqrt().sum()
    distance = (one.mean(0) - two.mean(0)).square().sum() + c1.trace() + c2.trace() - 2 * mixed
    return max(0.0, float(distance))
