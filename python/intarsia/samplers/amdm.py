# SPDX-License-Identifier: Apache-2.0
"""Aggregation of several models on the sphere: each steps its own state, and they agree on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from intarsia import ops
from intarsia.guidance import process_of
from intarsia.samplers._noise import normal_like
from intarsia.samplers.euler import DDIM
from intarsia.samplers.loop import Callback, sample
from intarsia.types import (
    Cond,
    Denoiser,
    Generators,
    Info,
    Sampler,
    State,
    broadcast_cond,
    check_canvas,
    check_cond,
    sizes_of,
)

__all__ = ["AMDM", "amdm"]

Weights = Sequence[float] | Sequence[Sequence[float]]


class _Zero:
    """Noise that is none, and a count of who wanted it: what is left of a step is its mean."""

    def __init__(self) -> None:
        self.draws = 0

    def normal_like(self, x: Tensor, /) -> Tensor:
        self.draws += 1
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class AMDM:
    """The solver of `amdm`: see there. The run's own denoiser is model 1.

    Attributes:
        others: models 2 to N.
        conds: their conditions.
        starts: their states at the start, or None for that of model 1.
        weights: of the fold: N - 1 numbers ("sequential") or N ("karcher"); or such a row for each step.
        eta: longest step towards a model's own mean, in the scale x / sqrt(1 + sigma^2).
        steps: in which they agree; then model 1 goes on alone.
        solver: that each of them steps with.
        fold: "sequential" is Algorithm 1; "karcher" does not depend on the order.
        aggregate: "slerp"; "linear" averages; "release" does as the published code does.
        region_mask: [*S] in [0, 1], where they agree; elsewhere each goes its own way.
    """

    others: tuple[Denoiser, ...]
    conds: tuple[Cond, ...]
    weights: Weights
    eta: float
    steps: int
    solver: Sampler
    fold: Literal["sequential", "karcher"] = "sequential"
    aggregate: Literal["slerp", "linear", "release"] = "slerp"
    region_mask: Tensor | None = None
    starts: tuple[Tensor, ...] | None = None

    def init(self, x: Tensor) -> State:
        """Return the state before the first step: that of model 1, the others' in its history."""
        starts = self.starts or (x,) * len(self.others)
        states = tuple(self.solver.init(start.to(x.dtype)) for start in starts)
        return State(x, history=(self.solver.init(x), *states))

    def step(
        self,
        D: Denoiser,
        state: State,
        sigma: float,
        sigma_next: float,
        cond: Cond = None,
        generator: Generators = None,
    ) -> tuple[State, Info]:
        """Return the state at `sigma_next`: agreed in the first steps, model 1's afterwards."""
        own = replace(state.history[0], x=state.x, sigma=sigma, step=state.step, num_steps=state.num_steps)
        if state.step >= self.steps:
            after, info = self.solver.step(D, own, sigma, sigma_next, cond, generator)
            return state.advance(after.x, sigma_next, history=(after,)), info
        models = [(D, cond, own), *zip(self.others, self.conds, state.history[1:], strict=True)]
        spread = self._spread(sigma, sigma_next)
        noise = normal_like(state.x, generator) if spread else None
        states, moved, evaluations = [], [], 0
        for model, told, before in models:
            silent = _Zero()
            kept = replace(before, sigma=sigma, step=state.step, num_steps=state.num_steps, spare=None)
            after, info = self.solver.step(model, kept, sigma, sigma_next, told, cast(Any, silent))
            if silent.draws and not hasattr(self.solver, "spread"):
                raise ValueError(
                    f"amdm: solver must say how much noise it adds, got {type(self.solver).__name__}, which "
                    "draws some and has no spread(sigma, sigma_next). Take DDIM or EulerAncestral."
                )
            evaluations += info.evaluations
            states.append(after)
            moved.append(after.x if noise is None else torch.add(after.x, noise, alpha=spread))
        agreed = self._agree(state.step, moved, [one.x for one in states], sigma_next)
        if self.region_mask is not None:
            mask = self.region_mask.to(state.x)
            agreed = [torch.lerp(apart, one, mask) for apart, one in zip(moved, agreed, strict=True)]
        states = [replace(one, x=x) for one, x in zip(states, agreed, strict=True)]
        # Once the others are done, nobody keeps their states.
        kept_states = tuple(states) if state.step + 1 < self.steps else (states[0],)
        after = state.advance(agreed[0], sigma_next, history=kept_states)
        return after, Info(sigma, sigma_next, evaluations=evaluations, sigma_hat=sigma)

    def _spread(self, sigma: float, sigma_next: float) -> float:
        own = getattr(self.solver, "spread", None)
        return 0.0 if own is None else float(own(sigma, sigma_next))

    def _agree(self, step: int, states: list[Tensor], means: list[Tensor], sigma: float) -> Sequence[Tensor]:
        scale = (1 + sigma**2) ** -0.5
        weights = [float(w) for w in _row(self.weights, step)]
        seen, around = ([one * scale for one in many] for many in (states, means))
        if self.aggregate == "linear":
            return [one / scale for one in _linear(seen, around, weights, self.eta, self.fold)]
        release = self.aggregate == "release"
        agreed = ops.spherical_aggregate(
            seen,
            around,
            weights,
            self.eta,
            fold="mean" if self.fold == "karcher" else "sequential",
            angle="orthogonal" if release else "exact",
            norm="batch" if release else "sample",
        )
        return (agreed / scale).unbind(0)


