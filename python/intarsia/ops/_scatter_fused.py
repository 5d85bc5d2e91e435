# SPDX-License-Identifier: Apache-2.0
"""scatter_average with guidance or an update: an operator of its own, so that the plain one stays small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import _backend
from intarsia.ops._check import check_apart, check_out, check_out_argument, compute_dtype, empty
from intarsia.ops._fusion import Fusion, check_fusion
from intarsia.ops._library import bump, choose, register
from intarsia.ops._merge import NAME, merge, merged_shape
from intarsia.ops._merge_gradient import patch_shares
from intarsia.ops._plan import Prepared, get_plan, prepare

_OP = "scatter_average_fused"


def fused(
    patches: Tensor,
    offsets: Tensor,
    weight: list[Tensor],
    size: list[int],
    wrap: list[bool],
    normalize: bool,
    coefficient: Tensor | None,
    fusion: Fusion,
    dtype: torch.dtype | None,
    out: Tensor | None,
) -> Tensor:
    """The public function, once its arguments are tensors and lists."""
    tensors = (patches, offsets, coefficient, *fusion.tensors(), *weight)
    if out is None:
        call = choose(_OP, _scatter, *tensors)
        return call(patches, offsets, weight, size, wrap, normalize, coefficient, *fusion, dtype)
    check_out_argument(NAME, out, dtype)
    write = choose(f"{_OP}_out", _scatter_out, *tensors, out)
    write(patches, offsets, weight, size, wrap, normalize, coefficient, *fusion, out)
    return out


def _target(patches: Tensor, fusion: Fusion, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is not None:
        return dtype
    return patches.dtype if fusion.x is None else fusion.x.dtype


def _shape(
    patches: Tensor,
    offsets: Tensor,
    weight: Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool],
    coefficient: Tensor | None,
    fusion: Fusion,
    dtype: torch.dtype,
) -> tuple[int, ...]:
    one = patches if fusion.guidance is None else patches.select(1, 0)
    shape = merged_shape(one, offsets, weight, size, wrap, coefficient)
    check_fusion(fusion, patches, shape, dtype, coefficient)
    return shape


def _prepare(
    patches: Tensor,
    offsets: Tensor,
    weight: Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool],
    coefficient: Tensor | None,
    fusion: Fusion,
    dtype: torch.dtype,
) -> Prepared:
    extents = patches.shape[3 if fusion.guidance is None else 4 :]

    def check() -> Prepared:
        shape = _shape(patches, offsets, weight, size, wrap, coefficient, fusion, dtype)
        return shape, get_plan(NAME, offsets, size, extents, wrap, merging=True)

    # What requires grad is refused by the check.
    if any(t is not None and t.requires_grad for t in (coefficient, *fusion.tensors())):
        check()
    signs = None if coefficient is None else (coefficient.shape, coefficient.dtype, coefficient.device)
    windows = tuple([(window.shape, window.dtype, window.device) for window in weight])
    like = (patches.shape, patches.dtype, patches.layout, dtype)
    signature = (like, tuple(size), tuple(wrap), windows, signs, fusion.signature())
    return prepare(_OP, offsets, signature, check, patches.device)


def _scatter(*inputs: Any) -> Tensor:
    patches, offsets, weight, size, wrap, normalize, coefficient, *parts, dtype = inputs
    fusion = Fusion(*parts)
    target = _target(patches, fusion, dtype)
    shape, plan = _prepare(patches, offsets, weight, size, wrap, coefficient, fusion, target)
    out = empty(NAME, shape, target, patches)
    merge(NAME, out, patches, plan, weight, normalize, coefficient, fusion)
    return out


def _fake(*inputs: Any) -> Tensor:
    patches, offsets, weight, size, wrap, _, coefficient, *parts, dtype = inputs
    fusion = Fusion(*parts)
    target = _target(patches, fusion, dtype)
    shape = _shape(patches, offsets, weight, size, wrap, coefficient, fusion, target)
    return empty(NAME, shape, target, patches)


def _scatter_out(*inputs: Any) -> None:
    patches, offsets, weight, size, wrap, normalize, coefficient, *parts, out = inputs
    fusion = Fusion(*parts)
    shape, plan = _prepare(patches, offsets, weight, size, wrap, coefficient, fusion, out.dtype)
    check_out(NAME, out, shape, (patches, coefficient, *fusion.tensors()), patches)
    check_apart(NAME, out, (patches, coefficient, *weight, *fusion.tensors()))
    merge(NAME, out, patches, plan, weight, normalize, coefficient, fusion)
    bump(out)


def _fake_out(*inputs: Any) -> None:
    patches, offsets, weight, size, wrap, _, coefficient, *parts, out = inputs
    fusion = Fusion(*parts)
    shape = _shape(patches, offsets, weight, size, wrap, coefficient, fusion, out.dtype)
    check_out(NAME, out, shape, (patches, coefficient, *fusion.tensors()), patches)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    patches, offsets, weight, size, wrap, normalize, coefficient, *parts, _ = inputs
    fusion = Fusion(*parts)
    ctx.save_for_backward(offsets, coefficient, fusion.guidance, fusion.a_each, fusion.b_each, *weight)
    ctx.numbers = (fusion.a, fusion.b, fusion.c) if fusion.x is not None else (0.0, 1.0, 0.0)
    extents = patches.shape[3 if fusion.guidance is None else 4 :]
    ctx.geometry = (list(extents), list(size), list(wrap), patches.dtype)
    ctx.normalize = normalize
    ctx.backend = _backend.forced_here()


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    offsets, coefficient, guidance, a_each, b_each, *weight = ctx.saved_tensors
    extents, size, wrap, dtype = ctx.geometry
    a, b, c = ctx.numbers

    def scaled(factor: float, each: Tensor | None) -> Tensor:
        pull = grad.to(compute_dtype(dtype)) * factor
        return pull if each is None else pull * each.view(-1, *[1] * (grad.dim() - 1))

    to_patches = to_x = to_noise = None
    if ctx.needs_input_grad[0]:
        with _backend.resume(ctx.backend):
            shares = patch_shares(
                scaled(b, b_each), offsets, weight, extents, size, wrap, ctx.normalize, coefficient
            )
        if guidance is None:
            to_patches = shares.to(dtype)
        else:
            scales = torch.cat([guidance, 1 - guidance.sum(0, keepdim=True)])
            scales = scales.view(1, *scales.shape, *[1] * (shares.dim() - 2))
            to_patches = (shares[:, None] * scales).to(dtype)
    if ctx.needs_input_grad[8]:
        to_x = scaled(a, a_each).to(grad.dtype)
    if ctx.needs_input_grad[9]:
        to_noise = scaled(c, None).to(grad.dtype)
    nothing = [None] * len(weight)
    return (to_patches, None, nothing, None, None, None, None, None, to_x, to_noise, *[None] * 6)


_ARGUMENTS = (
    "Tensor patches, Tensor offsets, Tensor[] weight, SymInt[] size, bool[] wrap, bool normalize, "
    "Tensor? coefficient, Tensor? guidance, Tensor? x, Tensor? noise, float a, float b, float c, "
    "Tensor? a_each, Tensor? b_each"
)
register(
    _OP, f"({_ARGUMENTS}, ScalarType? dtype) -> Tensor", _scatter, _fake, setup=_setup, backward=_backward
)
register(f"{_OP}_out", f"({_ARGUMENTS}, Tensor(a!) out) -> ()", _scatter_out, _fake_out)
