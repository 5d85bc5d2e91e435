# SPDX-License-Identifier: Apache-2.0
"""Any scheduler of diffusers as a solver: it steps the canvas once, in its own scale."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.types import Cond, Denoiser, Generators, Info, NoiseSource, State

__all__ = ["FromDiffusers"]


@dataclass(frozen=True, eq=False)
class FromDiffusers:
    """A scheduler of diffusers as a solver: `samplers.sample(D, x, None, FromDiffusers(scheduler))`.

    The canvas stays in the scheduler's own scale, the loop runs over `scheduler.timesteps` (Heun-like ones
    have more of them than levels), and the denoiser's `native` answers in the network's own prediction type:
    nothing is divided by a signal scale that may be 0, so flow-match and zero-terminal-SNR schedules work.
    One scheduler state and one draw of noise serve the whole canvas, whatever the denoiser is made of.

    Args:
        scheduler: of diffusers, after `scheduler.set_timesteps(...)`. It is copied, never stepped itself.
        eta: handed to schedulers whose step takes it (DDIM, TCD); None leaves them their default.

    Raises:
        ValueError: no scheduler, or one without timesteps.

    Note:
        A State owns its copy of the scheduler, so a run can be resumed from any state, and threads may share
        the object. `State.marginal` has the scales of signal and noise at the level reached; `State.sigma` is
        their ratio (infinite at the start of a flow). Start from `x = solver.initial(noise)`.
        With `noise="canvas"` schedulers that take `variance_noise` or draw none work, the others refuse.

    Source:
        https://huggingface.co/docs/diffusers/api/schedulers/overview

    Example:
        >>> class Halving:  # stands for a scheduler of diffusers
        ...     timesteps = torch.tensor([2, 1])
        ...     def step(self, model_output, timestep, sample, return_dict=True):
        ...         return (sample - 0.5 * model_output,)
        >>> class Network:
        ...     def native(self, x, t, cond=None):
        ...         return x
        >>> from intarsia import samplers
        >>> samplers.sample(Network(), torch.ones(1, 1, 2), None, FromDiffusers(Halving()))
        tensor([[[0.2500, 0.2500]]])
    """

    scheduler: Any
    eta: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scheduler, type) or not callable(getattr(self.scheduler, "step", None)):
            got = getattr(self.scheduler, "__name__", type(self.scheduler).__name__)
            raise ValueError(
                f"FromDiffusers: scheduler must be a scheduler of diffusers, got {got}. "
                "Pass pipe.scheduler, or make one with its from_config(pipe.scheduler.config)."
            )
        timesteps = getattr(self.scheduler, "timesteps", None)
        unset = getattr(self.scheduler, "num_inference_steps", 0) is None
        if timesteps is None or len(timesteps) == 0 or unset:
            raise ValueError(
                f"FromDiffusers: scheduler must know its timesteps, got {type(self.scheduler).__name__} "
                "without any. Call scheduler.set_timesteps(num_inference_steps) first."
            )

    def initial(self, noise: Tensor) -> Tensor:
        """Return the canvas to start from, [B, C, *S]: standard normal `noise` in the scheduler's scale."""
        return noise * float(getattr(self.scheduler, "init_noise_sigma", 1.0))

    def levels(self) -> list[float]:
        """Return the N + 1 noise levels, s / a, of a run; those of repeated timesteps repeat."""
        return [_ratio(pair) for pair in self.marginals()]

    def marginals(self) -> list[tuple[float, float] | None]:
        """Return (a, s) of `x = a * x0 + s * n` before each of the N steps and after the last.

        None stands for a scheduler that cannot say.
        """
        return _marginals(self.scheduler)

    def init(self, x: Tensor) -> State:
        """Return the state before the first step, from the canvas `x` [B, C, *S]."""
        marginals, scheduler = self.marginals(), _copied(self.scheduler)
        if isinstance(scheduler.timesteps, Tensor):
            # Tables lie on the host: timesteps beside them, or every step waits for the device.
            scheduler.timesteps = scheduler.timesteps.cpu()
        return State(x, history=(scheduler, tuple(marginals)), marginal=marginals[0])

    def step(
        self,
        D: Denoiser,
        state: State,
        sigma: float,
        sigma_next: float,
        cond: Cond = None,
        generator: Generators = None,
    ) -> tuple[State, Info]:
        """Return the state after the scheduler's next timestep, and its Info.

        Raises:
            ValueError: the denoiser has no `native`.
        """
        scheduler, marginals = _copied(state.history[0]), state.history[1]
        time, x = scheduler.timesteps[state.step], state.x
        scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        told = torch.as_tensor(time).to(x.device).expand(x.shape[0])
        output = _native(D)(scaled, told, cond)
        given = self._given(scheduler, x, generator)
        result = scheduler.step(output, time, x, **given)
        # Some return a tuple whatever they are asked for.
        first = result[0] if isinstance(result, tuple) else result.prev_sample
        clean = None if isinstance(result, tuple) else getattr(result, "pred_original_sample", None)
        after = state.advance(
            first.to(x.dtype),
            sigma_next,
            history=(scheduler, marginals),
            marginal=marginals[state.step + 1],
        )
        return after, Info(sigma, sigma_next, sigma_hat=sigma, denoised=clean)

    def _given(self, scheduler: Any, x: Tensor, generator: Generators) -> dict[str, Any]:
        known = inspect.signature(scheduler.step).parameters
        given: dict[str, Any] = {}
        if self.eta is not None and "eta" in known:
            given["eta"] = self.eta
        if isinstance(generator, NoiseSource):
            if "variance_noise" in known:
                given["variance_noise"] = generator.normal_like(x)
            elif "generator" in known:
                given["generator"] = _Undrawn(type(scheduler).__name__)
        elif "generator" in known:
            given["generator"] = list(generator) if isinstance(generator, tuple) else generator
        return given


