# SPDX-License-Identifier: Apache-2.0
"""The densities of Table 1 of Reduce, Reuse, Recycle, exact at every noise level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from intarsia import compose, denoisers
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class Task:
    """A composed density in the plane.

    Attributes:
        name: of the row.
        parts: energies of the two components at level sigma, up to nothing: normalised.
        composed: the operator.
        log_density: of clean points [N, 2], normalised.
        draw: perfect samples.
        modes: [K, 2] centres.
    """

    name: str
    parts: tuple[denoisers.Potential, ...]
    composed: Any
    log_density: Callable[[Tensor], Tensor]
    draw: Callable[[int, torch.Generator], Tensor]
    modes: Tensor

    def optimum(self, count: int = 400_000) -> float:
        """The log-likelihood of perfect samples."""
        return float(self.log_density(self.draw(count, torch.Generator().manual_seed(0))).mean())


def gaussians(means: Tensor, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Log density of equal isotropic Gaussians at points [N, 2], noised by sigma [N]."""

    def log_density(x: Tensor, sigma: Tensor) -> Tensor:
        variance = std**2 + sigma[:, None] ** 2
        apart = (x[:, None] - means.to(x)).square().sum(2)
        logs = -apart / (2 * variance) - torch.log(2 * math.pi * variance)
        return torch.logsumexp(logs, 1) - math.log(len(means))

    return log_density


def box(half: tuple[float, float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Log density of a uniform box around the origin at points [N, 2], noised by sigma [N]."""

    def along(x: Tensor, sigma: Tensor, width: float) -> Tensor:
        far = x.abs()
        upper = torch.special.log_ndtr((width - far) / sigma)
        lower = torch.special.log_ndtr((-width - far) / sigma)
        return upper + torch.log1p(-torch.exp((lower - upper).clamp(max=-1e-12))) - math.log(2 * width)

    def log_density(x: Tensor, sigma: Tensor) -> Tensor:
        return along(x[:, 0], sigma, half[0]) + along(x[:, 1], sigma, half[1])

    return log_density


def potential(log_density: Callable[[Tensor, Tensor], Tensor]) -> denoisers.Potential:
    """A density of points as a denoiser of canvases [N, 2, 1]."""
    return denoisers.Potential(lambda x, sigma, cond=None: -log_density(x[..., 0], sigma))


def product(half_width: float = 0.1, std: float = 0.03) -> Task:
    """A ring of eight Gaussians of radius 0.5 times a bar."""
    angle = torch.arange(8, dtype=F64) * math.pi / 4
    means = 0.5 * torch.stack([angle.cos(), angle.sin()], 1)
    ring, bar = gaussians(means, std), box((half_width, 1.0))
    zero = torch.zeros(1, dtype=F64)

    # The mass of the ring inside the bar, exact: each Gaussian is a product of two.
    def inside(centre: Tensor, width: float) -> Tensor:
        return torch.special.ndtr((width - centre) / std) - torch.special.ndtr((-width - centre) / std)

    mass = (inside(means[:, 0], half_width) * inside(means[:, 1], 1.0)).mean()

    def log_density(x: Tensor) -> Tensor:
        within = (x[:, 0].abs() <= half_width) & (x[:, 1].abs() <= 1)
        logs = ring(x, zero.expand(len(x))) - torch.log(mass)
        return torch.where(within, logs, -math.inf)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        found: list[Tensor] = []
        while sum(map(len, found)) < count:
            which = torch.randint(8, (8 * count,), generator=generator)
            x = means[which] + std * torch.randn(8 * count, 2, dtype=F64, generator=generator)
            found.append(x[(x[:, 0].abs() <= half_width) & (x[:, 1].abs() <= 1)])
        return torch.cat(found)[:count]

    parts = potential(ring), potential(bar)
    modes = means[(means[:, 0].abs() < half_width)]
    return Task("product", parts, compose.product(*parts), log_density, draw, modes)


def mixture(std: float = 0.03) -> Task:
    """Two columns of three Gaussians, one or the other."""
    rows = torch.tensor([0.5, 0.0, -0.5], dtype=F64)
    columns = [torch.stack([torch.full((3,), x, dtype=F64), rows], 1) for x in (-0.25, 0.25)]
    means = torch.cat(columns)
    parts = tuple(potential(gaussians(column, std)) for column in columns)
    whole = gaussians(means, std)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(6, (count,), generator=generator)
        return means[which] + std * torch.randn(count, 2, dtype=F64, generator=generator)

    def log_density(x: Tensor) -> Tensor:
        return whole(x, torch.zeros(len(x), dtype=F64))

    return Task("mixture", parts, compose.mixture(*parts), log_density, draw, means)
