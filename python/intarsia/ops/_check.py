# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the operators, and the one form every error takes.

These look at shapes, dtypes and devices alone, so they cost a few microseconds and run on fake tensors as
well. What depends on the values of the offsets is checked once per plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

__all__ = ["CoverageError"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
FOUR = "be float16, bfloat16, float32 or float64"

Ints = Sequence[int]


class CoverageError(ValueError):
    """A canvas element belongs to no region, so no average exists there."""


def fail(function: str, argument: str, requirement: str, got: object, remedy: str) -> NoReturn:
    """Raise the ValueError `<function>: <argument> must <requirement>, got <got>. <remedy>`."""
    raise ValueError(f"{function}: {argument} must {requirement}, got {got}. {remedy}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of `dtype` are weighted and summed."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def check_floats(function: str, argument: str, tensor: Tensor, lead: str, fixed: int) -> int:
    """Number of canvas axes of `tensor`, which has `fixed` leading axes named in `lead`."""
    if not isinstance(tensor, Tensor):
        fail(
            function, argument, f"be a tensor {lead}", type(tensor).__name__, "Wrap it with torch.as_tensor."
        )
    if tensor.dtype not in FLOATS:
        fail(function, argument, FOUR, tensor.dtype, "Convert it with .float().")
    ndim = tensor.dim() - fixed
    if not 1 <= ndim <= 3:
        wanted = f"have shape {lead} with 1 to 3 canvas axes"
        fail(function, argument, wanted, f"shape {list(tensor.shape)}", "Add or fold leading axes.")
    if tensor.layout is not torch.strided:
        fail(function, argument, "be dense", tensor.layout, "Call .to_dense() first.")
    return ndim


def check_offsets(function: str, offsets: Tensor) -> None:
    """Whether the bytes of `offsets` can be read as they are."""
    if offsets.dtype is not torch.int64 or not offsets.is_cpu or offsets.layout is not torch.strided:
        got = f"{offsets.dtype} on {offsets.device}"
        if offsets.layout is not torch.strided:
            got += f" as {offsets.layout}"
        remedy = f"Pass dense integers, or call intarsia.ops.{function}, which converts them."
        fail(function, "offsets", "be int64 on the CPU", got, remedy)


def check_geometry(function: str, offsets: Tensor, canvas: Ints, patch: Ints, wrap: Sequence[bool]) -> None:
    """Shapes of offsets, sizes and wrap; the values of the offsets are checked by the plan."""
    check_offsets(function, offsets)
    ndim = len(canvas)
    if len(patch) != ndim:
        fail(
            function,
            "size",
            f"have one length for each of the {ndim} axes",
            tuple(patch),
            "Match the canvas.",
        )
    if offsets.shape[1:] != (ndim,) and offsets.shape[:1] != (0,):
        remedy = f"Give one row per region with one integer for each of the {ndim} axes."
        fail(function, "offsets", f"have shape [R, {ndim}]", f"shape {list(offsets.shape)}", remedy)
    if len(wrap) != ndim:
        fail(function, "wrap", f"have one bool for each of the {ndim} axes", len(wrap), f"Pass {ndim} bools.")
    for extent, length in zip(patch, canvas, strict=True):
        got = f"patch {tuple(patch)}, canvas {tuple(canvas)}"
        if extent < 1 or length < 1:
            fail(function, "size", "be positive on every axis", got, "Leave out regions of no extent.")
        if extent > length:
            fail(function, "size", "not let a patch exceed the canvas", got, "Use smaller patches.")


def check_weight(function: str, weight: Sequence[Tensor], regions: int, patch: Ints, like: Tensor) -> None:
    """Shapes, dtype and device of a weight: one window [R|1, *s], or one factor [s_i] per axis."""
    for window in weight:
        check_companion(function, "weight", window, like)
    remedy = "Build it for the patch size of these regions."
    if len(weight) == 1 and weight[0].dim() == len(patch) + 1:
        shape = weight[0].shape
        if shape[0] not in (1, regions) or shape[1:] != tuple(patch):
            wanted = f"have shape [R|1, *s] = [{regions}|1, {', '.join(map(str, patch))}]"
            fail(function, "weight", wanted, f"shape {list(shape)}", remedy)
    elif len(weight) != len(patch) or any(window.dim() != 1 for window in weight):
        wanted = f"be one tensor [R|1, *s] or {len(patch)} rank-1 factors"
        fail(function, "weight", wanted, f"shapes {[list(window.shape) for window in weight]}", remedy)
    elif any(window.shape[0] != extent for window, extent in zip(weight, patch, strict=True)):
        got = tuple(window.shape[0] for window in weight)
        fail(function, "weight", f"have factors of lengths {tuple(patch)}", got, remedy)


def check_vector(function: str, argument: str, vector: Tensor | None, length: int, like: Tensor) -> None:
    """Shape, dtype and device of an optional rank-1 argument."""
    if vector is None:
        return
    if vector.dim() != 1 or vector.shape[0] != length:
        remedy = f"Use .expand({length}) to share one value."
        fail(function, argument, f"have shape [{length}]", f"shape {list(vector.shape)}", remedy)
    check_companion(function, argument, vector, like)


def check_companion(function: str, argument: str, tensor: Tensor, like: Tensor) -> None:
    """Whether an argument lives with the main one, in the dtype the sums are made in."""
    if tensor.device != like.device:
        fail(function, argument, f"be on {like.device}", tensor.device, "Move it with .to(device).")
    if tensor.dtype is not compute_dtype(like.dtype):
        fail(
            function,
            argument,
            f"be {compute_dtype(like.dtype)}",
            tensor.dtype,
            "Sums are made in this dtype.",
        )


def empty(function: str, shape: Ints, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """Where a functional operator writes its result."""
    dtype = like.dtype if dtype is None else dtype
    if dtype not in FLOATS:
        fail(function, "dtype", FOUR, dtype, "Choose one of them.")
    return torch.empty(shape, dtype=dtype, device=like.device)


def check_out(function: str, out: Tensor, shape: Ints, inputs: Sequence[Tensor | None], like: Tensor) -> None:
    """Whether `out` can be written: shape, dtype, device, dense, and no gradient wanted."""
    if out.shape != tuple(shape):
        fail(function, "out", f"have shape {list(shape)}", f"shape {list(out.shape)}", "Use torch.empty.")
    if out.dtype not in FLOATS:
        fail(function, "out", FOUR, out.dtype, "Allocate it in one of them.")
    if out.device != like.device:
        fail(function, "out", f"be on {like.device}", out.device, "Allocate it there.")
    if not out.is_contiguous():
        fail(function, "out", "be contiguous", f"strides {out.stride()}", "Write a dense tensor and copy.")
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (out, *inputs)):
        remedy = "Leave out=, or run under torch.no_grad()."
        fail(function, "out", "be used without gradients", "an argument that requires grad", remedy)


def check_apart(function: str, out: Tensor, inputs: Sequence[Tensor | None]) -> None:
    """Whether the addresses of `out` stay clear of those of the inputs."""
    start, stop = _span(out) if out.numel() else (0, 0)
    for tensor in inputs:
        if tensor is None or start == stop or tensor.numel() == 0 or tensor.device != out.device:
            continue
        first, last = _span(tensor)
        if start < last and first < stop:
            fail(function, "out", "not overlap an input", "memory shared with one", "Allocate it apart.")


def check_out_argument(function: str, out: object, dtype: torch.dtype | None) -> None:
    """Whether `out` is a tensor, and of the dtype asked for."""
    if not isinstance(out, Tensor):
        fail(function, "out", "be a tensor", type(out).__name__, "Allocate it with torch.empty.")
    if dtype is not None and out.dtype is not dtype:
        fail(function, "out", f"be {dtype}", out.dtype, "Leave dtype out to take it from out.")


def _span(tensor: Tensor) -> tuple[int, int]:
    if tensor.is_contiguous():
        start = tensor.data_ptr()
        return start, start + tensor.numel() * tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()
