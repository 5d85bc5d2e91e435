# SPDX-License-Identifier: Apache-2.0
"""Noise levels of a run: falling float64 tensors on the CPU, with the final 0."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from intarsia.types import log_sigmas

__all__ = ["exponential", "from_alphas_cumprod", "karras"]


def karras(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Space `n` levels evenly in `sigma**(1/rho)`, then 0: dense where the image takes shape.

    `sigma_i = (sigma_max^(1/rho) + i/(n-1) * (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho`

    Args:
        n: steps of the run.
        sigma_min: the last level before 0.
        sigma_max: the first level.
        rho: 1 spaces evenly in sigma; the larger, the more levels near `sigma_min`.

    Returns:
        [n + 1], float64, CPU.

    Raises:
        ValueError: `n` below 1, levels that are not `0 < sigma_min < sigma_max < inf`, or `rho` not above 0.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", equation 5.

    Example:
        >>> [round(s, 3) for s in karras(4, 0.002, 80).tolist()]
        [80.0, 9.723, 0.47, 0.002, 0.0]
    """
    _check_range("karras", n, sigma_min, sigma_max)
    if not 0 < rho < math.inf:
        raise ValueError(f"karras: rho must be a finite number above 0, got {rho}. The paper uses 7.")
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = torch.linspace(*ends, n, dtype=torch.float64) ** rho
    return _with_ends(sigmas, sigma_min, sigma_max)


def exponential(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """Space `n` levels evenly in `log(sigma)`, then 0.

    `sigma_i = sigma_max * (sigma_min / sigma_max)^(i/(n-1))`

    Args:
        n: steps of the run.
        sigma_min: the last level before 0.
        sigma_max: the first level.

    Returns:
        [n + 1], float64, CPU.

    Raises:
        ValueError: `n` below 1, or levels that are not `0 < sigma_min < sigma_max < inf`.

    Source:
        The limit of `karras` for rho to infinity.

    Example:
        >>> [round(s, 6) for s in exponential(3, 0.01, 1).tolist()]
        [1.0, 0.1, 0.01, 0.0]
    """
    _check_range("exponential", n, sigma_min, sigma_max)
    sigmas = torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64).exp()
    return _with_ends(sigmas, sigma_min, sigma_max)


def from_alphas_cumprod(
    alphas_cumprod: Tensor,
    n: int | None = None,
    *,
    spacing: Literal["trailing", "leading", "linspace"] = "trailing",
) -> Tensor:
    """Take levels from the table of a discrete-time model, `sigma = sqrt((1 - abar) / abar)`, then 0.

    Args:
        alphas_cumprod: [T], floating, `abar` per step, falling within (0, 1); T=1000 as a rule.
        n: steps of the run; None for all T.
        spacing: which of the T steps: "trailing" and "linspace" start at the noisiest, "leading" ends at the
            cleanest and starts below the noisiest. "linspace" falls between steps, in `log(sigma)`.

    Returns:
        [n + 1], float64, CPU.

    Raises:
        ValueError: a table that does not fall within (0, 1), `n` outside 1 to T, or another spacing.

    Note:
        A table with zero terminal signal-to-noise ratio ends in `abar = 0`, which is sigma = infinity:
        leave that entry out.

    Source:
        Spacings: Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", table 2.

    Example:
        >>> betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        >>> sigmas = from_alphas_cumprod((1 - betas).cumprod(0), 50)
        >>> len(sigmas), round(sigmas[0].item(), 1)
        (51, 157.4)
    """
    table = log_sigmas("from_alphas_cumprod", alphas_cumprod)
    total = len(table)
    n = total if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= total:
        raise ValueError(
            f"from_alphas_cumprod: n must be an integer from 1 to {total}, the table's length, got {n!r}. "
            "Take more levels than the model has from karras instead."
        )
    if spacing == "trailing":
        index = (torch.arange(n, dtype=torch.float64).neg() * total / n + total).round() - 1
    elif spacing == "leading":
        index = torch.arange(n - 1, -1, -1, dtype=torch.float64) * (total // n)
    elif spacing == "linspace":
        index = torch.linspace(total - 1, 0, n, dtype=torch.float64)
    else:
        raise ValueError(
            "from_alphas_cumprod: spacing must be 'trailing', 'leading' or 'linspace', "
            f"got {spacing!r}. 'trailing' starts at the noisiest level."
        )
    low = index.long()
    levels = torch.lerp(table[low], table[(low + 1).clamp(max=total - 1)], index - low)
    return torch.cat([levels.exp(), levels.new_zeros(1)])


def _check_range(name: str, n: int, sigma_min: float, sigma_max: float) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name}: n must be an integer of at least 1, got {n!r}. It counts the steps.")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"{name}: sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max < inf, "
            f"got {sigma_min} and {sigma_max}. The usual range is 0.002 to 80; the final 0 is added."
        )


def _with_ends(sigmas: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    if len(sigmas) > 1:
        sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return torch.cat([sigmas, sigmas.new_zeros(1)])
