# SPDX-License-Identifier: Apache-2.0
"""The only loop over noise levels in the library: `trajectory`, and `sample`, which runs it to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from intarsia.samplers._check import (
    check_finite,
    check_replacement,
    check_sampler,
    check_scale,
    check_start,
    levels_of,
)
from intarsia.samplers._noise import check_source, source_of
from intarsia.samplers._progress import progress_bar
from intarsia.samplers._spare import recycled
from intarsia.samplers.canvas import CanvasNoise
from intarsia.types import (
    Cond,
    Denoiser,
    Generators,
    Info,
    NonFiniteError,
    Purpose,
    Sampler,
    State,
    StopSampling,
    broadcast_cond,
    check_cond,
)

__all__ = ["Callback", "sample", "trajectory"]

Callback: TypeAlias = Callable[[int, State, Info], State | None]
"""`callback(step, state, info)`: a State replaces canvas and history, None keeps them; see StopSampling."""


def sample(
    denoiser: Denoiser,
    x: Tensor | State,
    sigmas: Tensor | Sequence[float] | None,
    solver: Sampler,
    *,
    cond: Cond = None,
    generator: Generators = None,
    noise: Literal["generator", "canvas"] = "generator",
    seed: int | Sequence[int] | None = None,
    offset: Sequence[int] | None = None,
    corrector: Sampler | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool | None = None,
    on_nonfinite: Literal["raise", "ignore"] = "raise",
) -> Tensor:
    """Carry a canvas from the first noise level to the last.

    Args:
        denoiser: `D(x [B, C, *S], sigma [B], cond) -> x0`.
        x: [B, C, *S], floating: `x0 + sigmas[0] * noise`. A State resumes the run that it comes from.
        sigmas: [N + 1], falling, not negative, finite; the last is 0 as a rule. See `schedules`. None for a
            solver that has its own levels, such as `FromDiffusers`.
        solver: such as `Heun()`.
        cond: condition tree; tensors have a leading axis of B or 1, and reach the denoiser with B.
        generator: of all noise that the run draws: one, or one for each sample. None is torch's own.
        noise: "generator" draws from it; "canvas" has noise that belongs to places, and takes no generator.
        seed: of canvas noise, one 64-bit integer for each sample, or one alone for a batch of one.
        offset: of canvas noise, the signed coordinates of the canvas's first element; None is the origin.
        corrector: a sampler that stays at its level, run after each step at the level reached, never at 0.
        callback: called after each step, or several of them, in order, each seeing what the last one left.
        progress: True shows a bar on stderr, False none, None one where stderr is a terminal.
        on_nonfinite: "raise" looks at the canvas after each step; "ignore" does not.

    Returns:
        [B, C, *S], float32 (float64 if `x` is), on the device of `x`: also where StopSampling ended the run.

    Raises:
        ValueError: an argument does not fit; the message says which, and what to do.
        NonFiniteError: the canvas holds NaN or infinity; its `step` says since when.
        ImportError: `progress=True` without tqdm.

    Note:
        One solver state and one noise draw for the whole canvas, whatever the denoiser is made of. Same seed,
        same result. Runs without autograd; a denoiser that needs gradients turns them on for itself.
        Canvas noise is a function of seed, step, channel and coordinates: a sample of a batch, a crop, an
        extended canvas and a resumed run have that of the whole. Start such a run from `initial`.
        "raise" costs a sum per step on the CPU and one synchronisation per step on an accelerator.
        With a callback the denoiser's estimate is kept for `info.denoised`, so a fused `affine` is not used.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: x / (1 + sigma**2).reshape(-1, 1, 1)  # data: standard normal
        >>> g = torch.Generator().manual_seed(0)
        >>> sigmas = schedules.karras(20)
        >>> x = sigmas[0] * torch.randn(4, 1, 1000, generator=g)
        >>> samplers.sample(D, x, sigmas, samplers.Heun(), generator=g).std().round(decimals=1)
        tensor(1.)
    """
    source = source_of("sample", generator, noise, seed, offset)
    run = _prepare(
        "sample", denoiser, x, sigmas, solver, cond, source, corrector, callback, progress, on_nonfinite
    )
    # With a callback, somebody else sees the states, and may keep them.
    run = replace(run, keep_denoised=bool(run.callbacks), alone=not run.callbacks)
    state = run.state
    with closing(run.states()) as states:
        for after, _ in states:
            state = after
    return state.x


def trajectory(
    denoiser: Denoiser,
    x: Tensor | State,
    sigmas: Tensor | Sequence[float] | None,
    solver: Sampler,
    *,
    cond: Cond = None,
    generator: Generators = None,
    noise: Literal["generator", "canvas"] = "generator",
    seed: int | Sequence[int] | None = None,
    offset: Sequence[int] | None = None,
    corrector: Sampler | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool | None = False,
    on_nonfinite: Literal["raise", "ignore"] = "raise",
) -> Iterator[tuple[State, Info]]:
    """Iterate over the states of a run, one per step: pause, look, stop, or resume from any of them.

    Args:
        denoiser: as for `sample`.
        x: [B, C, *S], floating, or the State to resume from.
        sigmas: [N + 1], as for `sample`; those of the whole run also when it is resumed.
        solver: as for `sample`.
        cond: as for `sample`.
        generator: as for `sample`. To resume a stochastic run bit for bit, hand over the same generator.
        noise: as for `sample`. Canvas noise knows the step, and needs nothing but the seed to be resumed.
        seed: as for `sample`.
        offset: as for `sample`.
        corrector: as for `sample`.
        callback: as for `sample`.
        progress: as for `sample`.
        on_nonfinite: as for `sample`.

    Returns:
        An iterator of (State, Info): the state after a step and what there is to know of that step.

    Raises:
        ValueError: as for `sample`, at once, not at the first step.
        NonFiniteError: as for `sample`.
        ImportError: `progress=True` without tqdm.

    Note:
        The same loop as `sample`, so the same numbers wherever the denoiser has no fused `affine`.

    Example:
        >>> import torch
        >>> from intarsia import samplers, schedules
        >>> D = lambda x, sigma, cond=None: torch.zeros_like(x)
        >>> sigmas = schedules.karras(3)
        >>> run = samplers.trajectory(D, torch.ones(1, 1, 1), sigmas, samplers.Euler())
        >>> state, info = next(run)
        >>> round(state.sigma, 3), info.denoised.item()
        (2.515, 0.0)
        >>> [s.step for s, _ in samplers.trajectory(D, state, sigmas, samplers.Euler())]
        [2, 3]
    """
    name = "trajectory"
    source = source_of(name, generator, noise, seed, offset)
    run = _prepare(
        name, denoiser, x, sigmas, solver, cond, source, corrector, callback, progress, on_nonfinite
    )
    return run.states()


class _Tap:
    """Stands before a denoiser, hides its fused update, and keeps its first estimate of a step."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.first: Tensor | None = None

    @property
    def native(self) -> Denoiser:
        network: Denoiser = self.denoiser.native  # type: ignore[attr-defined]
        return network

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        denoised = self.denoiser(x, sigma, cond)
        self.first = denoised if self.first is None else self.first
        return denoised


