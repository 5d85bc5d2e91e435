# SPDX-License-Identifier: Apache-2.0
"""Problems with closed-form answers, the oracles of the sampler and composite tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Gaussian", "GaussianField", "Mixture"]


@dataclass(frozen=True)
class Gaussian:
    """Independent elements N(mean, variance)."""

    mean: float = 0.3
    variance: float = 0.25

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        s2 = (sigma**2).reshape(-1, *(1,) * (x.ndim - 1))
        return (self.variance * x + s2 * self.mean) / (self.variance + s2)

    def solution(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The probability flow from one level to another: every quantile stays the same quantile."""
        ratio = (self.variance + sigma_next**2) / (self.variance + sigma**2)
        return self.mean + (x - self.mean) * ratio**0.5

    def draw(self, shape: tuple[int, ...], sigma: float, generator: torch.Generator) -> Tensor:
        """Exact samples of the noised marginal, float64."""
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.mean + (self.variance + sigma**2) ** 0.5 * normal


@dataclass(frozen=True)
class GaussianField:
    """A canvas [B, 1, n] ~ N(0, covariance [n, n])."""

    covariance: Tensor

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        values, vectors = torch.linalg.eigh(self.covariance.to(x.dtype))
        gain = values / (values + sigma[:, None] ** 2)
        return ((x[:, 0] @ vectors * gain) @ vectors.T)[:, None]

    def solution(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The probability flow, along each eigenvector on its own."""
        values, vectors = torch.linalg.eigh(self.covariance.to(x.dtype))
        ratio = ((values + sigma_next**2) / (values + sigma**2)).sqrt()
        return ((x[:, 0] @ vectors * ratio) @ vectors.T)[:, None]

    @classmethod
    def autoregressive(cls, length: int, correlation: float = 0.9) -> GaussianField:
        """AR(1) with unit variance: covariance `correlation ** |i - j|`."""
        index = torch.arange(length, dtype=torch.float64)
        return cls(correlation ** (index[:, None] - index).abs())


@dataclass(frozen=True)
class Mixture:
    """Points [B, C, 1] from isotropic Gaussians at `means` [K, C] with one standard deviation."""

    means: Tensor
    std: float
    weights: Tensor

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        means, weights = self.means.to(x.dtype), self.weights.to(x.dtype)
        total = self.std**2 + sigma[:, None] ** 2
        apart = x[:, None, :, 0] - means
        posterior = (weights.log() - apart.square().sum(-1) / (2 * total)).softmax(-1)
        centre = posterior @ means
        gain = self.std**2 / total
        return (centre + gain * (x[..., 0] - centre))[..., None]
