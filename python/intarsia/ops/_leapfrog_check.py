# SPDX-License-Identifier: Apache-2.0
"""What the steps of Hamiltonian Monte Carlo ask of their arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intarsia.ops import _parts as part
from intarsia.ops._arguments import as_ints
from intarsia.ops._check import FLOATS, FOUR, fail
from intarsia.ops.canvas_noise import as_seeds

Number = float | Tensor
Outputs = Sequence[Tensor | None]
Key = tuple[list[int], int, int, list[int]]

NAMES = {
    part.KICK: "kick",
    part.DRIFT: "drift",
    part.KICK | part.DRIFT: "kick_drift",
    part.REFRESH: "refresh",
    part.LANGEVIN | part.KICK: "langevin",
    part.ENERGY_AFTER: "kinetic_energy",
    part.REFRESH | part.ENERGY_BEFORE | part.HALF_KICK | part.DRIFT: "leapfrog_begin",
    part.ENERGY_BEFORE | part.HALF_KICK | part.DRIFT: "leapfrog_begin",
    part.HALF_KICK | part.ENERGY_AFTER: "leapfrog_end",
}


class Inputs(NamedTuple):
    """The inputs of the registered operator, in the order of its schema."""

    position: Tensor | None
    momentum: Tensor
    gradient: Tensor | None
    noise: Tensor | None
    steps: Tensor | None
    step: float
    dampings: Tensor | None
    keep: float
    masses: Tensor | None
    weight: float
    parts: int
    seed: list[int]
    purpose: int
    level: int
    offset: list[int]


def number(name: str, argument: str, value: Number) -> tuple[Tensor | None, float]:
    """A step size, damping or mass as a tensor, or as a float."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            remedy = "Detach it; gradients flow through position, momentum, gradient and noise."
            fail(name, argument, "not require grad", "one that does", remedy)
        return value, 1.0
    try:
        return None, float(value)
    except (TypeError, ValueError):
        got, remedy = type(value).__name__, "Pass a float, or a tensor with one number per sample."
        fail(name, argument, "be a number or a tensor", got, remedy)


