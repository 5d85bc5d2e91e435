# SPDX-License-Identifier: Apache-2.0
"""What every part of intarsia agrees on: denoisers, samplers, their states, and condition trees."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from intarsia._cond import (
    Cond,
    PerCanvas,
    broadcast_cond,
    cat_cond,
    check_cond,
    index_cond,
    merge_cond,
    override_cond,
    same_structure,
)
from intarsia._energy import energy_of, with_energy
from intarsia._state import Info, State, marginal

__all__ = [
    "Cond",
    "Denoiser",
    "Generators",
    "Info",
    "NoiseSource",
    "NonFiniteError",
    "PerCanvas",
    "Purpose",
    "Sampler",
    "State",
    "StopSampling",
    "affine",
    "broadcast_cond",
    "cat_cond",
    "check_canvas",
    "check_cond",
    "denoise",
    "energy_of",
    "index_cond",
    "level",
    "log_sigmas",
    "marginal",
    "merge_cond",
    "override_cond",
    "per_sample",
    "same_structure",
    "sizes_of",
    "with_energy",
]


class Purpose(IntEnum):
    """What canvas noise is drawn for: the first half of a stream; the second is the step.

    Purposes fill eight bits. A stream of several draws in one step counts them in the bits above.

    Attributes:
        INITIAL: the state that a run starts from.
        SOLVER: fresh noise of a solver: ancestral, churn.
        CORRECTOR: momenta and Langevin noise of a corrector.
        GUIDE: noise that a callback or a condition brings in.
    """

    INITIAL = 0
    SOLVER = 1
    CORRECTOR = 2
    GUIDE = 3


@runtime_checkable
class NoiseSource(Protocol):
    """Something else than a generator that a sampler can draw from."""

    def normal_like(self, x: Tensor, /) -> Tensor:
        """Return standard normal noise [B, C, *S] in the shape, dtype and device of the canvas `x`."""
        ...


Generators: TypeAlias = (
    torch.Generator | list[torch.Generator] | tuple[torch.Generator, ...] | NoiseSource | None
)
"""One generator for the whole batch, one for each sample of it, or another source of noise."""


@runtime_checkable
class Denoiser(Protocol):
    """The posterior mean `D(x, sigma) = E[x0 | x]` for `x = x0 + sigma * n`, n standard normal.

    Any callable of this shape will do. Optional attributes are honoured: `sizes`, the spatial sizes that the
    network was trained on; `affine(x, sigma, cond, *, a, b, c, noise)`, a fused update, which takes `out`,
    too, where the denoiser says `writes_out`; `native(x, t, cond)`, the network itself in its own scale, time
    and prediction type, for schedulers that want just that; and `energy(x, sigma, cond) -> [B]`, minus the
    log density at this level up to a constant, with `with_energy` for both at once.
    """

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None, /) -> Tensor:
        """Estimate the clean canvas.

        Args:
            x: [B, C, *S], the noisy canvas.
            sigma: [B], float32 (float64 if `x` is), the noise level of each sample.
            cond: tree whose tensors have a leading axis of B.

        Returns:
            [B, C, *S], the dtype of `x`.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """One step between two noise levels. Solvers step down; correctors stay at their level."""

    def init(self, x: Tensor, /) -> State:
        """Return the state before the first step, from the canvas `x` [B, C, *S]."""
        ...

    def step(
        self,
        D: Denoiser,
        state: State,
        sigma: float,
        sigma_next: float,
        cond: Cond,
        generator: Generators,
        /,
    ) -> tuple[State, Info]:
        """Return the state at `sigma_next` (never mutating `state`) and what a diagnostic needs."""
        ...


class StopSampling(Exception):
    """Raised by a callback (or a denoiser) to end the run; the current canvas is the result."""


class NonFiniteError(ValueError):
    """The canvas holds NaN or infinity. `step` is the index of the step that made it, -1 for the input."""

    def __init__(self, message: str, *, step: int) -> None:
        """Keep the step beside the message."""
        super().__init__(message)
        self.step = step


def check_canvas(name: str, x: Tensor, *, argument: str = "x") -> None:
    """Refuse a canvas that is not [B, C, *S] with one to three spatial axes and a floating dtype.

    Args:
        name: the function that the message speaks for.
        x: what should be [B, C, *S].
        argument: what the caller calls `x`.

    Raises:
        ValueError: wrong type, rank or dtype.

    Example:
        >>> check_canvas("sample", torch.zeros(1, 3, 64))
    """
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name}: {argument} must be a tensor, got {type(x).__name__}. Use torch.as_tensor first."
        )
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{name}: {argument} must have shape [B, C, *S] with 1 to 3 spatial axes, got {list(x.shape)}. "
            "Add the missing batch or channel axis with unsqueeze(0)."
        )
    if not x.is_floating_point():
        raise ValueError(
            f"{name}: {argument} must have a floating dtype, got {x.dtype}. "
            f"Convert it with {argument}.float()."
        )


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """Give `value` [B] trailing axes of one, [B, 1, *1], so that it multiplies `x` [B, C, *S].

    Returns:
        A view [B, 1, *1].

    Example:
        >>> per_sample(torch.ones(2), torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 1, 1, 1])
    """
    return value.reshape(-1, *(1,) * (x.ndim - 1))


