# SPDX-License-Identifier: Apache-2.0
"""One call of every operator, small or large enough for two threads: rows for tests that ask of all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from intarsia import ops
from torch import Tensor

Inputs = dict[str, Any]
HALVES = (torch.float16, torch.bfloat16)
ALL = (*HALVES, torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64)
FAR_APART = 2**31 + 5


@dataclass(frozen=True)
class Call:
    """How to call `function`: `make(dtype, **sizes)` gives its keyword arguments.

    `small` suits an interpreter, `busy` moves enough bytes for several threads; `empty` names the sizes that
    may be 0. NaN at `poison`, an argument and an index into it, may reach only what those elements reach.
    """

    name: str
    function: Callable[..., Any]
    make: Callable[..., Inputs]
    small: Mapping[str, int] = field(default_factory=dict)
    busy: Mapping[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    poison: tuple[str, Any] | None = None
    dtypes: tuple[torch.dtype, ...] = ALL

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: Any = "cpu", *, busy: bool = False, **sizes: int
    ) -> Inputs:
        given = {**(self.busy if busy else self.small), **sizes}
        return on(device, self.make(dtype, **given))

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        result = self.function(**inputs)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def __str__(self) -> str:
        return self.name


def on(device: Any, inputs: Inputs) -> Inputs:
    """The same inputs on a device; geometry stays on the CPU."""
    return {name: device if name == "device" else moved(value, device) for name, value in inputs.items()}


def moved(value: Any, device: Any) -> Any:
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return tuple(moved(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) and value.is_floating_point() else value


def far_apart(tensor: Tensor) -> Tensor:
    """The same values in memory that is not there until touched, the last row past 2^31 elements."""
    if tensor.dim() == 0 or tensor.shape[0] < 2:
        return tensor
    stride = FAR_APART // (tensor.shape[0] - 1) + tensor[0].numel()
    memory = torch.empty((tensor.shape[0] - 1) * stride + tensor[0].numel(), dtype=tensor.dtype)
    return memory.as_strided(tensor.shape, (stride, *tensor[0].contiguous().stride())).copy_(tensor)


def equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def places(regions: int, patch: int) -> Inputs:
    """Two rows of overlapping regions around a ring; a canvas without regions is one patch wide."""
    offsets = [[4 * (r % 2), (r // 2) * (patch // 2) - 3] for r in range(regions)]
    size = (12, max(patch, regions // 2 * (patch // 2)))
    return {"offsets": torch.tensor(offsets).view(-1, 2).long(), "size": size, "wrap": (False, True)}


def extraction(dtype: torch.dtype, *, batch: int, channels: int, regions: int, patch: int) -> Inputs:
    there = places(regions, patch)
    canvas = torch.randn(batch, channels, *there["size"]).to(dtype)
    return {**there, "canvas": canvas, "size": (8, patch), "scale": torch.rand(batch, dtype=sums(dtype)) + 1}


def merging(dtype: torch.dtype, *, batch: int, channels: int, regions: int, patch: int) -> Inputs:
    patches = torch.randn(batch, regions, channels, 8, patch).to(dtype)
    weight = tuple(torch.rand(extent, dtype=sums(dtype)) + 0.25 for extent in (8, patch))
    coefficient = torch.rand(regions, dtype=sums(dtype)) + 0.5
    share = {"weight": weight, "coefficient": coefficient, "normalize": regions > 0}
    return {**places(regions, patch), **share, "patches": patches}


def updating(dtype: torch.dtype, *, batch: int, channels: int, regions: int, patch: int) -> Inputs:
    """Two answers to every region under guidance, and a solver's update of the canvas."""
    made = merging(dtype, batch=batch, channels=channels, regions=regions, patch=patch)
    canvas = (batch, channels, *made["size"])
    made["patches"] = torch.randn(batch, 2, regions, channels, 8, patch).to(dtype)
    update = {
        "x": torch.randn(canvas).to(dtype),
        "noise": torch.randn(canvas).to(dtype),
        "a": 0.75,
        "b": 0.25,
    }
    return {**made, **update, "c": 0.5, "guidance": 1.5 + torch.rand(regions, dtype=sums(dtype))}


def totalling(dtype: torch.dtype, *, regions: int, patch: int) -> Inputs:
    made = merging(dtype, batch=1, channels=1, regions=regions, patch=patch)
    return {name: made[name] for name in ("offsets", "weight", "size", "wrap", "coefficient")}


