# SPDX-License-Identifier: Apache-2.0
"""The density at one noise level as Markov chains see it: gradients, energies, and paths between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from intarsia.samplers._noise import normal_like
from intarsia.types import Cond, Denoiser, Generators, denoise, energy_of, level, with_energy

Energy = Literal["exact", "path"]
DIVERGENT = 1000.0


@dataclass
class Target:
    """The log density of a denoiser at a level, and how often it was asked.

    Attributes:
        D: the denoiser.
        sigma: above 0.
        cond: condition tree.
        path: whether differences of energy are integrals of the score along the proposal.
        evaluations: calls of the network.
    """

    D: Denoiser
    sigma: float
    cond: Cond
    path: bool
    evaluations: int = 0

    @torch.no_grad()
    def gradient(self, x: Tensor) -> Tensor:
        """The score [B, C, *S]."""
        self.evaluations += 1
        return (denoise(self.D, x, self.sigma, self.cond) - x) / self.sigma**2

    @torch.no_grad()
    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy [B] float64, 0 on a path, and score [B, C, *S]."""
        if self.path:
            return torch.zeros(x.shape[0], dtype=torch.float64, device=x.device), self.gradient(x)
        self.evaluations += 1
        energy, denoised = with_energy(self.D, x, level(self.sigma, x), self.cond)
        return energy.double(), (denoised - x) / self.sigma**2


def work(before: Tensor, after: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The score's integral between two places by the trapezoid rule, [B] float64."""
    mean = (one.double() + other.double()) / 2
    return (mean * (after.double() - before.double())).flatten(1).sum(1)


def uniform(x: Tensor, generator: Generators) -> Tensor:
    """Uniform numbers [B] float64, from wherever noise is drawn."""
    small = x.new_empty((x.shape[0], 1, *(1,) * (x.ndim - 2)))
    return torch.special.ndtr(normal_like(small, generator).double().flatten())


def check_kernel(
    name: str, step_size: float, num_steps: int, energy: str | None = None, damping: float = 0.0
) -> None:
    """Refuse parameters that no kernel takes.

    Raises:
        ValueError: the message says which.

    Example:
        >>> check_kernel("MALA", 0.5, 1, "exact")
    """
    if not 0 <= step_size < float("inf"):
        raise ValueError(
            f"{name}: step_size must be a finite number not below 0, got {step_size}. "
            "It multiplies the schedule."
        )
    if num_steps < 1:
        raise ValueError(f"{name}: num_steps must be at least 1, got {num_steps}. Pass no corrector.")
    if energy not in (None, "exact", "path"):
        raise ValueError(
            f"{name}: energy must be 'exact' or 'path', got {energy!r}. 'path' integrates the score along "
            "the proposal, an approximation for networks without an energy."
        )
    if not 0 <= damping <= 1:
        raise ValueError(
            f"{name}: damping must be within 0 and 1, got {damping}. 0 draws a new momentum every time."
        )


def check_level(name: str, D: Denoiser, sigma: float, energy: str | None) -> None:
    """Refuse a level without a score, and a test without an energy.

    Raises:
        ValueError: the message names the remedy.

    Example:
        >>> check_level("UHMC", lambda x, sigma, cond=None: x, 1.0, None)
    """
    if not sigma > 0:
        raise ValueError(
            f"{name}: sigma must be above 0, got {sigma}. The score of a clean canvas is not defined."
        )
    if energy != "exact" or getattr(D, "with_energy", None) is not None:
        return
    reason = ""
    if energy_of(D) is None:
        try:
            _ = D.energy  # type: ignore[attr-defined]
        except AttributeError as error:
            reason = f" ({error})"
        kind = getattr(D, "__name__", type(D).__name__)
        other = "ULA" if name == "MALA" else "UHMC"
        raise ValueError(
            f"{name}: denoiser must have an energy for its Metropolis test, got {kind}{reason}. "
            f"Take {other}, which needs none, or energy='path', an approximation by the score's integral."
        )


Schedule = Callable[[float], float]
