# SPDX-License-Identifier: Apache-2.0
"""Second order: Heun's method with EDM's churn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.samplers._noise import normal_like
from intarsia.samplers._spare import give, take
from intarsia.types import Cond, Denoiser, Generators, Info, State, affine

__all__ = ["Heun"]


@dataclass(frozen=True)
class Heun:
    """Euler, then the trapezoidal correction at the level reached: order 2, two evaluations a step.

    The correction is skipped on a step to 0. With churn the noise is first raised to
    `s_hat = (1 + gamma) * s`, `gamma = min(s_churn / N, sqrt(2) - 1)`, N the steps of the run.

    Attributes:
        s_churn: amount of fresh noise over the whole run; 0 is deterministic.
        s_tmin: least level at which noise is added.
        s_tmax: greatest level at which noise is added.
        s_noise: scale of the fresh noise; slightly above 1 offsets the loss of detail.

    Raises:
        ValueError: a parameter is negative or NaN.

    Source:
        Karras et al. 2022, algorithm 2.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: torch.zeros_like(x)
        >>> samplers.sample(D, torch.ones(1, 1, 2), schedules.karras(4), samplers.Heun())
        tensor([[[0., 0.]]])
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_tmin", "s_tmax", "s_noise"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(
                    f"Heun: {name} must not be negative, got {value}. EDM's images use 40, .05, 50 and 1.003."
                )

    def init(self, x: Tensor) -> State:
        """Return the state before the first step, from the canvas `x` [B, C, *S]."""
        return State(x)

    def gamma(self, sigma: float, num_steps: int) -> float:
        """Return by which fraction the noise is raised at `sigma` in a run of `num_steps`.

        Example:
            >>> round(Heun(s_churn=20).gamma(1.0, 150), 4)
            0.1333
        """
        within = self.s_tmin <= sigma <= self.s_tmax
        return min(self.s_churn / num_steps, math.sqrt(2) - 1) if within else 0.0

    def step(
        self,
        D: Denoiser,
        state: State,
        sigma: float,
        sigma_next: float,
        cond: Cond = None,
        generator: Generators = None,
    ) -> tuple[State, Info]:
        """Return the state at `sigma_next`, and its Info. Draws noise only where gamma is above 0.

        Raises:
            ValueError: churn is asked for and `state.num_steps` is not set.
        """
        x_hat, sigma_hat, spare = state.x, sigma, state.spare
        if self.s_churn > 0:
            if state.num_steps is None:
                raise ValueError(
                    "Heun: state.num_steps must be set where s_churn is above 0, got None. "
                    "Use samplers.sample, or dataclasses.replace(solver.init(x), num_steps=N)."
                )
            gamma = self.gamma(sigma, state.num_steps)
            sigma_hat = sigma * (1 + gamma)
            if gamma > 0:
                added = math.sqrt(sigma_hat**2 - sigma**2) * self.s_noise
                memory, spare = take(spare)
                noise = normal_like(x_hat, generator, out=memory)
                x_hat = torch.add(x_hat, noise, alpha=added, out=noise)

        ratio = sigma_next / sigma_hat
        out, spare = take(spare)
        x = affine(D, x_hat, sigma_hat, cond, a=ratio, b=1 - ratio, out=out)
        if sigma_next == 0:
            return state.advance(x, 0.0), Info(sigma, 0.0, sigma_hat=sigma_hat)

        # x_hat + (s'-s_hat)/2 * (d + d') with d = (x - x_hat)/(s'-s_hat) and d' = (x - D)/s', collected.
        half = 0.5 / ratio
        out, spare = take(spare)
        after = affine(D, x, sigma_next, cond, a=1 - half, b=half - 0.5, c=0.5, noise=x_hat, out=out)
        free = (x,) if x_hat is state.x else (x, x_hat)
        return state.advance(after, sigma_next, spare=give(spare, *free)), Info(
            sigma, sigma_next, evaluations=2, sigma_hat=sigma_hat
        )