def amdm(
    denoisers: Sequence[Denoiser],
    x: Tensor | Sequence[Tensor],
    sigmas: Tensor | Sequence[float],
    *,
    weights: Weights = (0.5,),
    eta: float = 0.3,
    steps: int = 20,
    solver: Sampler | None = None,
    conds: Sequence[Cond] | None = None,
    fold: Literal["sequential", "karcher"] = "sequential",
    aggregate: Literal["slerp", "linear", "release"] = "slerp",
    region_mask: Tensor | None = None,
    generator: Generators = None,
    noise: Literal["generator", "canvas"] = "generator",
    seed: int | Sequence[int] | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    progress: bool | None = None,
) -> Tensor:
    """Sample from several models at once: they agree on one state for the first steps, model 1 ends alone.

    In each of the first `steps` steps every model steps its own state x_i, with its mean mu_i; then
    `x' = slerp(x_1, ..., x_N)` and `x_i = x' - min(eta, r_i) (x' - mu_i) / r_i`, `r_i = ||x' - mu_i||`, all
    in the scale `x / sqrt(1 + sigma^2)`, per sample. Each model sees its own state, which the others have
    drawn along, and adds what it knows.

    Args:
        denoisers: two or more on one canvas and one process; composites as well, whatever they predict.
        x: [B, C, *S], `sigmas[0] * noise`: all models begin there; or one for each model.
        sigmas: [N + 1] noise levels.
        weights: of the fold, w_k is the weight of what was folded so far: N - 1 numbers for "sequential", N
            shares for "karcher"; or one such row for each of the `steps`.
        eta: longest step towards a model's own mean; 0 keeps all on the agreed state.
        steps: s; 0 is model 1's plain run, bit for bit. The paper takes 20 of 50.
        solver: DDIM() if None; one that draws noise has to say how much, as `spread(sigma, sigma_next)`.
        conds: a condition tree for each model.
        fold: "sequential" as in Algorithm 1, or "karcher": the mean on the sphere, whatever the order.
        aggregate: "slerp"; "linear" averages (an ablation); "release" assumes right angles and takes norms
            over the batch, as the published code does (with its eta of about 45).
        region_mask: [*S] in [0, 1]: agree there; elsewhere every model goes its own way.
        generator: of the noise that is drawn: once per step, shared by the models.
        noise: as for `sample`.
        seed: as for `sample`.
        callback: as for `sample`; `state.x` is model 1's, `state.history` has all models' states.
        progress: as for `sample`.

    Returns:
        [B, C, *S]: model 1's state at the end.

    Raises:
        ValueError: fewer than two models, processes or sizes that differ, weights that do not fit, an eta
            below 0, or a solver that draws noise and does not say how much.
        NonFiniteError: as for `sample`.

    Note:
        One evaluation of each model a step, none of them extra, and two passes over the states. Identical
        models make one model's run with a deterministic solver.

    Source:
        Yue et al. 2024, "Improving fine-grained control via aggregation of multiple diffusion models",
        algorithm 1.

    Example:
        >>> from intarsia import samplers, schedules
        >>> def towards(mean):
        ...     return lambda x, s, cond=None: mean + (x - mean) / (1 + s**2).reshape(-1, 1, 1)
        >>> sigmas = schedules.karras(10)
        >>> x = sigmas[0] * torch.ones(1, 1, 4)
        >>> samplers.amdm([towards(1.0), towards(2.0)], x, sigmas, steps=4).shape
        torch.Size([1, 1, 4])
    """
    models = list(denoisers)
    starts = list(x) if isinstance(x, (list, tuple)) else [cast(Tensor, x)] * len(models)
    told = list(conds) if conds is not None else [None] * len(models)
    _check(models, starts, told, weights, eta, steps, fold, aggregate, region_mask)
    batch = starts[0].shape[0]
    run = AMDM(
        tuple(models[1:]),
        tuple(broadcast_cond(cond, batch) for cond in told[1:]),
        weights,
        eta,
        steps,
        solver or DDIM(),
        fold,
        aggregate,
        region_mask,
        tuple(starts[1:]),
    )
    plain = steps == 0
    return sample(
        models[0],
        starts[0],
        sigmas,
        run.solver if plain else run,
        cond=told[0],
        generator=generator,
        noise=noise,
        seed=seed,
        callback=callback,
        progress=progress,
    )


