# SPDX-License-Identifier: Apache-2.0
"""Hamiltonian dynamics by leapfrog steps: kicks, drifts, and the ends of a trajectory in one pass each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from intarsia.ops import _parts as part
from intarsia.ops._leapfrog import run
from intarsia.ops._leapfrog_check import Number, drawn, several

__all__ = ["LeapfrogBegin", "drift", "kick", "kick_drift", "leapfrog_begin", "leapfrog_end"]


class LeapfrogBegin(NamedTuple):
    """What `leapfrog_begin` returns.

    Attributes:
        position: [B, *s] after the drift, where the network is asked next.
        momentum: [B, *s] after half a kick.
        refreshed: [B, *s] before it: the momentum that a rejection negates.
        kinetic_energy: [B] float64, of `refreshed`.
    """

    position: Tensor
    momentum: Tensor
    refreshed: Tensor
    kinetic_energy: Tensor


def kick(momentum: Tensor, gradient: Tensor, step_size: Number, *, out: Tensor | None = None) -> Tensor:
    """Move the momentum along the gradient of the log density.

    v' = v + eps g

    Args:
        momentum: v [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        gradient: g [B, *s] of the *log density* (minus that of an energy), of the same dtype.
        step_size: eps, a number or [B]; negative to go back in time.
        out: [B, *s] contiguous, written and returned; `momentum` itself to work in place.

    Returns:
        Momentum [B, *s].

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, or `out` shares memory it must not.

    Note:
        In float32 (float64 for float64 states), rounded after each operation: deterministic. Differentiable
        in momentum and gradient; a step size that requires grad is refused, and so is `out` then.

    Source:
        Neal, "MCMC using Hamiltonian dynamics", 2011, equation 5.18.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> ops.kick(torch.ones(1, 2), torch.tensor([[1.0, -2.0]]), 0.5).tolist()
        [[1.5, 0.0]]
    """
    target = None if out is None else (None, out, None, None)
    return run(part.KICK, momentum, gradient=gradient, step_size=step_size, out=target)[0]


def drift(
    position: Tensor, momentum: Tensor, step_size: Number, mass: Number = 1.0, *, out: Tensor | None = None
) -> Tensor:
    """Move the position along the momentum.

    x' = x + eps v / M

    Args:
        position: x [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        momentum: v [B, *s] of the same dtype.
        step_size: eps, a number or [B].
        mass: M, a number, [B], or a tensor that broadcasts to [B, *s] axis by axis, such as [1, *s].
        out: [B, *s] contiguous, written and returned; `position` itself to work in place.

    Returns:
        Position [B, *s].

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, or `out` shares memory it must not.

    Note:
        In float32 (float64 for float64 states): deterministic. Differentiable in position and momentum. The
        values of tensors are not looked at: a mass of 0 gives infinity.

    Source:
        Neal, "MCMC using Hamiltonian dynamics", 2011, equation 5.19.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> ops.drift(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([0.5, 1.0]), mass=2.0).tolist()
        [[0.25, 0.25], [0.5, 0.5]]
    """
    target = None if out is None else (out, None, None, None)
    return run(part.DRIFT, momentum, position, step_size=step_size, mass=mass, out=target)[0]


def kick_drift(
    position: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    step_size: Number,
    mass: Number = 1.0,
    *,
    out: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Kick, then drift with the new momentum: the inner step of a trajectory, in one pass.

    v' = v + eps g, x' = x + eps v' / M

    Args:
        position: x [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        momentum: v [B, *s] of the same dtype.
        gradient: g [B, *s] of the log density at x, of the same dtype.
        step_size: eps, a number or [B].
        mass: M, a number, [B], or a tensor that broadcasts to [B, *s] axis by axis, such as [1, *s].
        out: (position, momentum) [B, *s] contiguous, written and returned; the inputs to work in place.

    Returns:
        Position [B, *s] and momentum [B, *s].

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, or `out` shares memory it must not.

    Note:
        The bits of `kick` followed by `drift`, but for half types, whose momentum is not rounded in between.
        Differentiable in position, momentum and gradient.

    Source:
        Neal, "MCMC using Hamiltonian dynamics", 2011, section 5.2.3.3.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> x, v = ops.kick_drift(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.5)
        >>> x.item(), v.item()
        (0.75, 1.5)
    """
    target = None if out is None else (*several("kick_drift", out, 2), None, None)
    x, v = run(part.KICK | part.DRIFT, momentum, position, gradient, None, step_size, 0.0, mass, target)
    return x, v


def leapfrog_begin(
    position: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    step_size: Number,
    mass: Number = 1.0,
    *,
    damping: Number = 1.0,
    noise: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    stream: tuple[int, int] | None = None,
    offset: Sequence[int] | None = None,
    out: Sequence[Tensor] | None = None,
) -> LeapfrogBegin:
    """Refresh the momentum, take its kinetic energy, and make the first half kick and drift, in one pass.

    r = gamma v + sqrt(1 - gamma^2) sqrt(M) n, E = 1/2 sum r^2 / M, v' = r + eps / 2 g, x' = x + eps v' / M

    Go on with the gradient at x': `kick_drift` for every inner step, then `leapfrog_end` and
    `metropolis_select`.

    Args:
        position: x [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        momentum: v [B, *s] of the same dtype.
        gradient: g [B, *s] of the log density at x, of the same dtype.
        step_size: eps, a number or [B].
        mass: M, a number, [B], or a tensor that broadcasts to [B, *s] axis by axis, such as [1, *s].
        damping: gamma from 0 (a new momentum) to 1 (the old one), a number or [B].
        noise: n [B, *s] standard normal. It or a seed is needed unless damping is the number 1.
        seed: One integer per sample, or one for a batch of one: noise as `canvas_noise` makes it.
        stream: (purpose, step) of the seed.
        offset: Canvas coordinates of the first element; 0 if None.
        out: (position, momentum, refreshed, kinetic_energy), contiguous, written and returned; the first may
            be `position`, and one of the next two `momentum`.

    Returns:
        A `LeapfrogBegin` of position, momentum, refreshed [B, *s] and kinetic_energy [B] float64. Without
        `out`, at a damping of 1, `refreshed` is the momentum that was given.

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, noise and seed are both given or both
            missing, or `out` shares memory it must not.

    Note:
        Deterministic; the energy is summed in float64 in an order that depends on the shape alone.
        Differentiable in position, momentum, gradient and noise.

    Source:
        Horowitz, "A generalized guided Monte Carlo algorithm", 1991; Du et al., "Reduce, Reuse, Recycle",
        ICML 2023, appendix on samplers.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> x, v, g = torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2)
        >>> begin = ops.leapfrog_begin(x, v, g, 0.5)
        >>> begin.position.tolist(), begin.momentum.tolist(), begin.kinetic_energy.tolist()
        ([[0.625, 0.625]], [[1.25, 1.25]], [1.0])
    """
    name, move = "leapfrog_begin", part.ENERGY_BEFORE | part.HALF_KICK | part.DRIFT
    target = None if out is None else several(name, out, 4)
    if isinstance(damping, Tensor) or damping != 1 or noise is not None or seed is not None:
        key = drawn(name, momentum, noise, seed, stream, offset)
        made = run(
            part.REFRESH | move, momentum, position, gradient, noise, step_size, damping, mass, target, key
        )
        return LeapfrogBegin(*made)
    rest = None if target is None else (*target[:2], None, target[3])
    x, v, energy = run(move, momentum, position, gradient, None, step_size, 1.0, mass, rest)
    kept = momentum
    if target is not None:
        kept = target[2] if target[2] is momentum else target[2].copy_(momentum)
    return LeapfrogBegin(x, v, kept, energy)


def leapfrog_end(
    momentum: Tensor,
    gradient: Tensor,
    step_size: Number,
    mass: Number = 1.0,
    *,
    out: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Make the last half kick of a trajectory and take the kinetic energy, in one pass.

    v' = v + eps / 2 g, E = 1/2 sum v'^2 / M

    Args:
        momentum: v [B, *s] float16, bfloat16, float32 or float64; any axes s, any strides.
        gradient: g [B, *s] of the log density at the last position, of the same dtype.
        step_size: eps, a number or [B].
        mass: M, a number, [B], or a tensor that broadcasts to [B, *s] axis by axis, such as [1, *s].
        out: (momentum, kinetic_energy), contiguous, written and returned; the first may be `momentum`.

    Returns:
        Momentum [B, *s] and kinetic energy [B] float64.

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, or `out` shares memory it must not.

    Note:
        Deterministic; the energy is summed in float64 in an order that depends on the shape alone.
        Differentiable in momentum and gradient.

    Source:
        Neal, "MCMC using Hamiltonian dynamics", 2011, section 5.2.3.3.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> v, energy = ops.leapfrog_end(torch.ones(1, 2), torch.ones(1, 2), 2.0)
        >>> v.tolist(), energy.tolist()
        ([[2.0, 2.0]], [4.0])
    """
    target = None
    if out is not None:
        v, energy = several("leapfrog_end", out, 2)
        target = (None, v, None, energy)
    parts = part.HALF_KICK | part.ENERGY_AFTER
    v, energy = run(parts, momentum, None, gradient, None, step_size, 0.0, mass, target)
    return v, energy
