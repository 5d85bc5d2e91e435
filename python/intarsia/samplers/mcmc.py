# SPDX-License-Identifier: Apache-2.0
"""Markov chains at one noise level: MALA, HMC, and HMC without its test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia import ops
from intarsia.ops import PhasePoint
from intarsia.samplers._noise import normal_like
from intarsia.samplers._target import DIVERGENT, Energy, Target, check_kernel, check_level, uniform, work
from intarsia.types import Cond, Denoiser, Generators, Info, State

__all__ = ["HMC", "MALA", "UHMC"]


class _Tally:
    """What Metropolis tests were like, per sample."""

    def __init__(self, x: Tensor) -> None:
        self.probability = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        self.error = torch.zeros_like(self.probability)
        self.divergences = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        self.rounds = 0

    def add(self, current: PhasePoint, proposed: PhasePoint, probability: Tensor) -> None:
        change = proposed.energy + proposed.kinetic_energy - current.energy - current.kinetic_energy
        bad = ~(change.abs() < DIVERGENT) & ~(change < 0)
        self.probability += probability
        self.error += torch.where(bad, torch.zeros_like(change), change.abs())
        self.divergences += bad
        self.rounds += 1

    def info(self, sigma: float, evaluations: int) -> Info:
        return Info(
            sigma,
            sigma,
            evaluations=evaluations,
            acceptance=self.probability / self.rounds,
            energy_error=self.error / self.rounds,
            divergences=self.divergences,
        )


@dataclass(frozen=True)
class MALA:
    """Langevin steps, each accepted or refused, so that the law at a level is met exactly.

    Proposal `x' = x + h * g(x) + sqrt(2h) * n`; accepted with probability
    `min(1, p(x') q(x | x') / (p(x) q(x' | x)))`, `q(y | x)` normal around `x + h * g(x)` with variance 2h.

    Attributes:
        step_size: multiplier of the schedule.
        num_steps: proposals at each level.
        schedule: sigma -> h at `step_size = 1`; sigma^2 if None.
        energy: "exact" asks the denoiser's energy. "path" integrates the score along the proposal by the
            trapezoid rule: an approximation, for networks that have none.

    Raises:
        ValueError: a parameter outside its range.

    Note:
        Every sample is accepted by itself; a rejected one keeps its bits. Never clips. One evaluation a
        proposal, and one at the start. Begin where the energy is finite.

    Source:
        Roberts and Tweedie 1996; Du et al. 2023, "Reduce, Reuse, Recycle", algorithm 3, whose public code
        divides the proposal's exponent by 2h^2 in the place of 4h.

    Example:
        >>> import torch
        >>> from intarsia import denoisers
        >>> normal = lambda x, sigma, cond=None: (x**2).flatten(1).sum(1) / (2 * (1 + sigma**2))
        >>> D = denoisers.Potential(normal)
        >>> state, info = MALA(0.1).step(D, State(torch.zeros(2, 1, 3), sigma=1.0), 1.0, 1.0)
        >>> bool((info.acceptance > 0.9).all())
        True
    """

    step_size: float = 0.5
    num_steps: int = 1
    schedule: Callable[[float], float] | None = None
    energy: Energy = "exact"

    def __post_init__(self) -> None:
        check_kernel("MALA", self.step_size, self.num_steps, self.energy)

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
        """Return the state after `num_steps` proposals at `sigma`, called `sigma_next`, and its Info.

        Raises:
            ValueError: a level of 0, or a denoiser without an energy.
        """
        check_level("MALA", D, sigma, self.energy)
        h = self.step_size * (sigma**2 if self.schedule is None else float(self.schedule(sigma)))
        target, tally = Target(D, sigma, cond, self.energy == "path"), _Tally(state.x)
        x = state.x
        energy, gradient = target.both(x)
        for _ in range(self.num_steps):
            moved = ops.langevin(x, gradient, h, noise=normal_like(x, generator))
            moved_energy, moved_gradient = target.both(moved)
            if target.path:
                moved_energy = energy - work(x, moved, gradient, moved_gradient)
            there, back = _way(x, moved, gradient, h), _way(moved, x, moved_gradient, h)
            current = PhasePoint(x, None, energy, there, gradient)
            proposed = PhasePoint(moved, None, moved_energy, back, moved_gradient)
            chosen = ops.metropolis_select(current, proposed, uniform(x, generator))
            tally.add(current, proposed, chosen.probability)
            x, energy = chosen.point.position, chosen.point.energy
            assert chosen.point.gradient is not None
            gradient = chosen.point.gradient
        return state.advance(x, sigma_next), tally.info(sigma, target.evaluations)


def _way(x: Tensor, y: Tensor, gradient: Tensor, h: float) -> Tensor:
    """Minus the log density to go from x to y, up to a constant: [B] float64."""
    if h == 0:
        return torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    rest = y.double() - x.double() - h * gradient.double()
    return rest.square().flatten(1).sum(1) / (4 * h)


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: leapfrog trajectories, each accepted or refused as a whole.

    `v' = gamma v + sqrt(1 - gamma^2) sqrt(M) n`; `num_leapfrogs` leapfrog steps of size eps; accepted with
    probability `min(1, exp(H - H'))`, `H = E(x) + |v|^2 / (2M)`; a refusal turns the momentum round.

    Attributes:
        step_size: multiplier of the schedule.
        num_steps: trajectories at each level.
        num_leapfrogs: leapfrog steps of a trajectory, one evaluation each.
        damping: gamma, what is kept of the momentum from one trajectory to the next.
        mass: M at a level of 1; times `mass_schedule(sigma)`.
        schedule: sigma -> eps at `step_size = 1`; sigma if None.
        mass_schedule: sigma -> multiplier of the mass; 1 if None.
        energy: "exact", or "path": the integral of the score along the trajectory, an approximation.

    Raises:
        ValueError: a parameter outside its range.

    Note:
        Every sample is accepted by itself; a rejected one keeps its bits. Never clips. A trajectory whose
        length resonates with the width of the target, such as three steps of the width itself, does not mix.
        The momentum lives as long as a level.

    Source:
        Neal 2011, "MCMC using Hamiltonian dynamics"; Horowitz 1991 for the partial refreshment; Du et al.
        2023, "Reduce, Reuse, Recycle", algorithm 4, whose public code compares a momentum with itself.

    Example:
        >>> import torch
        >>> from intarsia import denoisers
        >>> normal = lambda x, sigma, cond=None: (x**2).flatten(1).sum(1) / (2 * (1 + sigma**2))
        >>> D = denoisers.Potential(normal)
        >>> state, info = HMC(0.3).step(D, State(torch.zeros(2, 1, 3), sigma=1.0), 1.0, 1.0)
        >>> info.evaluations
        4
    """

    step_size: float = 0.5
    num_steps: int = 1
    num_leapfrogs: int = 3
    damping: float = 0.0
    mass: float = 1.0
    schedule: Callable[[float], float] | None = None
    mass_schedule: Callable[[float], float] | None = None
    energy: Energy = "exact"

    def __post_init__(self) -> None:
        check_kernel("HMC", self.step_size, self.num_steps, self.energy, self.damping)
        _check_trajectory("HMC", self.num_leapfrogs, self.mass)

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
        """Return the state after `num_steps` trajectories at `sigma`, called `sigma_next`, and its Info.

        Raises:
            ValueError: a level of 0, or a denoiser without an energy.
        """
        check_level("HMC", D, sigma, self.energy)
        eps = self.step_size * (sigma if self.schedule is None else float(self.schedule(sigma)))
        mass = self.mass * (1.0 if self.mass_schedule is None else float(self.mass_schedule(sigma)))
        target, tally = Target(D, sigma, cond, self.energy == "path"), _Tally(state.x)
        x, v = state.x, normal_like(state.x, generator) * math.sqrt(mass)
        energy, gradient = target.both(x)
        for number in range(self.num_steps):
            noise = normal_like(x, generator) if self.damping < 1 and number else None
            damping = self.damping if noise is not None else 1.0
            there, w, refreshed, before = ops.leapfrog_begin(
                x, v, gradient, eps, mass, damping=damping, noise=noise
            )
            last, ahead, done = x, gradient, torch.zeros_like(energy)
            for _ in range(self.num_leapfrogs - 1):
                slope = target.gradient(there)
                done = done + work(last, there, ahead, slope) if target.path else done
                last, ahead = there, slope
                there, w = ops.kick_drift(there, w, slope, eps, mass)
            there_energy, slope = target.both(there)
            if target.path:
                there_energy = energy - done - work(last, there, ahead, slope)
            w, after = ops.leapfrog_end(w, slope, eps, mass)
            current = PhasePoint(x, refreshed, energy, before, gradient)
            proposed = PhasePoint(there, w, there_energy, after, slope)
            chosen = ops.metropolis_select(current, proposed, uniform(x, generator))
            tally.add(current, proposed, chosen.probability)
            x, energy = chosen.point.position, chosen.point.energy
            assert chosen.point.momentum is not None and chosen.point.gradient is not None
            v, gradient = chosen.point.momentum, chosen.point.gradient
        return state.advance(x, sigma_next), tally.info(sigma, target.evaluations)