def _row(weights: Weights, step: int) -> Sequence[float]:
    first = weights[0]
    if isinstance(first, (int, float)):
        return cast(Sequence[float], weights)
    return cast(Sequence[Sequence[float]], weights)[step]


def _linear(
    states: list[Tensor], means: list[Tensor], weights: list[float], eta: float, fold: str
) -> list[Tensor]:
    if fold == "karcher":
        total = sum(weights)
        agreed = sum(((w / total) * x for w, x in zip(weights, states, strict=True)), 0 * states[0])
    else:
        agreed = states[0]
        for weight, state in zip(weights, states[1:], strict=True):
            agreed = weight * agreed + (1 - weight) * state
    shape = (-1, *(1,) * (agreed.ndim - 1))
    made = []
    for mean in means:
        apart = agreed - mean
        far = apart.double().flatten(1).norm(dim=1)
        share = (far.clamp(max=eta) / far.clamp_min(torch.finfo(torch.float64).tiny)).to(agreed.dtype)
        made.append(agreed - share.reshape(shape) * apart)
    return made


def _check(
    models: list[Denoiser],
    starts: list[Tensor],
    conds: list[Cond],
    weights: Weights,
    eta: float,
    steps: int,
    fold: str,
    aggregate: str,
    region_mask: Tensor | None,
) -> None:
    def fail(argument: str, requirement: str, got: object, remedy: str) -> None:
        raise ValueError(f"amdm: {argument} must {requirement}, got {got}. {remedy}")

    count = len(models)
    if count < 2:
        fail("denoisers", "be two or more", count, "One model needs samplers.sample.")
    for name, given in (("x", starts), ("conds", conds)):
        if len(given) != count:
            fail(name, f"be one for each of {count} models", len(given), "Keep the models' order.")
    for start in starts:
        check_canvas("amdm", start)
        if start.shape != starts[0].shape:
            got = f"{list(starts[0].shape)} and {list(start.shape)}"
            fail("x", "have one shape for all models", got, "They agree on one canvas.")
    for number, (model, cond) in enumerate(zip(models, conds, strict=True)):
        check_cond("amdm", cond, starts[0].shape[0])
        mine, first = process_of(model), process_of(models[0])
        if _table(mine) is not None and _table(first) is not None and _table(mine) != _table(first):
            got = f"{first} and {mine} in model {number + 1}"
            fail("denoisers", "share one process", got, "Models of one noise schedule can agree on a state.")
        sizes, canvas = sizes_of(model), tuple(starts[0].shape[2:])
        if sizes is not None and canvas not in [tuple(size) for size in sizes]:
            remedy = "Wrap it in compose.average for a larger canvas."
            fail("x", f"have a size that model {number + 1} knows, {sizes}", canvas, remedy)
    if not 0 <= eta < float("inf"):
        fail("eta", "be a finite number not below 0", eta, "The paper takes 0.3.")
    if steps < 0:
        fail("steps", "not be negative", steps, "0 is model 1's plain run.")
    if fold not in ("sequential", "karcher"):
        fail("fold", "be 'sequential' or 'karcher'", repr(fold), "The first is Algorithm 1.")
    if aggregate not in ("slerp", "linear", "release"):
        fail("aggregate", "be 'slerp', 'linear' or 'release'", repr(aggregate), "The first is the paper's.")
    if aggregate == "release" and fold == "karcher":
        fail("fold", "be 'sequential' with aggregate='release'", repr(fold), "The release folds in order.")
    if region_mask is not None and region_mask.shape != starts[0].shape[2:]:
        shape, wanted = list(region_mask.shape), list(starts[0].shape[2:])
        fail("region_mask", f"have the shape of the canvas, {wanted}", shape, "One number for each place.")
    _check_weights(weights, count if fold == "karcher" else count - 1, steps)


def _check_weights(weights: Weights, wanted: int, steps: int) -> None:
    nested = len(weights) > 0 and not isinstance(weights[0], (int, float))
    rows: list[Any] = list(weights) if nested else [weights]
    if nested and len(rows) < steps:
        raise ValueError(
            f"amdm: weights must have a row for each of {steps} steps, got {len(rows)}. "
            "One row alone serves all steps."
        )
    for row in rows:
        if len(row) != wanted or not all(0 <= float(w) <= 1 for w in row):
            raise ValueError(
                f"amdm: weights must be {wanted} numbers within 0 and 1, got {list(row)}. "
                "A fold in order has one fewer than there are models."
            )


def _table(process: Any) -> Any:
    """What a process says of its noise, without what is predicted."""
    return process[1:] if isinstance(process, tuple) and len(process) > 1 else None
