# SPDX-License-Identifier: Apache-2.0
"""Cutting a canvas into patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import _backend
from intarsia.ops._arguments import as_ints, as_offsets, as_vector, as_wrap
from intarsia.ops._check import (
    check_apart,
    check_floats,
    check_geometry,
    check_out,
    check_out_argument,
    check_vector,
    compute_dtype,
    empty,
    fail,
)
from intarsia.ops._library import bump, choose, register
from intarsia.ops._plan import Plan, Prepared, get_plan, prepare
from intarsia.ops._recall import lasting, recall, serves

__all__ = ["extract_patches"]

_NAME = "extract_patches"


def extract_patches(
    canvas: Tensor,
    *,
    offsets: Tensor | Sequence[Sequence[int]],
    size: Sequence[int],
    wrap: Sequence[bool] | None = None,
    scale: Tensor | None = None,
    copies: int | None = None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Cut patches of one size out of a canvas.

    out[b, r, c, j] = scale[b] * canvas[b, c, offsets[r] + j]
    out[b, k, r, c, j] = the same for each of K copies, as guidance needs them.

    Args:
        canvas: [B, C, *S] float16, bfloat16, float32 or float64, one to three canvas axes S; any strides.
        offsets: [R, n] integers, the first element of each region; on the CPU, or copied there.
        size: Patch lengths s in axis order.
        wrap: Per axis, whether the canvas closes on itself; there any integer offset is legal. None: no axis.
        scale: [B] float32 (float64 for a float64 canvas), multiplied in before the cast. None: 1.
        copies: K, how often each patch is written. None: once, and the result has no axis K.
        dtype: Dtype of the patches; the canvas's if None.
        out: [B, R, C, *s], or [B, K, R, C, *s] with `copies`; contiguous, written and returned.

    Returns:
        Patches [B, R, C, *s], or [B, K, R, C, *s] with `copies`.

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, or a region leaves an axis that does
            not wrap.

    Note:
        Deterministic. Differentiable in `canvas`; a scale that requires grad is refused, and so is `out`
        where an argument requires grad.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> canvas = torch.arange(6.0).view(1, 1, 6)
        >>> ops.extract_patches(canvas, offsets=[[0], [4]], size=(3,), wrap=(True,)).tolist()
        [[[[0.0, 1.0, 2.0]], [[4.0, 5.0, 0.0]]]]
    """
    quick = scale is None and copies is None and not torch.compiler.is_compiling()
    if quick and _calls is not None:
        again = _calls.extract(canvas, offsets, size, wrap, dtype, out)
        if again is not None:
            if out is not None:
                bump(out)
            return again
    ndim = check_floats(_NAME, "canvas", canvas, "[B, C, *S]", 2)
    places = as_offsets(_NAME, offsets)
    extents = as_ints(_NAME, "size", size)
    cyclic = as_wrap(_NAME, wrap, ndim)
    factor = as_vector(_NAME, "scale", scale, compute_dtype(canvas.dtype))
    if copies is not None:
        (copies,) = as_ints(_NAME, "copies", [copies])
        if copies < 1:
            fail(_NAME, "copies", "be at least 1", copies, "None writes each patch once, without an axis.")
    _refuse_gradient(factor)
    if out is None:
        call = choose(_NAME, _extract, canvas, places, factor)
        result = call(canvas, places, extents, cyclic, factor, dtype, copies)
        if quick and call is _extract and places is offsets:
            _remember(canvas, places, size, wrap, dtype, result)
        return result
    check_out_argument(_NAME, out, dtype)
    write = choose(f"{_NAME}_out", _extract_out, canvas, places, factor, out)
    write(canvas, places, extents, cyclic, factor, out, copies)
    if quick and write is _extract_out and places is offsets:
        _remember(canvas, places, size, wrap, out.dtype, out)
    return out


# Made by the first call worth remembering: importing loads no compiled module.
_calls: Any = None


def _remember(canvas: Tensor, offsets: Tensor, size: Any, wrap: Any, dtype: Any, result: Tensor) -> None:
    global _calls
    _calls = recall(_NAME)
    if _calls is None or not lasting(size, wrap) or not result.numel():
        return
    closed = [False] * (canvas.dim() - 2) if wrap is None else wrap
    plan = get_plan(_NAME, offsets, canvas.shape[2:], size, closed)
    if serves(plan) and canvas.is_cpu:
        _calls.remember(canvas, offsets, size, wrap, dtype, result, plan.handle)


def _shape(
    canvas: Tensor,
    offsets: Tensor,
    size: Sequence[int],
    wrap: Sequence[bool],
    scale: Tensor | None,
    copies: int | None,
) -> tuple[int, ...]:
    check_floats(_NAME, "canvas", canvas, "[B, C, *S]", 2)
    check_geometry(_NAME, offsets, canvas.shape[2:], size, wrap)
    check_vector(_NAME, "scale", scale, canvas.shape[0], canvas)
    times = () if copies is None else (copies,)
    return (canvas.shape[0], *times, offsets.shape[0], canvas.shape[1], *size)


