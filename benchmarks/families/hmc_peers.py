# SPDX-License-Identifier: Apache-2.0
"""The leapfrog step in torch: as public code has it, tuned, and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.suite import Call, Out, Peer

__all__ = ["COMPILED", "PEERS", "PUBLIC", "PUBLIC_MID", "TUNED"]

PUBLIC, TUNED, COMPILED = "public style", "tuned torch", "torch.compile"
PUBLIC_MID, PAIR = "public form", "add_ pair"
State = tuple[Tensor, Tensor]


def _wide(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.view(-1, *[1] * (like.ndim - 1))


def _energy(v: Tensor, mass: float) -> Tensor:
    """Return the kinetic energies [B] in float32, without a product in memory."""
    return torch.linalg.vector_norm(v.flatten(1), dim=1, dtype=torch.float32).square() * (0.5 / mass)


def _public(problem: Any, out: Out, noise: Callable[[], Tensor]) -> Call:
    """Each half kick a pass of its own, squares in memory, `where` at the end."""
    h, g, mass = problem.step_size, problem.damping, problem.mass

    def call() -> State:
        x, v = problem.position, problem.momentum
        v0 = g * v + math.sqrt(1 - g * g) * math.sqrt(mass) * noise()
        kinetic = 0.5 * (v0 * v0 / mass).flatten(1).sum(1)
        v1 = v0 + 0.5 * h * problem.gradient
        x1 = x + h * v1 / mass
        v2 = v1 + 0.5 * h * problem.next_gradient
        next_kinetic = 0.5 * (v2 * v2 / mass).flatten(1).sum(1)
        change = problem.potential + kinetic - problem.next_potential - next_kinetic
        accept = _wide(problem.uniform < torch.exp(change), x)
        chosen = torch.where(accept, x1, x), torch.where(accept, v2, -v0)
        return chosen if out is None else _put(out, chosen)

    return call


def _put(out: Out, results: State) -> State:
    assert isinstance(out, tuple)
    return out[0].copy_(results[0]), out[1].copy_(results[1])


def _tuned(problem: Any, out: Out, noise: Callable[[], Tensor]) -> Call:
    """Fused multiply-adds in place on fresh tensors (or the reused ones), norms without squares in memory."""
    h, g, mass = problem.step_size, problem.damping, problem.mass
    spread = math.sqrt((1 - g * g) * mass)
    keep = None if out is None else torch.empty_like(problem.momentum)

    def call() -> State:
        x, v = problem.position, problem.momentum
        first = torch.mul(v, g, out=keep).add_(noise(), alpha=spread)
        kinetic = _energy(first, mass)
        moved = torch.add(first, problem.gradient, alpha=h / 2, out=None if out is None else out[1])
        place = torch.add(x, moved, alpha=h / mass, out=None if out is None else out[0])
        moved.add_(problem.next_gradient, alpha=h / 2)
        change = problem.potential + kinetic - problem.next_potential - _energy(moved, mass)
        accept = _wide(problem.uniform < torch.exp(change), x)
        if out is None:
            return torch.where(accept, place, x), torch.where(accept, moved, first.neg_())
        torch.where(accept, place, x, out=place)
        return place, torch.where(accept, moved, first.neg_(), out=moved)

    return call


def _compiled(problem: Any, out: Out, given: bool) -> Call:
    h, g, mass = problem.step_size, problem.damping, problem.mass
    spread = math.sqrt((1 - g * g) * mass)

    def step(x, v, gradient, next_gradient, noise, potential, next_potential, uniform, target):  # type: ignore[no-untyped-def]
        n = noise if given else torch.randn_like(v)
        v0 = g * v + spread * n
        v1 = v0 + h / 2 * gradient
        x1 = x + h / mass * v1
        v2 = v1 + h / 2 * next_gradient
        kinetic, next_kinetic = ((w * w).flatten(1).sum(1) * (0.5 / mass) for w in (v0, v2))
        accept = _wide(uniform < torch.exp(potential + kinetic - next_potential - next_kinetic), x)
        chosen = torch.where(accept, x1, x), torch.where(accept, v2, -v0)
        return chosen if target is None else _put(target, chosen)

    call = torch.compile(step, dynamic=False)
    fixed = (problem.position, problem.momentum, problem.gradient, problem.next_gradient, problem.noise)
    energies = (problem.potential, problem.next_potential, problem.uniform)
    return lambda: call(*fixed, *energies, out)


def _drawn(problem: Any) -> Callable[[], Tensor]:
    v, generator = problem.momentum, problem.generator
    return lambda: torch.randn(v.shape, dtype=v.dtype, device=v.device, generator=generator)


def _drawn_into(problem: Any, out: Out) -> Callable[[], Tensor]:
    """Draw into memory that is kept, where results are."""
    if out is None:
        return _drawn(problem)
    buffer = torch.empty_like(problem.momentum)
    return lambda: buffer.normal_(generator=problem.generator)


def _given(problem: Any) -> Callable[[], Tensor]:
    return lambda: problem.noise


def _public_mid(problem: Any, out: Out) -> Call:
    def call() -> State:
        v = problem.momentum + problem.step_size * problem.gradient
        x = problem.position + problem.step_size * v
        return x, v

    return call


def _add_pair(problem: Any, out: Out) -> Call:
    h = problem.step_size

    def call() -> State:
        v = problem.momentum.add_(problem.gradient, alpha=h)
        return problem.position.add_(v, alpha=h), v

    return call


def _compiled_mid(problem: Any, out: Out) -> Call:
    h = problem.step_size

    def step(x: Tensor, v: Tensor, gradient: Tensor) -> State:
        v += h * gradient
        x += h * v
        return x, v

    call = torch.compile(step, dynamic=False)
    return lambda: call(problem.position, problem.momentum, problem.gradient)


PEERS: dict[str, tuple[Peer, ...]] = {
    "step": (
        Peer(PUBLIC, lambda p, out: _public(p, out, _drawn(p)), idiom=True),
        Peer(TUNED, lambda p, out: _tuned(p, out, _drawn_into(p, out))),
        Peer(COMPILED, lambda p, out: _compiled(p, out, False), slow=True, compiled=True),
    ),
    "given_noise": (
        Peer(PUBLIC, lambda p, out: _public(p, out, _given(p)), idiom=True),
        Peer(TUNED, lambda p, out: _tuned(p, out, _given(p))),
        Peer(COMPILED, lambda p, out: _compiled(p, out, True), slow=True, compiled=True),
    ),
    "mid": (
        # It returns fresh tensors: what public code does instead of working in place.
        Peer(PUBLIC_MID, _public_mid, idiom=True, listed=False),
        Peer(PAIR, _add_pair),
        Peer("torch.compile in place", _compiled_mid, slow=True, compiled=True, listed=False),
    ),
}