def level(sigma: float, x: Tensor) -> Tensor:
    """Spell a noise level as a denoiser wants it, one number per sample of `x` [B, C, *S].

    Returns:
        [B] on the device of `x`, float64 if `x` is, else float32.

    Example:
        >>> level(0.5, torch.zeros(2, 3, 8))
        tensor([0.5000, 0.5000])
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.full((x.shape[0],), sigma, dtype=dtype, device=x.device)


def log_sigmas(name: str, alphas_cumprod: Tensor) -> Tensor:
    """Translate a discrete-time model's table `abar` [T] to noise levels; `name` heads the error.

    Returns:
        [T], float64, CPU, rising: `log(sqrt((1 - abar) / abar))`.

    Raises:
        ValueError: the table is not rank 1, shorter than 2, or does not fall strictly within (0, 1).

    Example:
        >>> log_sigmas("doc", torch.tensor([0.9, 0.5])).exp()
        tensor([0.3333, 1.0000], dtype=torch.float64)
    """
    abar = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64)
    if abar.ndim != 1 or len(abar) < 2:
        raise ValueError(
            f"{name}: alphas_cumprod must have shape [T] with T > 1, got {list(abar.shape)}. "
            "Pass (1 - betas).cumprod(0)."
        )
    falls = bool((abar[1:] < abar[:-1]).all())
    if not falls or not 0 < abar[-1] or not abar[0] < 1:
        ends = f"from {abar[0].item():.6g} to {abar[-1].item():.6g}" if falls else "one that does not fall"
        raise ValueError(
            f"{name}: alphas_cumprod must fall strictly within (0, 1), got {ends}. "
            "Pass (1 - betas).cumprod(0); leave out a last entry of 0 (sigma = infinity)."
        )
    return 0.5 * (torch.log1p(-abar) - torch.log(abar))


def sizes_of(denoiser: Denoiser) -> tuple[tuple[int, ...], ...] | None:
    """Look up the spatial sizes that a denoiser declares.

    Returns:
        Its `sizes`, or None where it takes any (declares none, or an empty list).

    Example:
        >>> sizes_of(lambda x, sigma, cond=None: x) is None
        True
    """
    return getattr(denoiser, "sizes", None) or None


def denoise(D: Denoiser, x: Tensor, sigma: Tensor | float, cond: Cond = None) -> Tensor:
    """Call a denoiser, and see that it answers in the shape of `x`.

    Args:
        D: the denoiser.
        x: [B, C, *S], float32 or float64.
        sigma: [B], or one number for the whole batch.
        cond: condition tree.

    Returns:
        [B, C, *S], the dtype of `x`.

    Raises:
        ValueError: the denoiser returned something else than a tensor of the shape of `x`.

    Example:
        >>> denoise(lambda x, sigma, cond=None: x / 2, torch.ones(1, 1, 2), 1.0)
        tensor([[[0.5000, 0.5000]]])
    """
    denoised = D(x, sigma if isinstance(sigma, Tensor) else level(sigma, x), cond)
    if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
        got = list(denoised.shape) if isinstance(denoised, Tensor) else type(denoised).__name__
        raise ValueError(
            f"denoise: the denoiser must return the shape of x, {list(x.shape)}, got {got}. "
            "A network that also predicts a variance needs those channels cut off."
        )
    return denoised.to(x.dtype)


def affine(
    D: Denoiser,
    x: Tensor,
    sigma: Tensor | float,
    cond: Cond = None,
    *,
    a: float,
    b: float,
    c: float = 0.0,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return `a*x + b*D(x, sigma, cond) + c*noise`, fused where the denoiser can do it.

    Args:
        D: the denoiser; its own `affine` is called if it has one.
        x: [B, C, *S], float32 or float64.
        sigma: [B], or one number for the whole batch.
        cond: condition tree.
        a: factor of the canvas.
        b: factor of the estimate; `a=0, b=1` returns the estimate itself.
        c: factor of `noise`.
        noise: [B, C, *S], any third tensor; needed where `c` is not 0.
        out: [B, C, *S], memory like `x` and apart from it that may be written to and returned, or not.

    Returns:
        [B, C, *S], the dtype of `x`.

    Raises:
        ValueError: the denoiser returned no tensor of the shape of `x`, or `c` has no `noise`.

    Note:
        Differentiable in `x`, `noise` and whatever `D` is. A fused update may round differently.

    Example:
        >>> halve = lambda x, sigma, cond=None: x / 2
        >>> affine(halve, torch.ones(1, 1, 2), 1.0, a=1, b=2)
        tensor([[[2., 2.]]])
    """
    if c and noise is None:
        raise ValueError(f"affine: noise must be given where c is not 0, got c={c} and None. Pass noise=.")
    levels = sigma if isinstance(sigma, Tensor) else level(sigma, x)
    fused: Callable[..., Tensor] | None = getattr(D, "affine", None)
    if fused is not None and out is not None and getattr(D, "writes_out", False):
        return fused(x, levels, cond, a=a, b=b, c=c, noise=noise, out=out)
    if fused is not None:
        return fused(x, levels, cond, a=a, b=b, c=c, noise=noise)
    value = denoise(D, x, levels, cond)
    value = value if b == 1 else b * value
    value = torch.add(value, x, alpha=a, out=out) if a else value
    return torch.add(value, noise, alpha=c) if c and noise is not None else value