def several(name: str, out: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """An `out` of several tensors."""
    if not isinstance(out, (tuple, list)) or len(out) != count:
        got = len(out) if isinstance(out, (tuple, list)) else type(out).__name__
        fail(name, "out", f"be a tuple of {count} tensors", got, "Give one for every result, in their order.")
    return out


def check(inputs: Inputs) -> str:
    """The name of the function that asked, once all its arguments are known to be right."""
    momentum, parts = inputs.momentum, inputs.parts
    name = NAMES.get(parts)
    if name is None:
        fail("leapfrog", "parts", "be a combination that has a name", parts, "Use the functions of ops.")
    first = "position" if parts & part.LANGEVIN else "momentum"
    if not isinstance(momentum, Tensor):
        fail(name, first, "be a tensor [B, *s]", type(momentum).__name__, "Wrap it with torch.as_tensor.")
    if momentum.dtype not in FLOATS:
        fail(name, first, FOUR, momentum.dtype, "Convert it with .float().")
    if momentum.dim() < 2 or momentum.layout is not torch.strided:
        got = f"shape {list(momentum.shape)}, {momentum.layout}"
        fail(name, first, "be dense with shape [B, *s]", got, "Use x[:, None] for one number per sample.")
    if parts & part.DRIFT:
        _check_like(name, "position", inputs.position, momentum, first)
    if parts & part.KICKS:
        _check_like(name, "gradient", inputs.gradient, momentum, first)
    if parts & part.RENEWS:
        if not inputs.seed:
            _check_like(name, "noise", inputs.noise, momentum, first)
        elif len(inputs.seed) != momentum.shape[0]:
            wanted = f"hold one integer for each of the {momentum.shape[0]} samples"
            fail(name, "seed", wanted, len(inputs.seed), "Give a list of integers.")
    _check_numbers(name, inputs)
    return name


def _check_like(name: str, argument: str, tensor: Tensor | None, like: Tensor, first: str) -> None:
    if not isinstance(tensor, Tensor):
        fail(name, argument, "be a tensor [B, *s]", type(tensor).__name__, f"Give it like the {first}.")
    if tensor.dtype is not like.dtype or tensor.shape != like.shape or tensor.device != like.device:
        wanted = f"be {like.dtype} {list(like.shape)} on {like.device} like the {first}"
        got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        fail(name, argument, wanted, got, f"Convert it with .to({first}).")
    if tensor.layout is not torch.strided:
        fail(name, argument, "be dense", tensor.layout, "Call .to_dense() first.")


def _check_numbers(name: str, inputs: Inputs) -> None:
    parts, momentum = inputs.parts, inputs.momentum
    if inputs.steps is not None:
        check_per_sample(name, "step_size", inputs.steps, momentum)
    elif not math.isfinite(inputs.step) or (parts & part.LANGEVIN and inputs.step < 0):
        wanted = "be finite and at least 0" if parts & part.LANGEVIN else "be finite"
        fail(name, "step_size", wanted, inputs.step, "Look at how it was tuned.")
    if inputs.dampings is not None:
        check_per_sample(name, "damping", inputs.dampings, momentum)
    elif not 0 <= inputs.keep <= 1:
        fail(name, "damping", "lie between 0 and 1", inputs.keep, "0 draws a new momentum, 1 keeps it.")
    if inputs.masses is not None:
        _check_mass(name, inputs.masses, momentum)
    elif not 0 < inputs.weight < math.inf:
        fail(name, "mass", "be positive and finite", inputs.weight, "Use 1.0 for the plain leapfrog.")


def check_per_sample(name: str, argument: str, tensor: Tensor, like: Tensor) -> None:
    """Whether a tensor holds one number for each sample of `like`."""
    batch = like.shape[0]
    if tensor.dim() != 1 or tensor.shape[0] != batch or tensor.dtype not in FLOATS:
        got, remedy = f"{tensor.dtype} {list(tensor.shape)}", f"Use .expand({batch}) to share one value."
        fail(name, argument, f"be a number or floating-point [{batch}]", got, remedy)
    if tensor.device != like.device:
        fail(name, argument, f"be on {like.device}", tensor.device, "Move it with .to(device).")


def _check_mass(name: str, mass: Tensor, like: Tensor) -> None:
    if mass.dim() == 1:
        return check_per_sample(name, "mass", mass, like)
    pairs = zip(mass.shape, like.shape, strict=False)
    if mass.dim() != like.dim() or mass.dtype not in FLOATS or any(m != 1 and m != n for m, n in pairs):
        wanted = f"be a number, [{like.shape[0]}], or broadcast to {list(like.shape)} axis by axis"
        got = f"{mass.dtype} {list(mass.shape)}"
        fail(name, "mass", wanted, got, "Use mass[None] for one mass per element, shared by the samples.")
    if mass.device != like.device:
        fail(name, "mass", f"be on {like.device}", mass.device, "Move it with .to(device).")


def made(parts: int) -> tuple[bool, bool, bool, bool]:
    """Whether a pass makes a position, a momentum, a refreshed momentum apart from it, an energy."""
    energy = bool(parts & part.ENERGIES)
    moves = bool(parts & (part.KICKS | part.RENEWS))
    return bool(parts & part.DRIFT), moves, bool(parts & part.REFRESH) and energy, energy


def check_out(name: str, out: Outputs, inputs: Inputs) -> None:
    """Whether every destination is there, dense, of the right shape, and without gradients."""
    momentum, wanted = inputs.momentum, made(inputs.parts)
    for index, tensor in enumerate(out):
        if (tensor is not None) != wanted[index]:
            fail(name, "out", f"hold {sum(wanted)} tensors", "others", "Give one for every result.")
        if tensor is None:
            continue
        shape, dtype = (momentum.shape, momentum.dtype) if index < 3 else (momentum.shape[:1], torch.float64)
        if tensor.shape != shape or tensor.dtype is not dtype or tensor.device != momentum.device:
            got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            fail(name, "out", f"be {dtype} {list(shape)} on {momentum.device}", got, "Use torch.empty_like.")
        if not tensor.is_contiguous():
            fail(name, "out", "be contiguous", f"strides {tensor.stride()}", "Write a dense one and copy.")
    if torch.is_grad_enabled():
        for tensor in (*out, *inputs[:4]):
            if tensor is not None and tensor.requires_grad:
                remedy = "Leave out=, or run under torch.no_grad()."
                fail(name, "out", "be used without gradients", "an argument that requires grad", remedy)


def check_apart(name: str, out: Outputs, inputs: Inputs) -> None:
    """Whether every destination is the input of its name, element for element, or apart from all else."""
    own = (inputs.position, inputs.momentum, inputs.momentum, None)
    others = [span(tensor) for tensor in (*inputs[:5], inputs.dampings, inputs.masses) if tensor is not None]
    before: list[tuple[int, int, bool]] = []
    for target, source in zip(out, own, strict=True):
        if target is None:
            continue
        first, last, _ = here = span(target)
        theirs = None if source is None else span(source)
        for other in (*others, *before):
            if first < other[1] and other[0] < last and (other != theirs or other in before or not other[2]):
                wanted = "be the input of the same name or apart from every other tensor"
                fail(name, "out", wanted, "memory shared with another", "Allocate it apart.")
        before.append(here)


def span(tensor: Tensor) -> tuple[int, int, bool]:
    """The addresses of a tensor, from the first to past the last, and whether it fills them in order."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes, True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size(), False


def drawn(
    name: str, like: Any, noise: Tensor | None, seed: Any, stream: Any, offset: Sequence[int] | None
) -> Key | None:
    """The key of noise to be drawn, None where noise is given."""
    if (noise is None) == (seed is None):
        got = "neither" if noise is None else "both"
        fail(name, "noise", "be given, or else a seed", got, "Pass noise=..., or seed=... and stream=...")
    if seed is None:
        return None
    if not isinstance(stream, (tuple, list)) or len(stream) != 2:
        fail(name, "stream", "be a pair (purpose, step) of integers", stream, "Count steps in the second.")
    if not isinstance(like, Tensor):
        return as_seeds(name, seed), 0, 0, []  # refused for its own sake
    purpose, step = as_ints(name, "stream", stream)
    size = canvas(like).shape[2:] if like.dim() > 1 else [1]
    place = [0] * len(size) if offset is None else as_ints(name, "offset", offset)
    if len(size) > 3:
        wanted = "have at most 3 axes behind the channels where noise is drawn from a seed"
        remedy = "Fold the axes, or pass noise=..."
        fail(name, "position" if name == "langevin" else "momentum", wanted, len(size), remedy)
    if len(place) != len(size):
        fail(name, "offset", f"have {len(size)} coordinates", tuple(place), "Give the first element's place.")
    if any(start < -(2**31) or start + length > 2**31 for start, length in zip(place, size, strict=True)):
        fail(name, "offset", "keep coordinates within 32 signed bits", tuple(place), "Count from elsewhere.")
    if not (0 <= purpose < 2**32 and 0 <= step < 2**32):
        fail(name, "stream", "hold integers from 0 to 2^32 - 1", tuple(stream), "They have 32 bits each.")
    return as_seeds(name, seed), purpose, step, place


def canvas(state: Tensor) -> Tensor:
    """A state [B, *s] as the canvas [B, C, *S] that its noise is drawn for."""
    return state[:, None] if state.dim() == 2 else state
