# SPDX-License-Identifier: Apache-2.0
"""The leapfrog step by the public ops."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks import philox
from benchmarks.suite import Call, Out, public_op

__all__ = ["build", "noise_of"]

STREAM = (2, 11)


def _seeds(problem: Any) -> list[int]:
    return [1000 + b for b in range(problem.case.batch)]


def noise_of(problem: Any) -> Tensor:
    """Return the normals [B, C, H, W] float64 that our refresh draws."""
    channels, height, width = problem.case.shape
    fields = [
        philox.canvas_normals(seed, STREAM, range(height), width, channel)
        for seed in _seeds(problem)
        for channel in range(channels)
    ]
    return torch.stack(fields).view(-1, channels, height, width).to(problem.device)


def build(problem: Any, out: Out) -> Call:
    """Return our call: both halves around the gradient, then the choice, written where the proposal is."""
    if problem.case.kind == "mid":
        return _mid(problem, out)
    begin, end, select = (public_op(name) for name in ("leapfrog_begin", "leapfrog_end", "metropolis_select"))
    module = importlib.import_module("intarsia.ops")
    point, selected = module.PhasePoint, module.Selected
    x, v, h, mass = problem.position, problem.momentum, problem.step_size, problem.mass
    options: dict[str, Any] = {"damping": problem.damping, "noise": problem.noise}
    if problem.case.kind == "step":
        public_op("leapfrog_begin", "seed", "stream")
        options = {"damping": problem.damping, "seed": _seeds(problem), "stream": STREAM}
    first, last = torch.empty_like(problem.potential), torch.empty_like(problem.potential)
    # Where the chosen energies go, so that the given ones stay as they are.
    energies = torch.empty_like(problem.potential)
    kept = None if out is None else (out[0], out[1], torch.empty_like(v), first)
    flags = torch.empty_like(energies, dtype=torch.bool), torch.empty_like(energies)

    def call() -> tuple[Tensor, Tensor]:
        position, momentum, refreshed, kinetic = begin(x, v, problem.gradient, h, mass, out=kept, **options)
        _, after = end(momentum, problem.next_gradient, h, mass, out=(momentum, last))
        current = point(x, refreshed, problem.potential, kinetic)
        proposed = point(position, momentum, problem.next_potential, after)
        target = point(position, momentum, energies, after)
        select(current, proposed, problem.uniform, out=target if out is None else selected(target, *flags))
        return position, momentum

    return call


def _mid(problem: Any, out: Out) -> Call:
    kick_drift, x, v = public_op("kick_drift"), problem.position, problem.momentum
    return lambda: kick_drift(x, v, problem.gradient, problem.step_size, out=(x, v))
