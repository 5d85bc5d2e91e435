# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the merges, written with the operators themselves, so that they can be differentiated again.

With q_r = coefficient_r w_r, T = sum_r q_r, out = sum_r q_r p_r / T and h = grad / T (not normalised: T = 1):
grad p_r = q_r h, and grad coefficient_r = sum over the region of w_r (p_r h - [division] sum_bc h out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import _backend
from intarsia.ops._check import compute_dtype, fail


def average_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the derivative of scatter_average needs; the patches only for a coefficient's sake."""
    patches, offsets, weight, size, wrap, normalize, coefficient, _ = inputs
    _refuse_gradient("scatter_average", weight)
    trained = coefficient is not None and coefficient.requires_grad
    ctx.save_for_backward(patches if trained else None, offsets, coefficient, *weight)
    ctx.geometry = (list(patches.shape[3:]), list(size), list(wrap), patches.dtype)
    ctx.normalize = normalize
    ctx.backend = _backend.forced_here()


def average_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Gradients of scatter_average for patches and coefficient."""
    patches, offsets, coefficient, *weight = ctx.saved_tensors
    patch, size, wrap, dtype = ctx.geometry
    sums = compute_dtype(dtype)
    extract = torch.ops.intarsia.extract_patches
    to_patches = to_coefficient = None
    with _backend.resume(ctx.backend):
        pull = grad.to(sums)
        if ctx.normalize:
            pull = pull / torch.ops.intarsia.weight_total(offsets, weight, size, wrap, coefficient)
        window = _window(weight)[:, None]
        shares = extract(pull, offsets, patch, wrap, None, None) * window
        if ctx.needs_input_grad[0]:
            to_patches = _times(shares, coefficient).to(dtype)
        if ctx.needs_input_grad[6]:
            to_coefficient = _per_region(shares * patches)
            if ctx.normalize:
                mean = torch.ops.intarsia.scatter_average(
                    patches, offsets, weight, size, wrap, True, coefficient, sums
                )
                through = (pull * mean).sum((0, 1), keepdim=True)
                drawn = extract(through, offsets, patch, wrap, None, None) * window
                to_coefficient = to_coefficient - _per_region(drawn)
    return to_patches, None, [None] * len(weight), None, None, None, to_coefficient, None


def patch_shares(
    pull: Tensor,
    offsets: Tensor,
    weight: Sequence[Tensor],
    patch: Sequence[int],
    size: Sequence[int],
    wrap: Sequence[bool],
    normalize: bool,
    coefficient: Tensor | None,
) -> Tensor:
    """Gradient for patches [B, R, C, *s] of the gradient [B, C, *S] for their merge."""
    if normalize:
        pull = pull / torch.ops.intarsia.weight_total(offsets, weight, size, wrap, coefficient)
    cut = torch.ops.intarsia.extract_patches(pull, offsets, patch, wrap, None, None)
    return _times(cut * _window(weight)[:, None], coefficient)


def average_vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    """A vmap over patches is a larger batch."""
    patches, *rest = args
    if in_dims[0] is None or any(dim is not None for dim in (in_dims[1], *in_dims[2], in_dims[6])):
        remedy = "Loop over the other argument."
        fail("scatter_average", "patches", "be all that a vmap maps over", "another mapped argument", remedy)
    patches = patches.movedim(in_dims[0], 0)
    canvas = torch.ops.intarsia.scatter_average(patches.flatten(0, 1), *rest)
    return canvas.unflatten(0, patches.shape[:2]), 0


def total_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the derivative of weight_total needs."""
    offsets, weight, size, wrap, _ = inputs
    _refuse_gradient("weight_total", weight)
    ctx.save_for_backward(offsets, *weight)
    full = len(weight) == 1 and weight[0].dim() > 1
    ctx.patch = list(weight[0].shape[1:]) if full else [factor.shape[0] for factor in weight]
    ctx.wrap = list(wrap)
    ctx.backend = _backend.forced_here()


def total_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Gradient of weight_total for coefficient."""
    offsets, *weight = ctx.saved_tensors
    with _backend.resume(ctx.backend):
        pulled = torch.ops.intarsia.extract_patches(
            grad[None, None], offsets, ctx.patch, ctx.wrap, None, None
        )
    return None, [None] * len(weight), None, None, _per_region(pulled * _window(weight)[:, None])


def _refuse_gradient(function: str, weight: Sequence[Tensor]) -> None:
    if any(window.requires_grad for window in weight):
        remedy = "Detach it; gradients flow through patches and coefficient only."
        fail(function, "weight", "not require grad", "one that does", remedy)


def _window(weight: Sequence[Tensor]) -> Tensor:
    window = weight[0]
    if len(weight) == 1 and window.dim() > 1:
        return window
    for factor in weight[1:]:
        window = window[..., None] * factor
    return window[None]


def _times(shares: Tensor, coefficient: Tensor | None) -> Tensor:
    return shares if coefficient is None else shares * coefficient.view(-1, *[1] * (shares.dim() - 2))


def _per_region(products: Tensor) -> Tensor:
    return products.sum([axis for axis in range(products.dim()) if axis != 1])
