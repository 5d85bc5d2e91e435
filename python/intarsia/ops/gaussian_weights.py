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
        ValueError: If a length or the fraction is not positive, dtype is neither float32 nor float64, or a
            weight of the window would not be finite and above zero in `dtype`.

    Note:
        Deterministic. A window that is zero at its corners makes an average impossible where nothing else
        covers, as at the corners of a canvas. So the fraction must keep the factors and their outer product
        within the normal numbers of `dtype`.

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
    if not _fits(lengths, fraction, dtype):
        wanted = f"leave every weight of the window finite and above zero in {dtype}"
        remedy = "0.1 is the published value; float64 reaches further than float32."
        fail(_NAME, "sigma_fraction", wanted, f"{sigma_fraction} for size {tuple(lengths)}", remedy)
    where = torch.device("cpu") if device is None else torch.device(device)
    call = choose(_NAME, _factor)
    return tuple(call(length, fraction, dtype, where) for length in lengths)


def _fits(lengths: Sequence[int], fraction: float, dtype: torch.dtype) -> bool:
    # Beyond these the square that the formula divides by is no normal float64.
    if not 1e-150 < fraction < 1e150:
        return False
    lowest, highest = (math.log(torch.finfo(dtype).tiny), math.log(torch.finfo(dtype).max))
    peak = -math.log(fraction * math.sqrt(2 * math.pi))
    total = 0.0
    for axis, length in enumerate(lengths, 1):
        end = peak - ((1 - 1 / length) / fraction) ** 2 / 8
        total += end
        if min(end, total) < lowest or max(peak, axis * peak) > highest:
            return False
    return True


def _factor(length: int, sigma_fraction: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    out = torch.empty(length, dtype=dtype, device=device)
    select(out.device).gaussian_weights(out, sigma_fraction)
    return out


def _fake(length: int, sigma_fraction: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(length, dtype=dtype, device=device)


register(
    _NAME, "(SymInt length, float sigma_fraction, ScalarType dtype, Device device) -> Tensor", _factor, _fake
)
