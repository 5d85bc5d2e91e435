# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU backend: threads follow torch.set_num_threads, a forked child runs serially."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._compiled import _C
from intarsia.ops._cpu_slerp import slerp as slerp
from intarsia.ops._cpu_slerp import spherical_aggregate as spherical_aggregate
from intarsia.ops._fusion import Fusion
from intarsia.ops._plan import Plan

DEVICES = ("cpu",)

# Looked up now, so that a module of another version is found out when it is loaded.
_extract, _scatter = _C.cpu.extract_patches, _C.cpu.scatter_average
_total, _gaussian = _C.cpu.weight_total, _C.cpu.gaussian_weights
_rope = _C.cpu.rope
_noise, _integers = _C.cpu.canvas_noise, _C.cpu.canvas_integers
_leapfrog, _select = _C.cpu.leapfrog, _C.cpu.metropolis_select
leapfrog_if_plain, metropolis_select_if_plain = _C.cpu.leapfrog_if_plain, _C.cpu.metropolis_select_if_plain
build_plan = _C.cpu.build_plan
Recall = _C.cpu.Recall


def extract_patches(out: Tensor, canvas: Tensor, plan: Plan, scale: Tensor | None) -> None:
    """Out [B, R, C, *s] or [B, K, R, C, *s] from canvas [B, C, *S] and scale [B]."""
    _extract(out, canvas, plan.handle, scale, torch.get_num_threads())


def scatter_average(
    out: Tensor,
    patches: Tensor,
    plan: Plan,
    weight: tuple[Tensor, ...],
    normalize: bool,
    coefficient: Tensor | None,
    fusion: Fusion | None = None,
) -> None:
    """Out [B, C, *S] from patches [B, R, C, *s], weight [R|1, *s] or factors [s_i], coefficient [R]."""
    _scatter(out, patches, plan.handle, weight, normalize, coefficient, torch.get_num_threads(), fusion)


def weight_total(out: Tensor, plan: Plan, weight: tuple[Tensor, ...], coefficient: Tensor | None) -> None:
    """Out [*S] from weight (window [R|1, *s] or factors [s_i]) and coefficient [R]."""
    _total(out, plan.handle, weight, coefficient, torch.get_num_threads())


def gaussian_weights(out: Tensor, sigma_fraction: float) -> None:
    """Out [s], one axis."""
    _gaussian(out, sigma_fraction, 1)


def rope(out: list[Tensor], x: list[Tensor], table: Tensor, interleaved: bool, inverse: bool) -> None:
    """Out from x, each [B, H, T, D], turned by table [T, 2, D/2] or [B, T, 2, D/2]."""
    _rope(out, x, table, interleaved, inverse, torch.get_num_threads())


def canvas_noise(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S], the noise of a box of places, with one seed per sample."""
    _noise(out, seed, purpose, step, offset, torch.get_num_threads())


def canvas_integers(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S] int64, the 32-bit integers that the noise is made of."""
    _integers(out, seed, purpose, step, offset, torch.get_num_threads())


def leapfrog(*arguments: Any) -> None:
    """One pass over states [B, *s], as `reference.leapfrog`."""
    _leapfrog(*arguments, None, torch.get_num_threads())


def metropolis_select(*arguments: Any) -> None:
    """The proposed states [B, *s] or the current ones, as `reference.metropolis_select`."""
    _select(*arguments, torch.get_num_threads())
