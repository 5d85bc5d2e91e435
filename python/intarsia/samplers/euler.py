# SPDX-License-Identifier: Apache-2.0
"""First order: Euler, and its stochastic form."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from intarsia.samplers._noise import normal_like
from intarsia.samplers._spare import give, take
from intarsia.types import Cond, Denoiser, Generators, Info, State, affine

__all__ = ["DDIM", "Euler", "EulerAncestral"]


@dataclass(frozen=True)
class Euler:
    """Euler's method on the probability flow `dx/dsigma = (x - D) / sigma`: order 1, one evaluation a step.

    `x' = (s'/s) * x + (1 - s'/s) * D(x, s)`. In these variables it is DDIM with eta = 0, too.

    Source:
        Karras et al. 2022, algorithm 1 without its correction; Song et al. 2021 (DDIM), equation 13.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: torch.zeros_like(x)
        >>> samplers.sample(D, torch.ones(1, 1, 2), schedules.karras(4), samplers.Euler())
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
        """Return the state at `sigma_next`, and its Info. Draws no noise."""
        ratio = sigma_next / sigma
        out, spare = take(state.spare)
        x = affine(D, state.x, sigma, cond, a=ratio, b=1 - ratio, out=out)
        return state.advance(x, sigma_next, spare=spare), Info(sigma, sigma_next, sigma_hat=sigma)


@dataclass(frozen=True)
class EulerAncestral:
    """Step down further than asked, then add fresh noise: order 1 in law, one evaluation a step.

    `s_up = min(s', eta * s' * sqrt(1 - (s'/s)^2))`, `s_down = sqrt(s'^2 - s_up^2)`, then Euler to `s_down`
    and `x' = x_down + s_up * s_noise * n`.

    Attributes:
        eta: 0 is Euler, 1 the posterior of the forward process (DDPM); above 1 as far as `s'` allows.
        s_noise: scale of the fresh noise; 1 keeps the marginals.

    Raises:
        ValueError: a parameter is negative or not finite.

    Source:
        Ho et al. 2020, algorithm 2, in sigma space.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: torch.zeros_like(x)
        >>> g = torch.Generator().manual_seed(0)
        >>> x, sigmas = torch.ones(1, 1, 2), schedules.karras(4)
        >>> samplers.sample(D, x, sigmas, samplers.EulerAncestral(), generator=g)
        tensor([[[0., 0.]]])
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("eta", "s_noise"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"EulerAncestral: {name} must be finite and not negative, got {value}. "
                    "1 is the usual value."
                )

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
        """Return the state at `sigma_next`, and its Info. Draws noise unless `s_up` is 0."""
        up = self._up(sigma, sigma_next)
        down = max(sigma_next**2 - up**2, 0.0) ** 0.5
        out, spare = take(state.spare)
        noise = None
        if up > 0:
            memory, spare = take(spare)
            noise = normal_like(state.x, generator, out=memory)
            spare = give(spare, noise)
        ratio, c = down / sigma, up * self.s_noise
        x = affine(D, state.x, sigma, cond, a=ratio, b=1 - ratio, c=c, noise=noise, out=out)
        return state.advance(x, sigma_next, spare=spare), Info(sigma, sigma_next, sigma_hat=sigma)

    def spread(self, sigma: float, sigma_next: float) -> float:
        """Return the standard deviation of the noise that a step adds to its mean."""
        return self._up(sigma, sigma_next) * self.s_noise

    def _up(self, sigma: float, sigma_next: float) -> float:
        return min(sigma_next, self.eta * sigma_next * (1 - (sigma_next / sigma) ** 2) ** 0.5)


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models: order 1, one evaluation a step.

    In sigma space DDIM's variance `eta^2 (1-abar')/(1-abar) (1-abar/abar')` is `eta^2 s'^2 (1-s'^2/s^2)`,
    the `s_up^2` of `EulerAncestral`: the two are one rule. By default eta is 0, which is Euler.

    Attributes:
        eta: 0 is deterministic, 1 is DDPM.

    Raises:
        ValueError: `eta` is outside 0 to 1.

    Source:
        Song et al. 2021, "Denoising diffusion implicit models", equations 12 and 16.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: torch.zeros_like(x)
        >>> samplers.sample(D, torch.ones(1, 1, 2), schedules.karras(4), samplers.DDIM())
        tensor([[[0., 0.]]])
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"DDIM: eta must be within 0 and 1, got {self.eta}. 0 is deterministic, 1 is DDPM."
            )

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
        """Return the state at `sigma_next`, and its Info. Draws noise only where `eta` is above 0."""
        return EulerAncestral(self.eta).step(D, state, sigma, sigma_next, cond, generator)

    def spread(self, sigma: float, sigma_next: float) -> float:
        """Return the standard deviation of the noise that a step adds to its mean."""
        return EulerAncestral(self.eta).spread(sigma, sigma_next)
