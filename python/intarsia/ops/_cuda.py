# SPDX-License-Identifier: Apache-2.0
"""The compiled CUDA backend: on the current stream of the tensors' device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._compiled import _C
from intarsia.ops._fusion import Fusion
from intarsia.ops._leapfrog_check import canvas
from intarsia.ops._plan import Plan

DEVICES = ("cuda",)

if not hasattr(_C, "cuda"):
    raise ImportError("this build has no CUDA kernels, as no CUDA compiler was found")
if torch.version.hip is not None:
    raise ImportError("this PyTorch drives AMD devices")
if not torch.cuda.is_available():
    raise ImportError("PyTorch sees no CUDA device")

from intarsia.ops._cuda_slerp import slerp as slerp  # noqa: E402
from intarsia.ops._cuda_slerp import spherical_aggregate as spherical_aggregate  # noqa: E402

_extract, _scatter = _C.cuda.extract_patches, _C.cuda.scatter_average
_total, _gaussian = _C.cuda.weight_total, _C.cuda.gaussian_weights
_rope = _C.cuda.rope
_leapfrog, _select, _partials = _C.cuda.leapfrog, _C.cuda.metropolis_select, _C.cuda.leapfrog_partials
_noise, _integers = _C.cuda.canvas_noise, _C.cuda.canvas_integers


def _guard(out: Tensor) -> AbstractContextManager[Any]:
    here = torch.cuda.current_device() == out.device.index
    return nullcontext() if here else torch.cuda.device(out.device)


def _stream(out: Tensor) -> int:
    return torch.cuda.current_stream(out.device).cuda_stream


def extract_patches(out: Tensor, canvas: Tensor, plan: Plan, scale: Tensor | None) -> None:
    """Out [B, R, C, *s] or [B, K, R, C, *s] from canvas [B, C, *S] and scale [B]."""
    with _guard(out):
        _extract(out, canvas, plan.handle, scale, _stream(out))


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
    with _guard(out):
        _scatter(out, patches, plan.handle, weight, normalize, coefficient, _stream(out), fusion)


def weight_total(out: Tensor, plan: Plan, weight: tuple[Tensor, ...], coefficient: Tensor | None) -> None:
    """Out [*S] from weight (window [R|1, *s] or factors [s_i]) and coefficient [R]."""
    with _guard(out):
        _total(out, plan.handle, weight, coefficient, _stream(out))


def gaussian_weights(out: Tensor, sigma_fraction: float) -> None:
    """Out [s], one axis."""
    with _guard(out):
        _gaussian(out, sigma_fraction, _stream(out))


def rope(out: list[Tensor], x: list[Tensor], table: Tensor, interleaved: bool, inverse: bool) -> None:
    """Out from x, each [B, H, T, D], turned by table [T, 2, D/2] or [B, T, 2, D/2]."""
    with _guard(table):
        _rope(out, x, table, interleaved, inverse, _stream(table))


def canvas_noise(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S], the noise of a box of places, with one seed per sample."""
    with _guard(out):
        _noise(out, seed, purpose, step, offset, _stream(out))


def canvas_integers(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S] int64, the 32-bit integers that the noise is made of."""
    with _guard(out):
        _integers(out, seed, purpose, step, offset, _stream(out))


def leapfrog(*arguments: Any) -> None:
    """One pass over states [B, *s], as `reference.leapfrog`; noise to be drawn has a launch of its own."""
    *given, parts, key = arguments
    momentum, energy = given[5], given[3]
    partial = None
    if key is not None:
        given[7] = torch.empty_like(momentum)
        canvas_noise(canvas(given[7]), *key)
    if energy is not None:
        shape = (momentum.shape[0], _partials(momentum.numel() // momentum.shape[0]))
        partial = torch.empty(shape, dtype=torch.float64, device=momentum.device)
    with _guard(momentum):
        _leapfrog(*given, parts, None, partial, _stream(momentum))


def metropolis_select(*arguments: Any) -> None:
    """The proposed states [B, *s] or the current ones, as `reference.metropolis_select`."""
    accepted = arguments[1]
    with _guard(accepted):
        _select(*arguments, _stream(accepted))
