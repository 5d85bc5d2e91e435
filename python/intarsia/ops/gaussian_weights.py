# SPDX-License-Identifier: Apache-2.0
"""Gaussian windows, one factor per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.ops._arguments import as_ints
from intarsia.ops._backend import select
from intarsia.ops._check import fail
from intarsia.ops._library import choose, register

__all__ = ["gaussian_weights"]

_NAME = "gaussian_weights"


def gaussian_weights(
    size: Sequence[int],
    *,
    sigma_fraction: float = 0.1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """Gaussian window of a patch as one factor per axis; the window is their outer product.

    w_i[j] = exp(-((j - m) / n)^2 / (2 f^2)) / sqrt(2 pi f^2), n = size[i], m = (n - 1) / 2

    Args:
        size: Patch lengths in axis order, each counted with its own n.
        sigma_fraction: f, the standard deviation as a fraction of the patch length, above 0.
        dtype: float32 or float64. Values are computed in float64; the far ends do not fit a half type.
        device: Device of the factors; the CPU if None.

    Returns:
        Tuple with one factor [size[i]] per axis, of `dtype`.

    Raises:
        ValueError: If a length or the fraction is not positive, or dtype is neither float32 nor float64.

    Note:
        Deterministic. A factor that underflows to zero makes an average impossible where nothing else covers,
        so a fraction that gives one is refused.

    Source:
        Jimenez, "Mixture of Diffusers for scene composition and high resolution image generation", 2023.

    Example:
        >>> from intarsia import ops
        >>> rows, columns = ops.gaussian_weights((8, 64))
        >>> [round(float(w), 4) for w in rows]
        [0.0003, 0.0302, 0.6879, 3.2816, 3.2816, 0.6879, 0.0302, 0.0003]
    """
    lengths = as_ints(_NAME, "size", size)
    fraction = float(sigma_fraction)
    if not (0 < fraction < math.inf):
        fail(_NAME, "sigma_fraction", "be positive and finite", sigma_fraction, "0.1 is the published value.")
    if dtype not in (torch.float32, torch.float64):
        fail(
            _NAME, "dtype", "be float32 or float64", dtype, "Weights are kept in single precision or better."
        )
    for length in lengths:
        if length < 1:
            fail(
                _NAME, "size", "be positive on every axis", tuple(lengths), "Leave out regions of no extent."
            )
        reach = (1 - 1 / length) ** 2 / (8 * fraction**2)
        if reach > (80.0 if dtype is torch.float32 else 700.0):
            fail(
                _NAME,
                "sigma_fraction",
                "leave the ends of the window above zero",
                sigma_fraction,
                "Use a wider window or float64.",
            )
    where = torch.device("cpu") if device is None else torch.device(device)
    call = choose(_NAME, _factor)
    return tuple(call(length, fraction, dtype, where) for length in lengths)


def _factor(length: int, sigma_fraction: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    out = torch.empty(length, dtype=dtype, device=device)
    select(out.device).gaussian_weights(out, sigma_fraction)
    return out


def _fake(length: int, sigma_fraction: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(length, dtype=dtype, device=device)


register(
    _NAME, "(SymInt length, float sigma_fraction, ScalarType dtype, Device device) -> Tensor", _factor, _fake
)