class _Undrawn:
    """Stands where a scheduler expects a generator; one that asks it for numbers hears why there are none."""

    def __init__(self, scheduler: str) -> None:
        self.scheduler = scheduler

    @property
    def device(self) -> torch.device:
        raise ValueError(
            f"FromDiffusers: noise must be 'generator' for {self.scheduler}, which draws its own, got "
            "'canvas'. Use a deterministic scheduler, or DDIM, which takes noise from outside."
        )


def _native(D: Denoiser) -> Denoiser:
    try:
        network: Denoiser = D.native  # type: ignore[attr-defined]
    except AttributeError as error:
        kind = getattr(D, "__name__", type(D).__name__)
        raise ValueError(
            f"FromDiffusers: denoiser must offer native(x, t, cond), got {kind} ({error}). "
            "Wrap the network with intarsia.adapters.diffusers.denoiser."
        ) from error
    return network


def _copied(scheduler: Any) -> Any:
    """A scheduler that can be stepped without the first one noticing: lists and canvases are its own."""
    twin = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if type(value) in (list, dict, set):
            setattr(twin, name, copy.copy(value))
        elif isinstance(value, Tensor) and value.ndim > 2:
            # Some add to what they keep in place.
            setattr(twin, name, value.clone())
    return twin


def _marginals(scheduler: Any) -> list[tuple[float, float] | None]:
    """Ask the scheduler for its scales of signal and noise before each step and after the last."""
    steps = len(scheduler.timesteps)
    return [_marginal(scheduler, index, steps) for index in range(steps + 1)]


def _marginal(scheduler: Any, index: int, steps: int) -> tuple[float, float] | None:
    sigmas: Any = getattr(scheduler, "sigmas", None)
    listed = sigmas is not None and len(sigmas) > steps
    if listed and hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        a, s = scheduler._sigma_to_alpha_sigma_t(torch.as_tensor(sigmas[index]).double())
        return float(a), float(s)
    if not (hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")):
        return None
    if index == steps and not listed:
        # A table of signal levels ends in one of its own.
        abar = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        return math.sqrt(abar), math.sqrt(1 - abar)
    probe = copy.copy(scheduler)
    if hasattr(probe, "_step_index"):
        # As after `index` steps of a run: then the level is found by counting, not by searching.
        probe._begin_index, probe._step_index = 0, index
    return _scales(probe, torch.as_tensor(scheduler.timesteps).cpu()[min(index, steps - 1)])


def _scales(probe: Any, time: Tensor) -> tuple[float, float]:
    one, nothing = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    if hasattr(probe, "add_noise"):
        signal = probe.add_noise(one, nothing, time[None])
        noise = probe.add_noise(nothing, one, time[None])
    else:
        signal = probe.scale_noise(one, time[None], nothing)
        noise = probe.scale_noise(nothing, time[None], one)
    return float(signal), float(noise)


def _ratio(pair: tuple[float, float] | None) -> float:
    if pair is None:
        return math.nan
    a, s = pair
    return s / a if a > 0 else math.inf
