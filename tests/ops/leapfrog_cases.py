# SPDX-License-Identifier: Apache-2.0
"""The leapfrog family once more, in float64 and in plain words, and states to ask it about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from intarsia import ops
from torch import Tensor

SHAPES = {"vector": (3, 5), "canvas": (2, 3, 7, 9), "long": (2, 4099), "volume": (1, 2, 3, 4, 5)}
NUMBERS = ("number", "sample", "element", "every")
FUNCTIONS = ("kick", "drift", "kick_drift", "refresh", "langevin", "kinetic_energy", "begin", "end")


@dataclass(frozen=True)
class Case:
    """States, and numbers for each of them or for all."""

    x: Tensor
    v: Tensor
    g: Tensor
    n: Tensor
    step_size: Any
    damping: Any
    mass: Any

    def to(self, change: Any) -> Case:
        both = (change(value) if isinstance(value, Tensor) else value for value in vars(self).values())
        return Case(*both)

    def states(self, change: Any) -> Case:
        return Case(*map(change, (self.x, self.v, self.g, self.n)), self.step_size, self.damping, self.mass)

    def __call__(self, name: str, **more: Any) -> tuple[Tensor, ...]:
        x, v, g, n, eps, damping, mass = vars(self).values()
        calls = {
            "kick": lambda: ops.kick(v, g, eps, **more),
            "drift": lambda: ops.drift(x, v, eps, mass, **more),
            "kick_drift": lambda: ops.kick_drift(x, v, g, eps, mass, **more),
            "refresh": lambda: ops.refresh(v, damping, mass, **({"noise": n} | more)),
            "langevin": lambda: ops.langevin(x, g, eps, **({"noise": n} | more)),
            "kinetic_energy": lambda: ops.kinetic_energy(v, mass, **more),
            "begin": lambda: ops.leapfrog_begin(x, v, g, eps, mass, damping=damping, **({"noise": n} | more)),
            "end": lambda: ops.leapfrog_end(v, g, eps, mass, **more),
        }
        result = calls[name]()
        return (result,) if isinstance(result, Tensor) else tuple(result)


def case(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, numbers: str = "number") -> Case:
    x, v, g, n = (torch.randn(shape).to(dtype) for _ in range(4))
    if numbers == "number":
        return Case(x, v, g, n, 0.3, 0.8, 1.7)
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    step_size, damping = torch.rand(shape[0], dtype=sums), torch.rand(shape[0], dtype=sums)
    sizes = {"sample": shape[:1], "element": (1, *shape[1:]), "every": shape}
    return Case(x, v, g, n, step_size, damping, (torch.rand(sizes[numbers]) + 0.5).to(dtype))


def exact(given: Case, name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """The formulas in `dtype`."""
    x, v, g, n = (state.to(dtype) for state in (given.x, given.v, given.g, given.n))

    def spread(number: Any) -> Any:
        if not isinstance(number, Tensor):
            return number
        number = number.to(dtype)
        return number.view(-1, *[1] * (x.dim() - 1)) if number.dim() == 1 else number

    eps, damping, mass = map(spread, (given.step_size, given.damping, given.mass))
    refreshed = damping * v + (1 - damping**2) ** 0.5 * mass**0.5 * n
    energy = lambda u: (u**2 / mass).double().flatten(1).sum(1) / 2  # noqa: E731
    half = refreshed + eps / 2 * g
    end = v + eps / 2 * g
    results = {
        "kick": lambda: (v + eps * g,),
        "drift": lambda: (x + eps * v / mass,),
        "kick_drift": lambda: (x + eps * (v + eps * g) / mass, v + eps * g),
        "refresh": lambda: (refreshed,),
        "langevin": lambda: (x + eps * g + (2 * eps) ** 0.5 * n,),
        "kinetic_energy": lambda: (energy(v),),
        "begin": lambda: (x + eps * half / mass, half, refreshed, energy(refreshed)),
        "end": lambda: (end, energy(end)),
    }
    return results[name]()


def destinations(given: Case, name: str) -> Any:
    """Fresh tensors for `out=`, full of NaN."""
    made = given(name)
    empty = tuple(torch.full_like(tensor, float("nan")) for tensor in made)
    return empty[0] if len(empty) == 1 else empty
