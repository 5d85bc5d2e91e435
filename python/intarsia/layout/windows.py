# SPDX-License-Identifier: Apache-2.0
"""Windows: how much each element of a patch counts, as one factor per axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from intarsia.layout._check import fail
from intarsia.ops import gaussian_weights

__all__ = ["Window", "cosine", "gaussian", "quartic", "triangle", "uniform"]

Window: TypeAlias = Callable[..., tuple[Tensor, ...]]


def _cells(size: int, device: torch.device | str | None) -> Tensor:
    """Cell centres `u_j = (2j + 1 - n)/n`, `[n]` float64: the mirror image of `u` is exactly `-u`."""
    if size < 1:
        fail("window", "patch", "have sizes of at least 1", size, "Give one positive size per axis.")
    return torch.arange(1 - size, size, 2, dtype=torch.float64, device=device) / size


def _axes(
    shape: Callable[[Tensor], Tensor],
    patch: Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> tuple[Tensor, ...]:
    return tuple(shape(_cells(int(size), device)).to(dtype) for size in patch)


def uniform(
    patch: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """Every element counts the same: `w = 1` (MultiDiffusion).

    Args:
        patch: size of the patch, one integer per axis.
        dtype: float32 or float64.
        device: where the factors live.

    Returns:
        One factor `[s_i]` per axis, in `dtype`.

    Raises:
        ValueError: a size below 1.

    Source:
        Bar-Tal et al. 2023, MultiDiffusion, equation 5 with `W = 1`.

    Example:
        >>> uniform((3,))
        (tensor([1., 1., 1.]),)
    """
    return _axes(torch.ones_like, patch, dtype, device)


def triangle(
    patch: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """A linear ramp to both sides, `w(u) = 1 - |u|`.

    Args:
        patch: size of the patch, one integer per axis.
        dtype: float32 or float64.
        device: where the factors live.

    Returns:
        One factor `[s_i]` per axis, in `dtype`; positive, since `u` is taken at cell centres.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> triangle((4,))
        (tensor([0.2500, 0.7500, 0.7500, 0.2500]),)
    """
    return _axes(lambda u: 1 - u.abs(), patch, dtype, device)


def cosine(
    patch: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """Half a period of a cosine, `w(u) = cos(pi u / 2)`.

    Args:
        patch: size of the patch, one integer per axis.
        dtype: float32 or float64.
        device: where the factors live.

    Returns:
        One factor `[s_i]` per axis, in `dtype`, positive.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> cosine((2,))
        (tensor([0.7071, 0.7071]),)
    """
    return _axes(lambda u: torch.cos(u * (math.pi / 2)), patch, dtype, device)


def gaussian(
    patch: Sequence[int],
    *,
    sigma_fraction: float = 0.1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """The window of Mixture of Diffusers, `w(u) = exp(-(u/2)^2 / (2 f^2)) / sqrt(2 pi f^2)`.

    Args:
        patch: size of the patch, one integer per axis; each axis is measured in its own size.
        sigma_fraction: standard deviation `f` as a share of the patch. The default of 0.1 blends almost
            like a hard switch: 10 % to 90 % within 6 of 64 cells at half overlap. 0.2 is soft.
        dtype: float32 or float64.
        device: where the factors live.

    Returns:
        One factor `[s_i]` per axis, in `dtype`, positive.

    Raises:
        ValueError: a size below 1, or a `sigma_fraction` whose window is not positive throughout in `dtype`.

    Note:
        Other widths inside a Factor: `functools.partial(gaussian, sigma_fraction=0.2)`.

    Source:
        Jimenez 2023, Mixture of Diffusers, section 3.

    Example:
        >>> gaussian((64,))[0][31].item()
        3.977...
    """
    return gaussian_weights(tuple(patch), sigma_fraction=sigma_fraction, dtype=dtype, device=device)


def quartic(
    patch: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """The biweight window, `w(u) = 15/16 (1 - u^2)^2`.

    Args:
        patch: size of the patch, one integer per axis.
        dtype: float32 or float64.
        device: where the factors live.

    Returns:
        One factor `[s_i]` per axis, in `dtype`, positive.

    Raises:
        ValueError: a size below 1.

    Source:
        The quartic (biweight) kernel of density estimation, as Mixture of Diffusers offers it.

    Example:
        >>> quartic((1,))
        (tensor([0.9375]),)
    """
    return _axes(lambda u: 15 / 16 * (1 - u**2) ** 2, patch, dtype, device)
