# SPDX-License-Identifier: Apache-2.0
"""What scatter_average and weight_total share once their shapes are known to be right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from intarsia.ops._backend import select
from intarsia.ops._check import check_floats, check_geometry, check_vector, check_weight, fail
from intarsia.ops._fusion import Fusion
from intarsia.ops._plan import Plan

NAME = "scatter_average"


def merged_shape(
    patches: Tensor,
    offsets: Tensor,
    weight: Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool],
    coefficient: Tensor | None,
) -> tuple[int, ...]:
    """Shape [B, C, *S] of the canvas of patches [B, R, C, *s], after every check of shapes."""
    ndim = check_floats(NAME, "patches", patches, "[B, R, C, *s]", 3)
    batch, regions, channels, *patch = patches.shape
    if len(size) != ndim:
        wanted = f"have one length for each of the {ndim} canvas axes"
        fail(NAME, "size", wanted, tuple(size), "Give the canvas lengths S.")
    check_geometry(NAME, offsets, size, patch, wrap)
    if offsets.shape[0] != regions:
        wanted = f"have one row for each of the {regions} patches"
        fail(NAME, "offsets", wanted, offsets.shape[0], "Patches are [B, R, C, *s] with R regions.")
    check_weight(NAME, weight, regions, patch, patches)
    check_vector(NAME, "coefficient", coefficient, regions, patches)
    return (batch, channels, *size)


def merge(
    function: str,
    out: Tensor,
    patches: Tensor,
    plan: Plan,
    weight: Sequence[Tensor],
    normalize: bool,
    coefficient: Tensor | None,
    fusion: Fusion | None = None,
) -> None:
    """Write the merged canvas to `out` after the checks that need values."""
    _check_values(function, weight, coefficient, normalize)
    scales = None if fusion is None else fusion.guidance
    if scales is not None and scales.device.type == "cpu" and not _finite(scales):
        fail(function, "guidance", "be finite", "NaN or infinity", "Usual scales are 1 to 15.")
    if normalize:
        plan.require_coverage(function)
    if plan.num_regions == 0 and (fusion is None or fusion.x is None):
        out.zero_()
    elif out.numel():
        dense, windows, signs = patches.contiguous(), _dense(weight), _dense_or_none(coefficient)
        backend = select(out.device)
        if fusion is None:
            backend.scatter_average(out, dense, plan, windows, normalize, signs)
        else:
            backend.scatter_average(out, dense, plan, windows, normalize, signs, fusion.dense())
        plan.keep()


def total(
    function: str, out: Tensor, plan: Plan, weight: Sequence[Tensor], coefficient: Tensor | None
) -> None:
    """Write the total weight to `out` after the checks that need values."""
    _check_values(function, weight, coefficient, normalize=False)
    if plan.num_regions == 0:
        out.zero_()
    else:
        select(out.device).weight_total(out, plan, _dense(weight), _dense_or_none(coefficient))
        plan.keep()


def _dense(weight: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple([window.contiguous() for window in weight])


def _dense_or_none(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _check_values(
    function: str, weight: Sequence[Tensor], coefficient: Tensor | None, normalize: bool
) -> None:
    # Looking at values on an accelerator would wait for it.
    if weight[0].device.type != "cpu":
        return
    # Where the sum divides, the backend sees a weight that is not finite in the total.
    for window in () if normalize else weight:
        if not _finite(window):
            remedy = "Compute the window in float32 and check its width."
            fail(function, "weight", "be finite", "NaN or infinity", remedy)
    if coefficient is None:
        return
    if not _finite(coefficient):
        fail(function, "coefficient", "be finite", "NaN or infinity", "Check how it was computed.")
    if normalize and bool((coefficient < 0).any()):
        remedy = "Signed sums need normalize=False and coefficients that add to one at every element."
        fail(function, "coefficient", "be at least 0 where normalize=True", float(coefficient.min()), remedy)


def _finite(tensor: Tensor) -> bool:
    # A few numbers are summed without a tensor for the result. One sum is half the time of isfinite().all(),
    # which decides where a sum of finite values overflows.
    few = tensor.numel() <= 256 and tensor.is_contiguous()
    total = sum(tensor.view(-1).tolist()) if few else float(tensor.detach().sum())
    return math.isfinite(total) or bool(tensor.isfinite().all())
