# SPDX-License-Identifier: Apache-2.0
"""What a step leaves behind: the state that the next one needs, and what a diagnostic may ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

__all__ = ["Info", "State", "marginal"]


@dataclass(frozen=True, eq=False)
class State:
    """All that the next step needs; keep it, and the run can be resumed.

    Attributes:
        x: [B, C, *S], float32 or float64, the canvas at noise level `sigma`.
        sigma: the noise level reached, or None before the run has set it.
        step: the number of steps done, and so the index of the next one.
        num_steps: the number of steps of the whole run, or None before the run has set it.
        history: what a multistep solver remembers; empty for the others.
        spare: canvases like `x` for the step to write into, which may add those that it has used up. None:
            somebody may keep states, so that a step must not write into anything that it was given.
        marginal: (a, s) of `x = a * x0 + s * n`, n standard normal, where the solver keeps another scale than
            `x0 + sigma * n`; None where it does not. Ask `types.marginal`.

    Example:
        >>> import torch
        >>> state = State(torch.zeros(1, 3, 8))
        >>> state.advance(state.x + 1, 0.5).step
        1
    """

    x: Tensor
    sigma: float | None = None
    step: int = 0
    num_steps: int | None = None
    history: tuple[Any, ...] = ()
    spare: tuple[Tensor, ...] | None = None
    marginal: tuple[float, float] | None = None

    def advance(
        self,
        x: Tensor,
        sigma: float,
        *,
        history: tuple[Any, ...] = (),
        spare: tuple[Tensor, ...] | None = None,
        marginal: tuple[float, float] | None = None,
    ) -> State:
        """Return the state one step later: canvas `x` [B, C, *S] at noise level `sigma`."""
        return replace(
            self, x=x, sigma=sigma, step=self.step + 1, history=history, spare=spare, marginal=marginal
        )


@dataclass(frozen=True, eq=False)
class Info:
    """What a diagnostic may want to know of one step, and no later step needs.

    Attributes:
        sigma: the level that the step left.
        sigma_next: the level that it reached.
        evaluations: calls of the denoiser.
        sigma_hat: the level to which the step first raised the noise; `sigma` where there is no churn.
        denoised: [B, C, *S], the step's first estimate of the clean canvas, or None where a fused update
            never formed it.
        corrector: the corrector's own Info, or None.
        acceptance: [B] float64, the mean chance of acceptance of a Metropolis test, or None without one.
        energy_error: [B] float64, the mean absolute error of the energy along its trajectories.
        divergences: [B] int64, trajectories whose energy ended infinite, NaN, or more than 1,000 higher.
        step_size: what was used, where it was found by adaptation.
    """

    sigma: float
    sigma_next: float
    evaluations: int = 1
    sigma_hat: float | None = None
    denoised: Tensor | None = None
    corrector: Info | None = None
    acceptance: Tensor | None = None
    energy_error: Tensor | None = None
    divergences: Tensor | None = None
    step_size: float | None = None


def marginal(state: State) -> tuple[float, float]:
    """Return (a, s) of `x = a * x0 + s * n` at the level that a state has reached, n standard normal.

    Returns:
        The scales of signal and noise; (1, sigma) for the solvers of this library.

    Raises:
        ValueError: the state has no level yet.

    Example:
        >>> import torch
        >>> marginal(State(torch.zeros(1, 3, 8), sigma=0.5))
        (1.0, 0.5)
    """
    if state.marginal is not None:
        return state.marginal
    if state.sigma is None:
        raise ValueError(
            "marginal: state must have a noise level, got sigma=None. States of a running loop have one."
        )
    return 1.0, state.sigma
