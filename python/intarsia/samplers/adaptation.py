# SPDX-License-Identifier: Apache-2.0
"""Step sizes that find themselves: dual averaging towards a chance of acceptance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from intarsia.samplers.mcmc import HMC, MALA
from intarsia.types import Cond, Denoiser, Generators, Info, State

__all__ = ["Adapted", "DualAveraging"]


@dataclass
class DualAveraging:
    """Nesterov's dual averaging of the logarithm of a step size.

    Attributes:
        target: the chance of acceptance to reach.
        start: the first step size.
        gamma: how strongly it returns to ten times the first.
        t0: how much the first updates are held back.
        kappa: how fast the average forgets.

    Source:
        Hoffman and Gelman 2014, "The no-U-turn sampler", section 3.2 and algorithm 5.

    Example:
        >>> found = DualAveraging(0.7, 1.0)
        >>> for _ in range(200):
        ...     found.update(max(0.0, 1 - found.step_size))  # accepts 1 - step_size
        >>> round(found.average, 1)
        0.3
    """

    target: float
    start: float
    gamma: float = 0.05
    t0: float = 10.0
    kappa: float = 0.75

    def __post_init__(self) -> None:
        self._mu = math.log(10 * self.start)
        self._log = math.log(self.start)
        self._error = self._mean = 0.0
        self._count = 0

    @property
    def step_size(self) -> float:
        """The next one to try."""
        return math.exp(self._log)

    @property
    def average(self) -> float:
        """The one to keep."""
        return math.exp(self._mean) if self._count else self.start

    def update(self, acceptance: float) -> None:
        """Learn from the mean chance of acceptance of a step of this size."""
        acceptance = acceptance if math.isfinite(acceptance) else 0.0
        self._count += 1
        share = 1 / (self._count + self.t0)
        self._error = (1 - share) * self._error + share * (self.target - acceptance)
        self._log = self._mu - math.sqrt(self._count) / self.gamma * self._error
        weight = self._count**-self.kappa
        self._mean = weight * self._log + (1 - weight) * self._mean


@dataclass(frozen=True)
class Adapted:
    """A Metropolis kernel that first finds its step size, at each level by itself.

    Attributes:
        kernel: MALA or HMC; its `step_size` is where the search begins.
        target: the chance of acceptance; None is 0.6 for MALA and 0.7 for HMC.
        rounds: proposals that are spent on the search at each level; they move the samples, too.

    Raises:
        ValueError: a kernel without a test, a target outside (0, 1), no round.

    Note:
        While the step size changes, the chain does not keep the target's law; the `num_steps` of the kernel
        that follow do. In few dimensions the acceptance of a trajectory may rise and fall with its size, and
        the search ends between: look at `Info.acceptance`. `Info.step_size` has what was found; use it in a
        kernel of its own to save the rounds.

    Source:
        Hoffman and Gelman 2014, "The no-U-turn sampler", section 3.2; targets of Du et al. 2023.

    Example:
        >>> import torch
        >>> from intarsia import denoisers
        >>> width = torch.linspace(0.5, 2.0, 32)
        >>> D = denoisers.Potential(lambda x, sigma, cond=None: (x[:, 0] ** 2 / (2 * width)).sum(1))
        >>> g = torch.Generator().manual_seed(0)
        >>> x = width.sqrt() * torch.randn(64, 1, 32, generator=g)
        >>> _, info = Adapted(HMC(1.0, num_steps=20)).step(D, State(x, sigma=1.0), 1.0, 1.0, None, g)
        >>> bool(abs(info.acceptance.mean() - 0.7) < 0.1)
        True
    """

    kernel: MALA | HMC
    target: float | None = None
    rounds: int = 30

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.kernel), (MALA, HMC)):
            kind = type(self.kernel).__name__
            raise ValueError(
                f"Adapted: kernel must be MALA or HMC, got {kind}. Others have no acceptance to go by."
            )
        if self.target is not None and not 0 < self.target < 1:
            raise ValueError(f"Adapted: target must be within 0 and 1, got {self.target}. 0.7 is usual.")
        if self.rounds < 1:
            raise ValueError(f"Adapted: rounds must be at least 1, got {self.rounds}. 30 is usual.")

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
        """Return the state after the search and the kernel's steps at `sigma`, and its Info."""
        target = self.target or (0.6 if isinstance(self.kernel, MALA) else 0.7)
        search = DualAveraging(target, self.kernel.step_size)
        evaluations, trial = 0, state
        for _ in range(self.rounds):
            one: Any = replace(self.kernel, step_size=search.step_size, num_steps=1)
            trial, info = one.step(D, trial, sigma, sigma, cond, generator)
            evaluations += info.evaluations
            assert info.acceptance is not None
            search.update(float(info.acceptance.mean()))
        kernel: Any = replace(self.kernel, step_size=search.average)
        after, info = kernel.step(D, replace(state, x=trial.x), sigma, sigma_next, cond, generator)
        return after, replace(info, evaluations=info.evaluations + evaluations, step_size=search.average)