@dataclass(frozen=True, eq=False)
class _Run:
    """Checked arguments of one run."""

    denoiser: Denoiser
    state: State
    sigmas: list[float]
    solver: Sampler
    cond: Cond
    source: Generators | CanvasNoise
    corrector: Sampler | None
    callbacks: tuple[Callback, ...]
    progress: bool | None
    check: bool
    keep_denoised: bool = True
    alone: bool = False

    def states(self) -> Generator[tuple[State, Info], None, None]:
        state = replace(self.state, spare=() if self.alone else None)
        steps = len(self.sigmas) - 1
        with closing(progress_bar(self.progress, total=steps, done=state.step)) as bar:
            for step in range(state.step, steps):
                before = state
                try:
                    state, info = self._step(state, *self.sigmas[step : step + 2])
                except StopSampling:
                    return
                except Exception as error:
                    if isinstance(error, NonFiniteError):
                        error.step = step
                    error.add_note(f"in step {step} of {steps}, from sigma {self.sigmas[step]:.6g}")
                    raise
                self._check(step, state)
                bar.update()
                stop = False
                for callback in self.callbacks:
                    try:
                        replacement = callback(step, state, info)
                    except StopSampling:
                        stop = True
                        break
                    if replacement is not None:
                        state = check_replacement(state, replacement)
                        self._check(step, state)
                if self.alone:
                    state = recycled(state, before, step == self.state.step)
                del before
                yield state, info
                if stop:
                    return

    def _check(self, step: int, state: State) -> None:
        if self.check:
            check_finite(state.x, step, self.sigmas[step + 1])

    def _noise(self, purpose: Purpose, step: int) -> Generators:
        return self.source.at(purpose, step) if isinstance(self.source, CanvasNoise) else self.source

    @torch.no_grad()
    def _step(self, state: State, sigma: float, sigma_next: float) -> tuple[State, Info]:
        tap = _Tap(self.denoiser) if self.keep_denoised else None
        step = state.step
        state, info = self.solver.step(
            tap or self.denoiser, state, sigma, sigma_next, self.cond, self._noise(Purpose.SOLVER, step)
        )
        if tap is not None and info.denoised is None:
            info = replace(info, denoised=tap.first)
        if self.corrector is not None and sigma_next > 0:
            level = replace(
                self.corrector.init(state.x), sigma=sigma_next, step=state.step, num_steps=state.num_steps
            )
            corrected, about = self.corrector.step(
                self.denoiser,
                level,
                sigma_next,
                sigma_next,
                self.cond,
                self._noise(Purpose.CORRECTOR, step),
            )
            state, info = replace(state, x=corrected.x), replace(info, corrector=about)
        return state, info


def _prepare(
    name: str,
    denoiser: Denoiser,
    x: Tensor | State,
    sigmas: Tensor | Sequence[float] | None,
    solver: Sampler,
    cond: Cond,
    source: Generators | CanvasNoise,
    corrector: Sampler | None,
    callback: Callback | Sequence[Callback] | None,
    progress: bool | None,
    on_nonfinite: str,
) -> _Run:
    if on_nonfinite not in ("raise", "ignore"):
        raise ValueError(
            f"{name}: on_nonfinite must be 'raise' or 'ignore', got {on_nonfinite!r}. "
            "'raise' stops at the first step that makes NaN or infinity."
        )
    check_sampler(name, "solver", solver)
    levels = levels_of(name, sigmas, solver)
    if corrector is not None:
        check_sampler(name, "corrector", corrector)
        check_scale(name, solver)
    state = check_start(name, x, levels, solver, check=on_nonfinite == "raise")
    check_source(name, source, state.x)
    check_cond(name, cond, state.x.shape[0])
    callbacks = (callback,) if callable(callback) else tuple(callback or ())
    return _Run(
        denoiser,
        state,
        levels,
        solver,
        broadcast_cond(cond, state.x.shape[0]),
        source,
        corrector,
        callbacks,
        progress,
        on_nonfinite == "raise",
    )
