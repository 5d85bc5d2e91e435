# SPDX-License-Identifier: Apache-2.0
"""From what users pass to what the registered operators take: tensors, lists of integers, lists of bools."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._check import FLOATS, fail

_INTS = (int, torch.SymInt)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def as_offsets(function: str, offsets: Tensor | Sequence[Any]) -> Tensor:
    """Offsets as a contiguous int64 tensor [R, n] on the CPU."""
    if isinstance(offsets, Tensor) and offsets.dtype is torch.int64 and offsets.is_cpu:
        return offsets.contiguous()
    wanted = "be an integer tensor [R, n]"
    if not isinstance(offsets, Tensor):
        try:
            offsets = torch.as_tensor(offsets, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            fail(function, "offsets", wanted, type(offsets).__name__, "Pass one row of integers per region.")
        if offsets.numel() == 0:
            offsets = offsets.to(torch.int64)
    if offsets.dtype not in INTEGERS:
        fail(function, "offsets", wanted, offsets.dtype, "Round the positions to whole elements.")
    return offsets.to(device="cpu", dtype=torch.int64).contiguous()


def as_ints(function: str, argument: str, values: Any) -> list[int]:
    """A size as a list of integers, one per axis."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        fail(
            function, argument, "be a sequence with one integer per axis", repr(values), "Pass (64, 64), say."
        )
    try:
        return [value if type(value) in _INTS else operator.index(value) for value in values]
    except (TypeError, ValueError, RuntimeError):
        remedy = "Give one whole number of elements per axis."
        fail(function, argument, "hold integers", tuple(values), remedy)


def as_wrap(function: str, wrap: Any, ndim: int) -> list[bool]:
    """Wrap as a list of bools, one per axis."""
    if wrap is None:
        return [False] * ndim
    if not isinstance(wrap, Sequence) or isinstance(wrap, str):
        fail(
            function,
            "wrap",
            "be None or a sequence with one bool per axis",
            repr(wrap),
            f"Pass {ndim} bools.",
        )
    return [bool(value) for value in wrap]


def as_weight(function: str, weight: Any, dtype: torch.dtype) -> list[Tensor]:
    """A weight as a list: one full window, or one factor per axis, in the dtype the sums are made in."""
    windows = [weight] if isinstance(weight, Tensor) else weight
    if not isinstance(windows, (tuple, list)):
        windows = [weight]
    for window in windows:
        if not isinstance(window, Tensor):
            wanted = "be a tensor [R|1, *s] or a tuple with one rank-1 tensor per axis"
            fail(function, "weight", wanted, type(weight).__name__, "Pass gaussian_weights(patch), say.")
        if window.dtype not in FLOATS:
            fail(function, "weight", "be real floating-point", window.dtype, "Convert it with .float().")
        if window.requires_grad:
            remedy = "Detach it; gradients flow through patches and coefficient only."
            fail(function, "weight", "not require grad", "one that does", remedy)
    return [window if window.dtype is dtype else window.to(dtype) for window in windows]


def as_vector(function: str, argument: str, vector: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """An optional rank-1 argument in the dtype the sums are made in."""
    if vector is None:
        return None
    if not isinstance(vector, Tensor):
        fail(function, argument, "be a tensor or None", type(vector).__name__, "Wrap it with torch.tensor.")
    if vector.dtype not in FLOATS:
        fail(function, argument, "be real floating-point", vector.dtype, "Convert it with .float().")
    return vector if vector.dtype is dtype else vector.to(dtype)
