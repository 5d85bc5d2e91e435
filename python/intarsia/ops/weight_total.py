# SPDX-License-Identifier: Apache-2.0
"""The normaliser of a weighted average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.ops._arguments import as_ints, as_offsets, as_vector, as_weight, as_wrap
from intarsia.ops._check import check_geometry, check_vector, check_weight, compute_dtype, empty, fail
from intarsia.ops._library import choose, register
from intarsia.ops._merge import total
from intarsia.ops._merge_gradient import total_backward, total_setup
from intarsia.ops._plan import get_plan

__all__ = ["weight_total"]

_NAME = "weight_total"


def weight_total(
    offsets: Tensor | Sequence[Sequence[int]],
    weight: Tensor | Sequence[Tensor],
    size: Sequence[int],
    *,
    wrap: Sequence[bool] | None = None,
    coefficient: Tensor | None = None,
) -> Tensor:
    """Total weight at every canvas element: what `scatter_average(normalize=True)` divides by.

    out[x] = sum_r coefficient[r] * weight(x - offsets[r])

    Args:
        offsets: [R, n] integers, the first element of each region; on the CPU, or copied there.
        weight: Full window [R|1, *s], or a tuple with one factor [s_i] per axis; gives the patch size.
        size: Canvas lengths S in axis order.
        wrap: Per axis, whether the canvas closes on itself. None: no axis.
        coefficient: [R] signed factor of each region. None: 1.

    Returns:
        Total [*S], float64 if the weight is, else float32; 0 where no region lies.

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, a region leaves an axis that does not
            wrap, or, on the CPU, the weight is not finite.

    Note:
        Deterministic. Differentiable in `coefficient`; a weight that requires grad is refused.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> ops.weight_total([[0], [2]], (torch.ones(4),), (6,)).tolist()
        [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]
    """
    first = (
        weight
        if isinstance(weight, Tensor)
        else weight[0]
        if isinstance(weight, Sequence) and weight
        else None
    )
    sums = compute_dtype(first.dtype) if isinstance(first, Tensor) else torch.float32
    windows = as_weight(_NAME, weight, sums)
    places = as_offsets(_NAME, offsets)
    lengths = as_ints(_NAME, "size", size)
    cyclic = as_wrap(_NAME, wrap, len(lengths))
    signs = as_vector(_NAME, "coefficient", coefficient, sums)
    call = choose(_NAME, _total, places, signs, *windows)
    return call(places, windows, lengths, cyclic, signs)


def _fake(
    offsets: Tensor,
    weight: Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool],
    coefficient: Tensor | None,
) -> Tensor:
    if not 1 <= len(size) <= 3:
        fail(_NAME, "size", "have 1 to 3 canvas axes", tuple(size), "Give the canvas lengths S.")
    patch = _patch(weight, len(size))
    check_geometry(_NAME, offsets, size, patch, wrap)
    check_weight(_NAME, weight, offsets.shape[0], patch, weight[0])
    check_vector(_NAME, "coefficient", coefficient, offsets.shape[0], weight[0])
    return empty(_NAME, size, None, weight[0])


def _total(
    offsets: Tensor,
    weight: Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool],
    coefficient: Tensor | None,
) -> Tensor:
    out = _fake(offsets, weight, size, wrap, coefficient)
    plan = get_plan(_NAME, offsets, size, _patch(weight, len(size)), wrap, merging=True)
    total(_NAME, out, plan.on(out.device), weight, coefficient)
    return out


def _patch(weight: Sequence[Tensor], ndim: int) -> list[int]:
    if len(weight) == 1 and weight[0].dim() == ndim + 1:
        return list(weight[0].shape[1:])
    if len(weight) != ndim or any(factor.dim() != 1 for factor in weight):
        got = f"shapes {[list(window.shape) for window in weight]}"
        wanted = f"be one tensor [R|1, *s] or {ndim} rank-1 factors"
        fail(_NAME, "weight", wanted, got, "Give a factor for every axis of size.")
    return [factor.shape[0] for factor in weight]


_SCHEMA = "(Tensor offsets, Tensor[] weight, SymInt[] size, bool[] wrap, Tensor? coefficient) -> Tensor"
register(_NAME, _SCHEMA, _total, _fake, setup=total_setup, backward=total_backward)