@dataclass(frozen=True)
class UHMC:
    """Hamiltonian Monte Carlo without its test: for networks that have no energy.

    Attributes:
        step_size: as for `HMC`.
        num_steps: as for `HMC`.
        num_leapfrogs: as for `HMC`.
        damping: as for `HMC`.
        mass: as for `HMC`.
        schedule: as for `HMC`.
        mass_schedule: as for `HMC`.

    Raises:
        ValueError: a parameter outside its range.

    Note:
        Biased: a Gaussian of variance s2 ends with `s2 / (1 - eps^2 / (4 M s2))`. Two passes over the canvas
        for each evaluation. Never clips.

    Source:
        Du et al. 2023, "Reduce, Reuse, Recycle", section 4.3.

    Example:
        >>> import torch
        >>> D = lambda x, sigma, cond=None: x / (1 + sigma**2).reshape(-1, 1, 1)
        >>> state, info = UHMC(0.3).step(D, State(torch.zeros(2, 1, 3), sigma=1.0), 1.0, 1.0)
        >>> info.evaluations
        4
    """

    step_size: float = 0.5
    num_steps: int = 1
    num_leapfrogs: int = 3
    damping: float = 0.0
    mass: float = 1.0
    schedule: Callable[[float], float] | None = None
    mass_schedule: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        check_kernel("UHMC", self.step_size, self.num_steps, None, self.damping)
        _check_trajectory("UHMC", self.num_leapfrogs, self.mass)

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
        """Return the state after `num_steps` trajectories at `sigma`, called `sigma_next`, and its Info.

        Raises:
            ValueError: a level of 0.
        """
        check_level("UHMC", D, sigma, None)
        eps = self.step_size * (sigma if self.schedule is None else float(self.schedule(sigma)))
        mass = self.mass * (1.0 if self.mass_schedule is None else float(self.mass_schedule(sigma)))
        target = Target(D, sigma, cond, True)
        x, v = state.x, normal_like(state.x, generator) * math.sqrt(mass)
        gradient = target.gradient(x)
        for number in range(self.num_steps):
            if self.damping < 1 and number:
                v = ops.refresh(v, self.damping, mass, noise=normal_like(x, generator))
            v = ops.kick(v, gradient, eps / 2)
            for inner in range(self.num_leapfrogs):
                x = ops.drift(x, v, eps, mass)
                gradient = target.gradient(x)
                v = ops.kick(v, gradient, eps if inner + 1 < self.num_leapfrogs else eps / 2)
        return state.advance(x, sigma_next), Info(sigma, sigma, evaluations=target.evaluations)


def _check_trajectory(name: str, num_leapfrogs: int, mass: float) -> None:
    if num_leapfrogs < 1:
        raise ValueError(f"{name}: num_leapfrogs must be at least 1, got {num_leapfrogs}. 3 is usual.")
    if not 0 < mass < float("inf"):
        raise ValueError(f"{name}: mass must be a finite number above 0, got {mass}. 1 is usual.")