def _refuse_gradient(scale: Tensor | None) -> None:
    if scale is not None and scale.requires_grad:
        remedy = "Detach it; multiply the canvas to train a scale."
        fail(_NAME, "scale", "not require grad", "one that does", remedy)


def _prepare(
    canvas: Tensor,
    offsets: Tensor,
    size: Sequence[int],
    wrap: Sequence[bool],
    scale: Tensor | None,
    copies: int | None,
) -> Prepared:
    def check() -> Prepared:
        shape = _shape(canvas, offsets, size, wrap, scale, copies)
        return shape, get_plan(_NAME, offsets, canvas.shape[2:], size, wrap)

    factor = None if scale is None else (scale.shape, scale.dtype, scale.device)
    signature = (canvas.shape, canvas.dtype, canvas.layout, tuple(size), tuple(wrap), factor, copies)
    return prepare(_NAME, offsets, signature, check, canvas.device)


def _write(out: Tensor, canvas: Tensor, plan: Plan, scale: Tensor | None) -> None:
    if out.numel():
        factor = None if scale is None else scale.contiguous()
        _backend.select(out.device).extract_patches(out, canvas.contiguous(), plan, factor)
        plan.keep()


# PyTorch leaves out a last argument that has its default.
def _inputs(inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(inputs) if len(inputs) == 7 else (*inputs, None)


def _extract(*inputs: Any) -> Tensor:
    canvas, offsets, size, wrap, scale, dtype, copies = _inputs(inputs)
    shape, plan = _prepare(canvas, offsets, size, wrap, scale, copies)
    out = empty(_NAME, shape, dtype, canvas)
    _write(out, canvas, plan, scale)
    return out


def _fake(*inputs: Any) -> Tensor:
    canvas, offsets, size, wrap, scale, dtype, copies = _inputs(inputs)
    return empty(_NAME, _shape(canvas, offsets, size, wrap, scale, copies), dtype, canvas)


def _extract_out(*inputs: Any) -> None:
    canvas, offsets, size, wrap, scale, out, copies = _inputs(inputs)
    shape, plan = _prepare(canvas, offsets, size, wrap, scale, copies)
    check_out(_NAME, out, shape, (canvas,), canvas)
    check_apart(_NAME, out, (canvas, scale))
    _write(out, canvas, plan, scale)
    bump(out)


def _fake_out(*inputs: Any) -> None:
    canvas, offsets, size, wrap, scale, out, copies = _inputs(inputs)
    check_out(_NAME, out, _shape(canvas, offsets, size, wrap, scale, copies), (canvas,), canvas)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    canvas, offsets, size, wrap, scale, _, copies = _inputs(inputs)
    _refuse_gradient(scale)
    ctx.save_for_backward(offsets, scale)
    ctx.geometry = (list(canvas.shape[2:]), list(size), list(wrap), canvas.dtype)
    ctx.copied = copies is not None
    ctx.backend = _backend.forced_here()


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    offsets, scale = ctx.saved_tensors
    canvas_size, size, wrap, dtype = ctx.geometry
    sums = compute_dtype(torch.promote_types(grad.dtype, dtype))
    ones = [torch.ones(extent, dtype=sums, device=grad.device) for extent in size]
    if sums is torch.float64:
        grad = grad.to(sums)
    if ctx.copied:
        grad = grad.sum(1, dtype=sums)
    with _backend.resume(ctx.backend):
        total = torch.ops.intarsia.scatter_average(grad, offsets, ones, canvas_size, wrap, False, None, sums)
    if scale is not None:
        total = total * scale.view(-1, *[1] * (total.dim() - 1))
    return total.to(dtype), None, None, None, None, None, None


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    canvas, offsets, size, wrap, scale, dtype, copies = _inputs(args)
    if in_dims[1] is not None:
        remedy = "Map over the canvas and the scale alone."
        fail(_NAME, "offsets", "be shared by a vmap", "offsets that are mapped over", remedy)
    if in_dims[0] is None:
        remedy = "Multiply the patches by it instead, or expand the canvas along the mapped axis."
        fail(_NAME, "canvas", "be mapped over by a vmap", "a vmap over scale alone", remedy)
    canvas = canvas.movedim(in_dims[0], 0)
    if scale is not None:
        scale = scale.expand(info.batch_size, -1) if in_dims[4] is None else scale.movedim(in_dims[4], 0)
        scale = scale.flatten(0, 1)
    patches = torch.ops.intarsia.extract_patches(
        canvas.flatten(0, 1), offsets, size, wrap, scale, dtype, copies
    )
    return patches.unflatten(0, canvas.shape[:2]), 0


_ARGUMENTS = "Tensor canvas, Tensor offsets, SymInt[] size, bool[] wrap, Tensor? scale"
_SCHEMA = f"({_ARGUMENTS}, ScalarType? dtype, SymInt? copies=None) -> Tensor"
register(_NAME, _SCHEMA, _extract, _fake, setup=_setup, backward=_backward, vmap=_vmap)
register(
    f"{_NAME}_out", f"({_ARGUMENTS}, Tensor(a!) out, SymInt? copies=None) -> ()", _extract_out, _fake_out
)
