# SPDX-License-Identifier: Apache-2.0
"""Energies of denoisers: who has one, and the energy together with the estimate for the price of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["energy_of", "with_energy"]


def energy_of(denoiser: Any) -> Callable[..., Tensor] | None:
    """Look up a denoiser's `energy(x [B, C, *S], sigma [B], cond) -> [B]`.

    Returns:
        Minus the log density at a level up to a constant, or None where the denoiser has none.

    Example:
        >>> energy_of(lambda x, sigma, cond=None: x) is None
        True
    """
    found: Callable[..., Tensor] | None = getattr(denoiser, "energy", None)
    return found


def with_energy(denoiser: Any, x: Tensor, sigma: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
    """Evaluate energy and estimate, in one go where the denoiser can.

    Args:
        denoiser: one that has an energy.
        x: [B, C, *S], float32 or float64.
        sigma: [B], noise levels.
        cond: condition tree.

    Returns:
        Energy [B] and estimate [B, C, *S].

    Raises:
        ValueError: the denoiser has no energy; the message says why, where it is known.

    Example:
        >>> class Unit:
        ...     def energy(self, x, sigma, cond=None):
        ...         return (x**2).flatten(1).sum(1) / (2 * (1 + sigma**2))
        ...     def __call__(self, x, sigma, cond=None):
        ...         return x / (1 + sigma.reshape(-1, 1, 1) ** 2)
        >>> with_energy(Unit(), torch.ones(1, 1, 2), torch.ones(1))
        (tensor([0.5000]), tensor([[[0.5000, 0.5000]]]))
    """
    both = getattr(denoiser, "with_energy", None)
    if both is not None:
        energy, denoised = both(x, sigma, cond)
        return energy, denoised
    try:
        energy = denoiser.energy(x, sigma, cond)
    except AttributeError as error:
        kind = getattr(denoiser, "__name__", type(denoiser).__name__)
        raise ValueError(
            f"energy: denoiser must have an energy, got {kind} ({error}). Take ULA or UHMC, which need none, "
            "or energy='path'."
        ) from error
    return energy, denoiser(x, sigma, cond)


def total_energy(
    terms: Any, x: Tensor, sigma: Tensor, conds: Any, coefficients: Any
) -> tuple[Tensor, Tensor]:
    """The signed sums of the terms' energies and of their estimates."""
    energies = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    denoised = torch.zeros_like(x)
    for term, cond, coefficient in zip(terms, conds, coefficients, strict=True):
        energy, estimate = with_energy(term, x, sigma, cond)
        energies = energies + coefficient * energy
        denoised = denoised + coefficient * estimate
    return energies, denoised
