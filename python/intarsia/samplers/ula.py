# SPDX-License-Identifier: Apache-2.0
"""Unadjusted Langevin steps at one noise level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from intarsia.samplers._noise import normal_like
from intarsia.types import Cond, Denoiser, Generators, Info, State, affine

__all__ = ["ULA"]


@dataclass(frozen=True)
class ULA:
    """Unadjusted Langevin: a corrector that moves the canvas towards the composite's own density at a level.

    `x' = x + h * score + sqrt(2h) * n`, `score = (D - x) / sigma^2`, `h = step_size * schedule(sigma)`; with
    the default schedule, sigma^2, that is `x' = (1 - step_size) * x + step_size * D + sqrt(2h) * n`.

    As `corrector=ULA()` of a run it acts after each step of the solver, at the level reached, never at 0. It
    repairs most of what a solver gets wrong on a sum of denoisers that is not the exact score of any noised
    density, such as a Bethe sum. As the solver itself it needs levels that fall.

    Attributes:
        step_size: multiplier of the schedule; with the default one below 2, as a rule 0.1 to 1.
        num_steps: steps at each level, one evaluation each.
        schedule: sigma -> step size at `step_size = 1`, in the square of the canvas's units.

    Raises:
        ValueError: a step size that is negative or not finite, or no step.

    Note:
        Biased: a Gaussian of variance s2 ends with `s2 / (1 - h / (2 s2))`. Never clips. Draws noise from the
        run's generator, or from places of the canvas with `noise="canvas"`.

    Source:
        Roberts and Tweedie 1996; Song et al. 2021, algorithm 4; Du et al. 2023, "Reduce, Reuse, Recycle".

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: x / (1 + sigma**2).reshape(-1, 1, 1)
        >>> g = torch.Generator().manual_seed(0)
        >>> x, sigmas = 80.0 * torch.randn(1, 1, 10_000, generator=g), schedules.karras(32)
        >>> x = samplers.sample(D, x, sigmas, samplers.Euler(), corrector=ULA(num_steps=4), generator=g)
        >>> x.std().round(decimals=1)
        tensor(1.)
    """

    step_size: float = 0.5
    num_steps: int = 1
    schedule: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.step_size < math.inf:
            raise ValueError(
                f"ULA: step_size must be a finite number not below 0, got {self.step_size}. "
                "0.5 of sigma^2 serves most levels."
            )
        if self.num_steps < 1:
            raise ValueError(f"ULA: num_steps must be at least 1, got {self.num_steps}. Pass no corrector.")

    def init(self, x: Tensor) -> State:
        """Return the state before the first step, from the canvas `x` [B, C, *S]."""
        return State(x)

    def step(
        self,
        D: Denoiser,
        state: State,
        sigma: float,
        sigma_next: float,
        cond: Cond = None,
        generator: Generators = None,
    ) -> tuple[State, Info]:
        """Return the state after `num_steps` Langevin steps at `sigma`, called `sigma_next`, and its Info.

        Raises:
            ValueError: `sigma` is 0, where there is no score.
        """
        if not sigma > 0:
            raise ValueError(
                f"ULA: sigma must be above 0, got {sigma}. The score of a clean canvas is not defined."
            )
        unit = sigma**2 if self.schedule is None else float(self.schedule(sigma))
        size = self.step_size * unit
        share, spread = size / sigma**2, math.sqrt(2 * size)
        x = state.x
        for _ in range(self.num_steps):
            noise = normal_like(x, generator) if spread else None
            x = affine(D, x, sigma, cond, a=1 - share, b=share, c=spread, noise=noise)
        return state.advance(x, sigma_next), Info(sigma, sigma_next, evaluations=self.num_steps)
