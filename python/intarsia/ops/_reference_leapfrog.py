# SPDX-License-Identifier: Apache-2.0
"""The steps of Hamiltonian Monte Carlo in plain PyTorch: oracle and fallback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import _parts as part
from intarsia.ops._check import compute_dtype
from intarsia.ops._leapfrog_check import Key, canvas
from intarsia.ops._reference_noise import canvas_noise

Number = float | Tensor
State = Sequence[Any]


def leapfrog(
    position_out: Tensor | None,
    momentum_out: Tensor | None,
    refreshed_out: Tensor | None,
    energy_out: Tensor | None,
    position: Any,
    momentum: Tensor,
    gradient: Any,
    noise: Any,
    step_size: Number,
    damping: Number,
    mass: Number,
    parts: int,
    key: Key | None,
) -> None:
    """One pass of `parts`, in their order, in float32 (float64 for float64 states).

    Args:
        position_out: [B, *s] or None, written; like every output perhaps the input of its name.
        momentum_out: [B, *s] or None, written.
        refreshed_out: [B, *s] or None, written.
        energy_out: [B] float64 or None, written.
        position: [B, *s] or None.
        momentum: [B, *s]; under LANGEVIN the position.
        gradient: [B, *s] or None.
        noise: [B, *s] or None.
        step_size: a number or [B].
        damping: a number or [B].
        mass: a number, [B] or [1|B, *s].
        parts: what to do.
        key: seeds, purpose, step and offset of noise that is to be drawn, or None.
    """
    if key is not None:
        noise = torch.empty_like(momentum)
        canvas_noise(canvas(noise), *key)
    dtype = compute_dtype(momentum.dtype)
    step, keep, weight = (_spread(number, momentum, dtype) for number in (step_size, damping, mass))
    v = momentum.to(dtype)
    if parts & part.LANGEVIN:
        v = v + _root(2 * step) * noise.to(dtype)
    if parts & part.REFRESH:
        v = keep * v + _root((1 - keep) * (1 + keep)) * _root(weight) * noise.to(dtype)
    renewed = v
    if parts & (part.KICK | part.HALF_KICK):
        v = v + (step / 2 if parts & part.HALF_KICK else step) * gradient.to(dtype)
    x: Any = position.to(dtype) + step * v / weight if parts & part.DRIFT else None
    if energy_out is not None:
        counted = (renewed if parts & part.ENERGY_BEFORE else v).double()
        energy_out.copy_((counted.square() / weight).flatten(1).sum(1) / 2)
    for out, value in ((refreshed_out, renewed), (momentum_out, v), (position_out, x)):
        if out is not None:
            out.copy_(value)


def metropolis_select(
    out: State, accepted: Tensor, probability: Tensor, current: State, proposed: State, uniform: Tensor
) -> None:
    """The proposed state where accepted, else the current one with its momentum negated.

    Args:
        out: position [B, *s], momentum or None, energy [B], kinetic_energy [B], gradient or None; written.
        accepted: [B] bool, written.
        probability: [B] float64, written.
        current: the same.
        proposed: the same.
        uniform: [B] in [0, 1).
    """
    before, after = (state[2].double() + state[3] for state in (current, proposed))
    difference = before - after
    chance = difference.clamp(max=0).exp()
    probability.copy_(torch.where(difference.isfinite(), chance, 0.0))
    accepted.copy_(uniform < probability)
    for place, (target, new, old) in enumerate(zip(out, proposed, current, strict=True)):
        if target is not None:
            kept = old.neg() if place == 1 else old
            target.copy_(torch.where(accepted.view(-1, *[1] * (new.dim() - 1)), new, kept))


def _spread(number: Number, like: Tensor, dtype: torch.dtype) -> Any:
    if not isinstance(number, Tensor):
        return torch.tensor(number, dtype=dtype).item()
    wide = number.to(dtype)
    return wide.view(-1, *[1] * (like.dim() - 1)) if number.dim() == 1 else wide


def _root(number: Number) -> Number:
    return number.sqrt() if isinstance(number, Tensor) else math.sqrt(number)
