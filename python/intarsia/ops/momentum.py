# SPDX-License-Identifier: Apache-2.0
"""The momentum of Hamiltonian Monte Carlo: drawn anew in part, and its kinetic energy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from intarsia.ops import _parts as part
from intarsia.ops._leapfrog import run
from intarsia.ops._leapfrog_check import Number, drawn

__all__ = ["kinetic_energy", "langevin", "refresh"]


def refresh(
    momentum: Tensor,
    damping: Number,
    mass: Number = 1.0,
    *,
    noise: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    stream: tuple[int, int] | None = None,
    offset: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Refresh the momentum in part: a step that leaves its normal law, of variance M, as it is.

    v' = gamma v + sqrt(1 - gamma^2) sqrt(M) n

    Args:
        momentum: v [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        damping: gamma from 0 (a new momentum) to 1 (the old one), a number or [B].
        mass: M, a number, [B], or a tensor that broadcasts to [B, *s] axis by axis, such as [1, *s].
        noise: n [B, *s] standard normal, of the same dtype; or else a seed.
        seed: One integer per sample, or one for a batch of one: noise as `canvas_noise` makes it.
        stream: (purpose, step) of the seed.
        offset: Canvas coordinates of the first element; 0 if None.
        out: [B, *s] contiguous, written and returned; `momentum` itself to work in place.

    Returns:
        Momentum [B, *s].

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, noise and seed are both given or both
            missing, or `out` shares memory it must not.

    Note:
        Deterministic. A seed gives the bits of `noise=canvas_noise(...)` with the same key, without the
        memory. Differentiable in momentum and noise.

    Source:
        Horowitz, "A generalized guided Monte Carlo algorithm", 1991, equation 2.14.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> v = ops.refresh(torch.ones(1, 2), 0.6, noise=torch.tensor([[0.0, 1.0]]))
        >>> [round(number, 4) for number in v[0].tolist()]
        [0.6, 1.4]
    """
    key = drawn("refresh", momentum, noise, seed, stream, offset)
    target = None if out is None else (None, out, None, None)
    return run(part.REFRESH, momentum, None, None, noise, 0.0, damping, mass, target, key)[0]


def kinetic_energy(momentum: Tensor, mass: Number = 1.0, *, out: Tensor | None = None) -> Tensor:
    """Kinetic energy of every sample.

    E = 1/2 sum v^2 / M

    Args:
        momentum: v [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        mass: M, a number, [B], or a tensor that broadcasts to [B, *s] axis by axis, such as [1, *s].
        out: [B] float64, written and returned.

    Returns:
        Energy [B] float64, as differences of large energies are what matters.

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device.

    Note:
        Summed in float64, in an order that depends on the shape alone: the same bits for every number of
        threads. Differentiable in momentum.

    Source:
        Neal, "MCMC using Hamiltonian dynamics", 2011, equation 5.6.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> ops.kinetic_energy(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), mass=torch.tensor([1.0, 2.0])).tolist()
        [12.5, 1.0]
    """
    target = None if out is None else (None, None, None, out)
    return run(part.ENERGY_AFTER, momentum, mass=mass, out=target)[0]


def langevin(
    position: Tensor,
    gradient: Tensor,
    step_size: Number,
    *,
    noise: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    stream: tuple[int, int] | None = None,
    offset: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """One step of unadjusted Langevin dynamics.

    x' = x + h g + sqrt(2 h) n

    Args:
        position: x [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        gradient: g [B, *s] of the log density at x, of the same dtype.
        step_size: h, a number or [B], at least 0.
        noise: n [B, *s] standard normal, of the same dtype; or else a seed.
        seed: One integer per sample, or one for a batch of one: noise as `canvas_noise` makes it.
        stream: (purpose, step) of the seed.
        offset: Canvas coordinates of the first element; 0 if None.
        out: [B, *s] contiguous, written and returned; `position` itself to work in place.

    Returns:
        Position [B, *s].

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, noise and seed are both given or both
            missing, or `out` shares memory it must not.

    Note:
        Deterministic. A seed gives the bits of `noise=canvas_noise(...)` with the same key. Differentiable in
        position, gradient and noise. A Gaussian of variance s2 is sampled with s2 / (1 - h / (2 s2)): reject
        with `metropolis_select` to be exact.

    Source:
        Roberts and Tweedie, "Exponential convergence of Langevin distributions", 1996; Du et al., "Reduce,
        Reuse, Recycle", ICML 2023.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> ops.langevin(torch.zeros(1, 2), torch.ones(1, 2), 0.5, noise=torch.ones(1, 2)).tolist()
        [[1.5, 1.5]]
    """
    key = drawn("langevin", position, noise, seed, stream, offset)
    target = None if out is None else (None, out, None, None)
    return run(part.LANGEVIN | part.KICK, position, None, gradient, noise, step_size, 0.0, 1.0, target, key)[
        0
    ]
