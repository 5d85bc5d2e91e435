# SPDX-License-Identifier: Apache-2.0
"""Merging patches into a canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._arguments import as_ints, as_offsets, as_vector, as_weight, as_wrap
from intarsia.ops._check import (
    check_apart,
    check_floats,
    check_out,
    check_out_argument,
    compute_dtype,
    empty,
)
from intarsia.ops._fusion import fusion_of
from intarsia.ops._library import bump, choose, register
from intarsia.ops._merge import merge, merged_shape
from intarsia.ops._merge_gradient import average_backward, average_setup, average_vmap
from intarsia.ops._plan import Prepared, get_plan, prepare
from intarsia.ops._recall import lasting, recall, serves
from intarsia.ops._scatter_fused import fused

__all__ = ["scatter_average"]

_NAME = "scatter_average"


def scatter_average(
    patches: Tensor,
    *,
    offsets: Tensor | Sequence[Sequence[int]],
    weight: Tensor | Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool] | None = None,
    normalize: bool = True,
    coefficient: Tensor | None = None,
    guidance: float | Tensor | None = None,
    x: Tensor | None = None,
    a: float | Tensor = 0.0,
    b: float | Tensor = 1.0,
    noise: Tensor | None = None,
    c: float = 0.0,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Merge patches into a canvas by their weighted average, or by their weighted sum.

    D[b, c, x] = sum_r q_r(x) patches[b, r, c, x - offsets[r]] / (sum_r q_r(x) if normalize else 1)
    q_r(x) = coefficient[r] * weight(x - offsets[r])

    In the same pass it can combine K answers to every region, patches[b, r] = p_K + sum_k guidance[k, r]
    (p_k - p_K), and return a solver's update a x + b D + c noise instead of D.

    Args:
        patches: [B, R, C, *s] float16, bfloat16, float32 or float64, one to three patch axes s; any strides.
            [B, K, R, C, *s] with `guidance`, the last of the K answers the unconditional one.
        offsets: [R, n] integers, the first element of each region; on the CPU, or copied there.
        weight: Full window [R|1, *s], or a tuple with one factor [s_i] per axis whose outer product is the
            window (never formed). Used in float32, or float64 for float64 patches.
        size: Canvas lengths S in axis order.
        wrap: Per axis, whether the canvas closes on itself; there any integer offset is legal. None: no axis.
        normalize: Whether to divide by the total weight. If not, elements of no region become 0.
        coefficient: [R] signed factor of each region, at least 0 if `normalize`. None: 1.
        guidance: Classifier-free guidance: one scale, or [R], one for each region, where K is 2; [K - 1, R]
            for any K. None: there is one answer, and patches have no axis K.
        x: [B, C, *S] canvas before the update, in the dtype of the result. None: return D.
        a: Factor of `x`, a number or [B].
        b: Factor of D, a number or [B]; 1 without `x`.
        noise: [B, C, *S] third term of the update, in the dtype of the result.
        c: Factor of `noise`, a number.
        dtype: Dtype of the canvas; that of `x`, or else of the patches, if None.
        out: [B, C, *S] contiguous, written and returned.

    Returns:
        Canvas [B, C, *S].

    Raises:
        CoverageError: If `normalize` and a canvas element belongs to no region.
        ValueError: If an argument has the wrong shape, dtype or device, a region leaves an axis that does not
            wrap, the weight is not finite, or `normalize` meets a negative coefficient or a total of 0.

    Note:
        Sums are made in float32 (float64 for float64 patches) in the order of the offsets, ties by index: on
        one backend the result is the same bits for every run, thread count and order of distinct regions.
        Backends agree to the rounding of that dtype, as (w p) (1 / w) need not be p to the last bit: where
        one region alone covers a run of at least 256 elements, the CPU copies p. Differentiable in
        `patches` and `coefficient`; a weight that requires grad is refused, and so is `out` where an argument
        requires grad. With guidance or an update it is differentiable in `patches`, `x` and `noise` alone,
        and rounds as its formula reads. On CUDA the values of weight and coefficient are not looked at, as
        that would wait for the device: a total that is not above 0 gives NaN there.

    Source:
        Bar-Tal et al., "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", ICML 2023,
        equation 5; Jimenez, "Mixture of Diffusers", 2023, for signed and windowed weights; Ho and Salimans,
        "Classifier-free diffusion guidance", 2022, equation 6 with guidance = 1 + w.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> patches = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> ops.scatter_average(patches, offsets=[[0], [2]], weight=(torch.ones(4),), size=(6,)).tolist()
        [[[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]]]
    """
    bare = guidance is None and x is None and noise is None and coefficient is None
    bare = bare and type(a) is float and a == 0.0 and type(b) is float and b == 1.0 and c == 0
    quick = bare and not torch.compiler.is_compiling()
    if quick and _calls is not None:
        again = _calls.scatter(patches, offsets, weight, size, wrap, normalize, dtype, out)
        if again is not None:
            if out is not None:
                bump(out)
            return again
    if guidance is None:
        ndim = check_floats(_NAME, "patches", patches, "[B, R, C, *s]", 3)
    else:
        ndim = check_floats(_NAME, "patches", patches, "[B, K, R, C, *s] (with guidance)", 4)
    sums = compute_dtype(patches.dtype)
    places = as_offsets(_NAME, offsets)
    windows = as_weight(_NAME, weight, sums)
    lengths = as_ints(_NAME, "size", size)
    cyclic = as_wrap(_NAME, wrap, ndim)
    signs = as_vector(_NAME, "coefficient", coefficient, sums)
    fusion = fusion_of(patches, guidance, x, noise, a, b, c, sums)
    if fusion is not None:
        return fused(patches, places, windows, lengths, cyclic, normalize, signs, fusion, dtype, out)
    if out is None:
        call = choose(_NAME, _scatter, patches, places, signs, *windows)
        result = call(patches, places, windows, lengths, cyclic, normalize, signs, dtype)
        if quick and call is _scatter and places is offsets:
            _remember(patches, places, windows, size, wrap, normalize, dtype, result)
        return result
    check_out_argument(_NAME, out, dtype)
    write = choose(f"{_NAME}_out", _scatter_out, patches, places, signs, out, *windows)
    write(patches, places, windows, lengths, cyclic, normalize, signs, out)
    if quick and write is _scatter_out and places is offsets:
        _remember(patches, places, windows, size, wrap, normalize, out.dtype, out)
    return out


