# SPDX-License-Identifier: Apache-2.0
"""Second order with one evaluation a step: DPM-Solver++(2M)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.samplers._spare import give, take
from intarsia.types import Cond, Denoiser, Generators, Info, State, affine, denoise

__all__ = ["DPMpp2M"]


@dataclass(frozen=True)
class DPMpp2M:
    """Extrapolate the estimate from the last two steps, in `lambda = -log(sigma)`: order 2, one evaluation.

    `x' = (s'/s) * x + (1 - s'/s) * ((1 + 1/2r) * D - 1/2r * D_last)`, r = h_last / h, h = lambda' - lambda.
    The first step and a step to 0 are first order.

    Note:
        `state.history` is (D_last, h_last). A callback that replaces the canvas leaves it as it is.

    Source:
        Lu et al. 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models",
        algorithm 2.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: torch.zeros_like(x)
        >>> samplers.sample(D, torch.ones(1, 1, 2), schedules.karras(4), samplers.DPMpp2M())
        tensor([[[0., 0.]]])
    """

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
        """Return the state at `sigma_next`, and its Info with `denoised`. Draws no noise."""
        info = Info(sigma, sigma_next, sigma_hat=sigma)
        ratio = sigma_next / sigma
        if sigma_next == 0:
            # No later step can use the history, so the update may be fused.
            x = affine(D, state.x, sigma, cond, a=0.0, b=1.0)
            return state.advance(x, 0.0), info

        out, spare = take(state.spare)
        if out is None:
            denoised = denoise(D, state.x, sigma, cond)
        else:
            denoised = affine(D, state.x, sigma, cond, a=0.0, b=1.0, out=out)
        h = -math.log(ratio)
        out, spare = take(spare)
        x = torch.mul(state.x, ratio, out=out)
        if not state.history:
            x.add_(denoised, alpha=1 - ratio)
            return state.advance(x, sigma_next, history=(denoised, h), spare=spare), info
        last, h_last = state.history
        ahead = 0.5 * h / h_last
        x.add_(denoised, alpha=(1 - ratio) * (1 + ahead)).add_(last, alpha=(ratio - 1) * ahead)
        return state.advance(x, sigma_next, history=(denoised, h), spare=give(spare, last)), info
