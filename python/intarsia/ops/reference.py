# SPDX-License-Identifier: Apache-2.0
"""The operators in plain PyTorch: the oracle of the tests, and what runs where no compiled backend does.

Written to be read. Every function takes its destination first and a `Plan` on the same device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from intarsia.ops._check import compute_dtype, fail
from intarsia.ops._fusion import Fusion
from intarsia.ops._plan import Plan
from intarsia.ops._reference_leapfrog import leapfrog, metropolis_select
from intarsia.ops._reference_noise import canvas_integers, canvas_noise
from intarsia.ops._reference_rope import rope
from intarsia.ops._reference_slerp import slerp, spherical_aggregate

__all__ = [
    "canvas_integers",
    "canvas_noise",
    "extract_patches",
    "gaussian_weights",
    "leapfrog",
    "metropolis_select",
    "rope",
    "scatter_average",
    "slerp",
    "spherical_aggregate",
    "weight_total",
]

ALL = slice(None)
Slices = tuple[slice, ...]


def extract_patches(out: Tensor, canvas: Tensor, plan: Plan, scale: Tensor | None) -> None:
    """out[b, r, c, j] = scale[b] * canvas[b, c, offset_r + j].

    Args:
        out: [B, R, C, *s], or [B, K, R, C, *s] with every patch K times; written.
        canvas: [B, C, *S].
        plan: the regions.
        scale: [B] or None.
    """
    if out.dim() == canvas.dim() + 2:
        for copy in out.unbind(1):
            extract_patches(copy, canvas, plan, scale)
        return
    for region, offset in enumerate(plan.offsets.tolist()):
        for on_canvas, on_patch in _pieces(plan, offset):
            piece = canvas[(ALL, ALL, *on_canvas)]
            if scale is not None:
                piece = piece.to(scale.dtype) * scale.view(-1, *[1] * (piece.dim() - 1))
            out[:, region][(ALL, ALL, *on_patch)] = piece.to(out.dtype)


def scatter_average(
    out: Tensor,
    patches: Tensor,
    plan: Plan,
    weight: Sequence[Tensor],
    normalize: bool,
    coefficient: Tensor | None,
    fusion: Fusion | None = None,
) -> None:
    """out[b, c, x] = sum_r q_r(x) patches[b, r, c, x - offset_r] / (sum_r q_r(x) if normalize else 1).

    q_r(x) = coefficient_r * w_r(x - offset_r)

    Args:
        out: [B, C, *S], written.
        patches: [B, R, C, *s].
        plan: the regions.
        weight: one window [R|1, *s] or n factors [s_i].
        normalize: whether to divide by the total weight.
        coefficient: [R] or None.
        fusion: several answers [B, K, R, C, *s], or a solver's update, or None.
    """
    dtype = compute_dtype(patches.dtype)
    if fusion is not None and fusion.guidance is not None:
        patches = _guided(patches.to(dtype), fusion.guidance)
    total = torch.zeros(plan.canvas_size, dtype=dtype, device=out.device)
    merged = torch.zeros(out.shape, dtype=dtype, device=out.device)
    window = _window(weight)
    for region, offset in _ordered(plan):
        share = window[region if window.shape[0] > 1 else 0]
        if coefficient is not None:
            share = share * coefficient[region]
        for on_canvas, on_patch in _pieces(plan, offset):
            piece = patches[:, region][(ALL, ALL, *on_patch)].to(dtype)
            merged[(ALL, ALL, *on_canvas)] += share[on_patch] * piece
            total[on_canvas] += share[on_patch]
    if normalize:
        if out.device.type == "cpu":
            _require_positive(total)
        merged /= total
    out.copy_(merged if fusion is None else _updated(merged, fusion))


def _guided(answers: Tensor, guidance: Tensor) -> Tensor:
    *others, last = answers.unbind(1)
    value = last
    for answer, scale in zip(others, guidance, strict=True):
        value = value + scale.view(-1, *[1] * (last.dim() - 2)) * (answer - last)
    return value


def _updated(merged: Tensor, fusion: Fusion) -> Tensor:
    if fusion.x is None:
        return merged

    def factor(number: float, each: Tensor | None) -> Tensor | float:
        return number if each is None else number * each.view(-1, *[1] * (merged.dim() - 1))

    value = factor(fusion.b, fusion.b_each) * merged + factor(fusion.a, fusion.a_each) * fusion.x.to(
        merged.dtype
    )
    return value if fusion.noise is None else value + fusion.c * fusion.noise.to(merged.dtype)


def weight_total(out: Tensor, plan: Plan, weight: Sequence[Tensor], coefficient: Tensor | None) -> None:
    """out[x] = sum_r coefficient_r w_r(x - offset_r).

    Args:
        out: [*S], written.
        plan: the regions.
        weight: one window [R|1, *s] or n factors [s_i].
        coefficient: [R] or None.
    """
    out.zero_()
    window = _window(weight)
    for region, offset in _ordered(plan):
        share = window[region if window.shape[0] > 1 else 0]
        if coefficient is not None:
            share = share * coefficient[region]
        for on_canvas, on_patch in _pieces(plan, offset):
            out[on_canvas] += share[on_patch]


def gaussian_weights(out: Tensor, sigma_fraction: float) -> None:
    """out[j] = exp(-((j - m) / n)^2 / (2 f^2)) / sqrt(2 pi f^2) with m = (n - 1) / 2.

    Args:
        out: [n], written.
        sigma_fraction: f, the standard deviation in units of n.
    """
    n = out.shape[0]
    u = (torch.arange(n, dtype=torch.float64, device=out.device) - (n - 1) / 2) / n
    out.copy_(torch.exp(-(u**2) / (2 * sigma_fraction**2)) / math.sqrt(2 * math.pi * sigma_fraction**2))


def _ordered(plan: Plan) -> list[tuple[int, list[int]]]:
    offsets = plan.offsets.tolist()
    return [(region, offsets[region]) for region in plan.order.tolist()]


def _window(weight: Sequence[Tensor]) -> Tensor:
    window = weight[0]
    if len(weight) == 1:
        return window if window.dim() > 1 else window[None]
    for factor in weight[1:]:
        window = window[..., None] * factor
    return window[None]


def _pieces(plan: Plan, offset: Sequence[int]) -> Iterator[tuple[Slices, Slices]]:
    axes = [
        _pieces_along(start, extent, length)
        for start, extent, length in zip(offset, plan.patch_size, plan.canvas_size, strict=True)
    ]
    for parts in itertools.product(*axes):
        yield tuple(canvas for canvas, _ in parts), tuple(patch for _, patch in parts)


def _pieces_along(start: int, extent: int, length: int) -> list[tuple[slice, slice]]:
    before_seam = min(extent, length - start)
    pieces = [(slice(start, start + before_seam), slice(0, before_seam))]
    if before_seam < extent:
        pieces.append((slice(0, extent - before_seam), slice(before_seam, extent)))
    return pieces


def _require_positive(total: Tensor) -> None:
    good = (total > 0) & total.isfinite()
    if not bool(good.all()):
        place = tuple(good.logical_not().nonzero()[0].tolist())
        got, remedy = f"{float(total[place])} at {place}", "Use a window that is positive throughout."
        fail(
            "scatter_average", "weight", "have a positive, finite total at every canvas element", got, remedy
        )