# Made by the first call worth remembering: importing loads no compiled module.
_calls: Any = None


def _remember(
    patches: Tensor,
    offsets: Tensor,
    weight: list[Tensor],
    size: Any,
    wrap: Any,
    normalize: bool,
    dtype: Any,
    result: Tensor,
) -> None:
    global _calls
    _calls = recall(_NAME)
    if _calls is None or not lasting(size, wrap) or not patches.numel() or not result.numel():
        return
    closed = [False] * len(size) if wrap is None else wrap
    plan = get_plan(_NAME, offsets, size, patches.shape[3:], closed)
    if serves(plan) and patches.is_cpu:
        _calls.remember(
            patches, offsets, size, wrap, dtype, result, plan.handle, tuple(weight), bool(normalize)
        )


def _prepare(
    patches: Tensor,
    offsets: Tensor,
    weight: Sequence[Tensor],
    size: Sequence[int],
    wrap: Sequence[bool],
    coefficient: Tensor | None,
) -> Prepared:
    def check() -> Prepared:
        shape = merged_shape(patches, offsets, weight, size, wrap, coefficient)
        return shape, get_plan(_NAME, offsets, size, patches.shape[3:], wrap, merging=True)

    signs = None if coefficient is None else (coefficient.shape, coefficient.dtype, coefficient.device)
    windows = tuple([(window.shape, window.dtype, window.device) for window in weight])
    like = (patches.shape, patches.dtype, patches.layout)
    signature = (like, tuple(size), tuple(wrap), windows, signs)
    return prepare(_NAME, offsets, signature, check, patches.device)


def _scatter(*inputs: Any) -> Tensor:
    patches, offsets, weight, size, wrap, normalize, coefficient, dtype = inputs
    shape, plan = _prepare(patches, offsets, weight, size, wrap, coefficient)
    out = empty(_NAME, shape, dtype, patches)
    merge(_NAME, out, patches, plan, weight, normalize, coefficient)
    return out


def _fake(*inputs: Any) -> Tensor:
    patches, offsets, weight, size, wrap, _, coefficient, dtype = inputs
    return empty(_NAME, merged_shape(patches, offsets, weight, size, wrap, coefficient), dtype, patches)


def _scatter_out(*inputs: Any) -> None:
    patches, offsets, weight, size, wrap, normalize, coefficient, out = inputs
    shape, plan = _prepare(patches, offsets, weight, size, wrap, coefficient)
    check_out(_NAME, out, shape, (patches, coefficient), patches)
    check_apart(_NAME, out, (patches, coefficient, *weight))
    merge(_NAME, out, patches, plan, weight, normalize, coefficient)
    bump(out)


def _fake_out(*inputs: Any) -> None:
    patches, offsets, weight, size, wrap, _, coefficient, out = inputs
    shape = merged_shape(patches, offsets, weight, size, wrap, coefficient)
    check_out(_NAME, out, shape, (patches, coefficient), patches)


_ARGUMENTS = (
    "Tensor patches, Tensor offsets, Tensor[] weight, SymInt[] size, bool[] wrap, bool normalize, "
    "Tensor? coefficient"
)
_SCHEMA = f"({_ARGUMENTS}, ScalarType? dtype) -> Tensor"
register(_NAME, _SCHEMA, _scatter, _fake, setup=average_setup, backward=average_backward, vmap=average_vmap)
register(f"{_NAME}_out", f"({_ARGUMENTS}, Tensor(a!) out) -> ()", _scatter_out, _fake_out)
