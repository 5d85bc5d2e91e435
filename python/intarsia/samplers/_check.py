# SPDX-License-Identifier: Apache-2.0
"""What a run refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from intarsia.types import NonFiniteError, Sampler, State, check_canvas


def levels_of(name: str, sigmas: Tensor | Sequence[float] | None, solver: Sampler) -> list[float]:
    """Return the noise levels [N + 1] as numbers, N at least 1.

    Raises:
        ValueError: not rank 1, no step, NaN, infinite, negative or not falling; given to a solver that has
            its own levels, or not given to one that has none.

    Example:
        >>> from intarsia.samplers import Euler
        >>> levels_of("sample", torch.tensor([1.0, 0.0]), Euler())
        [1.0, 0.0]
    """
    own: Callable[[], list[float]] | None = getattr(solver, "levels", None)
    kind = type(solver).__name__
    if own is not None:
        if sigmas is not None:
            raise ValueError(
                f"{name}: sigmas must be None for {kind}, which has its own levels, got "
                f"{type(sigmas).__name__}. Set them with scheduler.set_timesteps."
            )
        return own()
    if sigmas is None:
        raise ValueError(
            f"{name}: sigmas must be given for {kind}, got None. schedules.karras(n) makes n steps."
        )
    tensor = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu").detach()
    if tensor.ndim != 1:
        raise ValueError(
            f"{name}: sigmas must have shape [N + 1], got {list(tensor.shape)}. "
            "One list of levels serves the whole batch."
        )
    levels: list[float] = tensor.tolist()
    if len(levels) < 2:
        raise ValueError(
            f"{name}: sigmas must hold at least two levels (one step), got {len(levels)}. "
            "schedules.karras(n) makes n steps."
        )
    nan = [math.isnan(s) for s in levels]
    if any(nan):
        raise ValueError(
            f"{name}: sigmas must not hold NaN, got one at index {nan.index(True)}. "
            "Look at how the schedule is made."
        )
    if any(math.isinf(s) for s in levels):
        raise ValueError(
            f"{name}: sigmas must be finite, got {levels[0]} first. A flow-match or zero-terminal-SNR "
            "schedule starts at infinity: samplers.FromDiffusers runs it as it is; or put a large finite "
            "level there (1000 is t = 0.999 of a flow) and start from x = sigmas[0] * noise."
        )
    if min(levels) < 0:
        raise ValueError(f"{name}: sigmas must not be negative, got {min(levels):.6g}. End at 0.")
    for i, (high, low) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        if not low < high:
            raise ValueError(
                f"{name}: sigmas must fall, got {high:.6g} and then {low:.6g} at index {i}. "
                "Sort them from noisy to clean and drop the duplicates."
            )
    return levels


def check_sampler(name: str, argument: str, sampler: object) -> None:
    """Refuse a solver or corrector without `init` and `step`, and a class in the place of an instance.

    Raises:
        ValueError: it is no sampler.

    Example:
        >>> from intarsia.samplers import Euler
        >>> check_sampler("sample", "solver", Euler())
    """
    if isinstance(sampler, type) or not isinstance(sampler, Sampler):
        got = f"the class {sampler.__name__}" if isinstance(sampler, type) else repr(sampler)
        raise ValueError(
            f"{name}: {argument} must be an object with init and step, such as Heun(), got {got}. "
            "Make an instance of one of intarsia.samplers."
        )


def check_scale(name: str, solver: Sampler) -> None:
    """Refuse a corrector beside a solver that keeps the canvas in another scale than `x0 + sigma * n`.

    Raises:
        ValueError: the solver has its own levels.

    Example:
        >>> from intarsia.samplers import Euler
        >>> check_scale("sample", Euler())
    """
    if hasattr(solver, "levels"):
        raise ValueError(
            f"{name}: corrector must be None with {type(solver).__name__}, which keeps the canvas in its own "
            "scale. Use a solver of intarsia.samplers with it."
        )


def check_start(name: str, x: Tensor | State, levels: list[float], solver: Sampler, *, check: bool) -> State:
    """Return the state before the first step, at least float32.

    Args:
        name: the function that a message speaks for.
        x: [B, C, *S], floating, or a state of this run.
        levels: N + 1 noise levels.
        solver: makes the state of a tensor.
        check: whether NaN and infinity are refused.

    Raises:
        ValueError: no canvas, a solver that is none, or a state that does not belong to these levels.
        NonFiniteError: the canvas holds NaN or infinity.

    Example:
        >>> from intarsia.samplers import Euler
        >>> check_start("sample", torch.zeros(1, 1, 2), [1.0, 0.0], Euler(), check=True).num_steps
        1
    """
    canvas = x.x if isinstance(x, State) else x
    check_canvas(name, canvas)
    if canvas.dtype not in (torch.float32, torch.float64):
        canvas = canvas.float()
    if check:
        check_finite(canvas, -1, levels[0])
    steps = len(levels) - 1
    if not isinstance(x, State):
        return replace(solver.init(canvas), sigma=levels[0], step=0, num_steps=steps)
    known = 0 <= x.step <= steps and x.num_steps in (None, steps)
    if not known or (x.sigma is not None and not _same(x.sigma, levels[x.step])):
        raise ValueError(
            f"{name}: x must be a State of this run of {steps} steps, got one at step {x.step} of "
            f"{x.num_steps}, sigma {x.sigma}. Pass the sigmas of the run that it comes from."
        )
    return replace(x, x=canvas, sigma=levels[x.step], num_steps=steps)


def _same(first: float, second: float) -> bool:
    return math.isclose(first, second) or (math.isnan(first) and math.isnan(second))


def check_replacement(state: State, replacement: object) -> State:
    """Return what a callback left: its canvas and history, at the step and level of the run.

    Raises:
        ValueError: something else than a State, or a canvas of another shape, dtype or device.

    Example:
        >>> state = State(torch.zeros(1, 1, 2))
        >>> check_replacement(state, State(torch.ones(1, 1, 2))).x
        tensor([[[1., 1.]]])
    """
    if not isinstance(replacement, State):
        raise ValueError(
            f"callback: the result must be a State or None, got {type(replacement).__name__}. "
            "Return dataclasses.replace(state, x=...)."
        )
    old, new = state.x, replacement.x
    if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
        raise ValueError(
            f"callback: the new x must keep {list(old.shape)}, {old.dtype}, {old.device}, "
            f"got {list(new.shape)}, {new.dtype}, {new.device}. Start another run to change the canvas."
        )
    return replace(
        replacement, sigma=state.sigma, step=state.step, num_steps=state.num_steps, marginal=state.marginal
    )


def check_finite(x: Tensor, step: int, sigma: float) -> None:
    """Refuse a canvas [B, C, *S] with NaN or infinity.

    Raises:
        NonFiniteError: with the step, the noise level and how many elements.

    Example:
        >>> check_finite(torch.zeros(1, 1, 2), 0, 1.0)
    """
    # One pass without a temporary; a sum of large finite numbers may overflow, so a bad sum is only a hint.
    if math.isfinite(x.sum().item()):
        return
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        where = "at the start" if step < 0 else f"after step {step}"
        raise NonFiniteError(
            f"sample: x must be finite, got {bad} of {x.numel()} elements NaN or infinite {where} "
            f"(sigma {sigma:.6g}). Half-precision networks overflow first: try bfloat16 or float32.",
            step=step,
        )