def turning(dtype: torch.dtype, *, batch: int, heads: int, tokens: int, dim: int) -> Inputs:
    """Queries and fewer keys; every angle differs from 0."""
    positions = torch.rand(tokens, 2) + torch.arange(1, tokens + 1)[:, None]
    q, k = torch.randn(batch, heads, tokens, dim), torch.randn(batch, (heads + 1) // 2, tokens, dim)
    return {"q": q.to(dtype), "k": k.to(dtype), "table": ops.rope_table(positions, dim, dtype=sums(dtype))}


def vectors(dtype: torch.dtype, *, batch: int, length: int) -> Inputs:
    x0, x1 = torch.randn(2, batch, 3, length).to(dtype).unbind(0)
    return {"x0": x0, "x1": x1, "w": torch.rand(batch, dtype=torch.float64)}


def models(dtype: torch.dtype, *, batch: int, length: int) -> Inputs:
    states, means = torch.randn(2, 3, batch, 2, length).to(dtype).unbind(0)
    eta = torch.rand(batch, dtype=torch.float64)
    return {"states": states, "means": means, "weights": (0.5, 0.65), "eta": eta}


SMALL = {"batch": 2, "channels": 3, "regions": 12, "patch": 8}
BUSY = {"batch": 2, "channels": 4, "regions": 24, "patch": 128}
REGIONS = (
    Call(
        "extract_patches",
        ops.extract_patches,
        extraction,
        SMALL,
        BUSY,
        ("batch", "channels", "regions"),
        ("canvas", (0, 1, 5, slice(3, 6))),
    ),
    Call(
        "scatter_average",
        ops.scatter_average,
        merging,
        SMALL,
        BUSY,
        ("batch", "channels", "regions"),
        ("patches", (slice(None), 5)),
    ),
    Call(
        "extract_patches with copies",
        functools.partial(ops.extract_patches, copies=2),
        extraction,
        SMALL,
        BUSY,
        ("batch", "channels", "regions"),
        ("canvas", (0, 1, 5, slice(3, 6))),
    ),
    Call(
        "scatter_average with an update",
        ops.scatter_average,
        updating,
        SMALL,
        BUSY,
        ("batch", "channels", "regions"),
        ("patches", (slice(None), 1, 5)),
    ),
    Call(
        "weight_total",
        ops.weight_total,
        totalling,
        {"regions": 12, "patch": 8},
        {"regions": 24, "patch": 2048},
        ("regions",),
        dtypes=WIDE,
    ),
    Call(
        "gaussian_weights",
        ops.gaussian_weights,
        lambda dtype, length: {"size": (8, length), "sigma_fraction": 0.2, "dtype": dtype, "device": "cpu"},
        {"length": 9},
        {"length": 20000},
        dtypes=WIDE,
    ),
)
ROPE = Call(
    "rope",
    ops.rope,
    turning,
    {"batch": 2, "heads": 3, "tokens": 5, "dim": 16},
    {"batch": 2, "heads": 6, "tokens": 512, "dim": 64},
    ("batch", "heads", "tokens"),
    ("q", (0, 1, 2)),
)
NOISE = Call(
    "canvas_noise",
    ops.canvas_noise,
    lambda dtype, batch, channels, width: {
        "seed": list(range(batch)),
        "stream": (1, 2),
        "offset": (-3, 5),
        "size": (7, width),
        "channels": channels,
        "dtype": dtype,
        "device": "cpu",
    },
    {"batch": 2, "channels": 3, "width": 9},
    {"batch": 2, "channels": 3, "width": 3000},
    ("batch", "channels", "width"),
)
SPHERE = (
    Call(
        "slerp",
        ops.slerp,
        vectors,
        {"batch": 3, "length": 11},
        {"batch": 3, "length": 20000},
        ("batch", "length"),
        ("x0", (1, 2, slice(3, 6))),
    ),
    Call(
        "spherical_aggregate",
        ops.spherical_aggregate,
        models,
        {"batch": 3, "length": 11},
        {"batch": 3, "length": 20000},
        ("batch", "length"),
        ("states", (2, 1, 1, slice(3, 6))),
    ),
)


def phase(*names: str) -> Callable[..., Inputs]:
    """The named tensors [B, *s] of a Hamiltonian's state, with noise and factors where they are asked for."""

    def make(dtype: torch.dtype, *, batch: int, length: int) -> Inputs:
        constants = {"step_size": 0.125, "mass": 1.5, "damping": 0.75}
        return {
            name: constants[name] if name in constants else torch.randn(batch, 2, length).to(dtype)
            for name in names
        }

    return make


def chains(dtype: torch.dtype, *, batch: int, length: int) -> Inputs:
    state = phase("position", "momentum", "proposed_position", "proposed_momentum")
    energies = {"energy": torch.randn(batch).double(), "proposed_energy": torch.randn(batch).double()}
    return {**state(dtype, batch=batch, length=length), **energies, "uniform": torch.rand(batch)}


def select(
    position: Tensor,
    momentum: Tensor,
    energy: Tensor,
    proposed_position: Tensor,
    proposed_momentum: Tensor,
    proposed_energy: Tensor,
    uniform: Tensor,
) -> tuple[Tensor, ...]:
    current = ops.PhasePoint(position, momentum, energy, energy / 2)
    proposed = ops.PhasePoint(proposed_position, proposed_momentum, proposed_energy, proposed_energy / 2)
    (there, there_momentum, *energies, _), accepted, probability = ops.metropolis_select(
        current, proposed, uniform
    )
    return (there, there_momentum, *energies, accepted.double(), probability)


def leap(name: str, *arguments: str, poison: str = "momentum") -> Call:
    small, busy = {"batch": 3, "length": 11}, {"batch": 3, "length": 20000}
    spoiled = (poison, (1, 0, slice(3, 6)))
    return Call(name, getattr(ops, name), phase(*arguments), small, busy, ("batch", "length"), spoiled)


LEAPFROG = (
    leap("kick", "momentum", "gradient", "step_size"),
    leap("drift", "position", "momentum", "step_size", "mass"),
    leap("kick_drift", "position", "momentum", "gradient", "step_size", "mass"),
    leap("leapfrog_begin", "position", "momentum", "gradient", "step_size", "mass", "damping", "noise"),
    leap("leapfrog_end", "momentum", "gradient", "step_size", "mass"),
    leap("refresh", "momentum", "damping", "mass", "noise"),
    leap("kinetic_energy", "momentum", "mass"),
    leap("langevin", "position", "gradient", "step_size", "noise", poison="position"),
    Call(
        "metropolis_select",
        select,
        chains,
        {"batch": 3, "length": 11},
        {"batch": 3, "length": 20000},
        ("batch", "length"),
    ),
)
CALLS = (*REGIONS, ROPE, NOISE, *SPHERE, *LEAPFROG)
