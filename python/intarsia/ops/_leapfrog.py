# SPDX-License-Identifier: Apache-2.0
"""One registered operator behind every step of Hamiltonian Monte Carlo: a pass of parts over phase space.

With r = damping v + spread n, w = r + kick g, y = x + drift w / M and E = 1/2 sum r^2 / M (or of w), the
gradients are W = W' + drift Y / M [+ E' w / M] for w and R = R' + W [+ E' r / M] for r; then g receives
kick W, v receives damping R and n receives spread R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import _backend
from intarsia.ops import _parts as part
from intarsia.ops._check import compute_dtype, fail
from intarsia.ops._leapfrog_check import (
    NAMES,
    Inputs,
    Key,
    Number,
    check,
    check_apart,
    check_out,
    made,
    number,
)
from intarsia.ops._library import bumped, choose, direct, register


def run(
    parts: int,
    momentum: Tensor,
    position: Tensor | None = None,
    gradient: Tensor | None = None,
    noise: Tensor | None = None,
    step_size: Number = 0.0,
    damping: Number = 0.0,
    mass: Number = 1.0,
    out: Sequence[Tensor | None] | None = None,
    key: Key | None = None,
) -> list[Tensor]:
    """What `parts` makes, in the order position, momentum, refreshed, energy.

    Args:
        parts: the parts of the pass, one of `NAMES`.
        momentum: [B, *s]; under LANGEVIN the position.
        position: [B, *s] where there is a drift.
        gradient: [B, *s] where there is a kick.
        noise: [B, *s] where noise is given.
        step_size: a number or [B].
        damping: a number or [B].
        mass: a number, [B], or as many axes as the momentum.
        out: the four destinations, None for those that are not made.
        key: seeds, purpose, step and offset of noise to be drawn.
    """
    if out is not None and direct():
        quick = getattr(_backend.chosen("cpu"), "leapfrog_if_plain", None)
        numbers = (step_size, damping, mass, parts, key, torch.get_num_threads())
        if quick is not None and quick(*out, position, momentum, gradient, noise, *numbers):
            return bumped(out)
    name = NAMES[parts]
    steps, step = number(name, "step_size", step_size)
    dampings, keep = number(name, "damping", damping)
    masses, weight = number(name, "mass", mass)
    seed, purpose, level, offset = key or ([], 0, 0, [])
    inputs = (
        *(position, momentum, gradient, noise, steps, step, dampings, keep, masses, weight, parts),
        *(seed, purpose, level, offset),
    )
    tensors = (position, momentum, gradient, noise, steps, dampings, masses)
    if not all(tensor is None or isinstance(tensor, Tensor) for tensor in tensors):
        check(Inputs(*inputs))
    if out is None:
        results: list[Tensor] = choose("leapfrog", _leapfrog, *tensors)(*inputs)
        return results
    for tensor in out:
        if tensor is not None and not isinstance(tensor, Tensor):
            fail(name, "out", "hold tensors", type(tensor).__name__, "Allocate them with torch.empty_like.")
    choose("leapfrog_out", _leapfrog_out, *tensors, *out)(*inputs, *out)
    return [tensor for tensor in out if tensor is not None]


def _allocate(momentum: Tensor, parts: int) -> list[Tensor | None]:
    shape, dtype, device = momentum.shape, momentum.dtype, momentum.device
    position, moves, refreshed, energy = made(parts)
    return [
        torch.empty(shape, dtype=dtype, device=device) if position else None,
        torch.empty(shape, dtype=dtype, device=device) if moves else None,
        torch.empty(shape, dtype=dtype, device=device) if refreshed else None,
        torch.empty(shape[0], dtype=torch.float64, device=device) if energy else None,
    ]


def _leapfrog(*arguments: Any) -> list[Tensor]:
    inputs = Inputs(*arguments)
    check(inputs)
    out = _allocate(inputs.momentum, inputs.parts)
    _write(out, inputs)
    return [tensor for tensor in out if tensor is not None]


def _fake(*arguments: Any) -> list[Tensor]:
    inputs = Inputs(*arguments)
    check(inputs)
    return [tensor for tensor in _allocate(inputs.momentum, inputs.parts) if tensor is not None]


def _write(out: Sequence[Tensor | None], inputs: Inputs) -> None:
    momentum, parts = inputs.momentum, inputs.parts
    if momentum.shape[0] == 0:
        return
    _backend.select(momentum.device).leapfrog(
        *out,
        _dense(inputs.position),
        momentum.contiguous(),
        _dense(inputs.gradient),
        _dense(inputs.noise),
        inputs.step if inputs.steps is None else inputs.steps.contiguous(),
        inputs.keep if inputs.dampings is None else inputs.dampings.contiguous(),
        inputs.weight if inputs.masses is None else _dense_mass(inputs.masses, momentum),
        parts,
        (inputs.seed, inputs.purpose, inputs.level, inputs.offset) if inputs.seed else None,
    )


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _dense_mass(mass: Tensor, like: Tensor) -> Tensor:
    if mass.dim() > 1:
        mass = mass.to(like.dtype).expand(mass.shape[0], *like.shape[1:])
    return mass.contiguous()


def _leapfrog_out(*arguments: Any) -> None:
    inputs, out = Inputs(*arguments[:-4]), arguments[-4:]
    name = check(inputs)
    check_out(name, out, inputs)
    check_apart(name, out, inputs)
    _write(out, inputs)
    bumped(out)


def _fake_out(*arguments: Any) -> None:
    inputs = Inputs(*arguments[:-4])
    check_out(check(inputs), arguments[-4:], inputs)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    given = Inputs(*inputs)
    parts, momentum = given.parts, given.momentum
    for argument, tensor in (("step_size", given.steps), ("damping", given.dampings), ("mass", given.masses)):
        number(NAMES[parts], argument, 1.0 if tensor is None else tensor)
    counted = None
    if parts & part.ENERGIES:
        renewed, kicked = parts & part.REFRESH, parts & part.ENERGY_AFTER and parts & part.KICKS
        counted = output[-2] if renewed or kicked else momentum
    ctx.save_for_backward(counted, given.steps, given.dampings, given.masses)
    ctx.numbers = (given.step, given.keep, given.weight, parts)
    ctx.like = (momentum.dim(), momentum.dtype)
    ctx.lengths = (len(given.seed), len(given.offset))


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    counted, steps, dampings, masses = ctx.saved_tensors
    step, keep, weight, parts = ctx.numbers
    dim, dtype = ctx.like
    sums = compute_dtype(dtype)

    def spread(tensor: Tensor | None, value: float) -> Any:
        if tensor is None:
            return value
        return tensor.to(sums).view(-1, *[1] * (dim - 1)) if tensor.dim() == 1 else tensor.to(sums)

    def add(*terms: Tensor | None) -> Any:
        there = [term.to(sums) for term in terms if term is not None]
        return sum(there[1:], there[0]) if there else None

    def times(factor: Any, term: Tensor | None) -> Any:
        return None if term is None else factor * term.to(sums)

    eps, damping, mass = spread(steps, step), spread(dampings, keep), spread(masses, weight)
    given = iter(grads)
    to_x, to_w, to_r, to_energy = (next(given) if there else None for there in made(parts))
    to_counted = None
    if to_energy is not None:
        to_counted = counted.to(sums) * (to_energy.to(sums).view(-1, *[1] * (dim - 1)) / mass)
    before = bool(parts & part.ENERGY_BEFORE)
    pull = add(to_w, times(eps / mass, to_x), None if before else to_counted)
    kick = eps / 2 if parts & part.HALF_KICK else eps
    to_gradient = times(kick, pull) if parts & part.KICKS else None
    pull = add(pull, to_r, to_counted if before else None)
    to_noise = None
    if parts & part.LANGEVIN:
        to_noise = times(_root(2 * eps), pull)
    elif parts & part.REFRESH:
        to_noise = times(_root((1 - damping) * (1 + damping)) * _root(mass), pull)
        pull = times(damping, pull)
    grads = [to_x, pull, to_gradient, to_noise]
    back = [
        None if grad is None or not needed else grad.to(dtype)
        for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)
    ]
    # An empty list passes for one of tensors, whose gradients are a list, too.
    lists: list[Any] = [None if length else [] for length in ctx.lengths]
    return (*back, *[None] * 7, lists[0], None, None, lists[1])


def _root(value: Any) -> Any:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


_ARGUMENTS = (
    "Tensor? position, Tensor momentum, Tensor? gradient, Tensor? noise, "
    "Tensor? step_sizes, float step_size, Tensor? dampings, float damping, Tensor? masses, float mass, "
    "int parts, int[] seed, SymInt purpose, SymInt step, SymInt[] offset"
)
_OUT = "Tensor(a!)? position_out, Tensor(b!)? momentum_out, Tensor(c!)? refreshed_out, Tensor(d!)? energy_out"
register("leapfrog", f"({_ARGUMENTS}) -> Tensor[]", _leapfrog, _fake, setup=_setup, backward=_backward)
register("leapfrog_out", f"({_ARGUMENTS}, {_OUT}) -> ()", _leapfrog_out, _fake_out)
