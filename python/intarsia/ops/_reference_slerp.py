# SPDX-License-Identifier: Apache-2.0
"""Interpolation on the sphere in plain PyTorch and float64: vector by vector, without a Gram matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["slerp", "spherical_aggregate"]

FLAT = 1e-4
STEPS = 64
GREAT_CIRCLE, RIGHT_ANGLE, MEAN = range(3)


def slerp(out: Tensor, x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> None:
    """Write |x0|^(1-w) |x1|^w (sin((1-w) t) x0/|x0| + sin(w t) x1/|x1|) / sin t, t the angle of a sample.

    Args:
        out: [B, ...], written.
        x0: [B, ...].
        x1: [B, ...].
        w: the share of x1.
        ws: [B] float64 shares, instead of w, or None.
    """
    share = x0.new_full(x0.shape[:1], w, dtype=torch.float64) if ws is None else ws
    out.copy_(_arc(_rows(x0), _rows(x1), share).view(out.shape))


def spherical_aggregate(
    out: Tensor,
    states: Sequence[Tensor],
    means: Sequence[Tensor],
    weights: Sequence[float],
    eta: float,
    etas: Tensor | None,
    fold: int,
    over_batch: bool,
) -> None:
    """Write x' - min(eta, r_i) (x' - mu_i) / r_i, r_i = |x' - mu_i|, x' the fold of all states.

    Args:
        out: [N, B, ...], written.
        states: N tensors [B, ...], or one [N, B, ...].
        means: N tensors [B, ...], or one [N, B, ...].
        weights: N - 1 weights of what was folded so far; N of the states for a mean.
        eta: the longest step.
        etas: [B] float64, instead of eta, or None.
        fold: 0 along great circles, 1 as if every angle were right, 2 to the mean of all directions.
        over_batch: whether r_i is one distance for the whole batch.
    """
    x, mu = ([_rows(t) for t in (given if len(given) > 1 else given[0])] for given in (states, means))
    merged = _mean(x, weights) if fold == MEAN else _in_sequence(x, weights, fold)
    longest = merged.new_full((len(merged), 1), eta) if etas is None else etas[:, None]
    for i, mean in enumerate(mu):
        away = merged - mean
        r = away.norm().expand(len(merged), 1) if over_batch else away.norm(dim=1, keepdim=True)
        step = torch.where(r <= longest, 1.0, longest / r)
        out[i].copy_(((1 - step) * merged + step * mean).view(out.shape[1:]))


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), x[:1].numel()).double()


def _length(x: Tensor) -> Tensor:
    return x.norm(dim=1, keepdim=True)


def _arc(x0: Tensor, x1: Tensor, share: Tensor) -> Tensor:
    w, n0, n1 = share[:, None], _length(x0), _length(x1)
    u0, u1 = x0 / n0, x1 / n1
    cosine = (u0 * u1).sum(1, keepdim=True).clamp(-1, 1)
    sine = ((1 - cosine) * (1 + cosine)).sqrt()
    angle = torch.atan2(sine, cosine)
    great_circle = (torch.sin((1 - w) * angle) * u0 + torch.sin(w * angle) * u1) / sine
    straight = (1 - w) * u0 + w * u1
    flat = torch.where(cosine > 0, straight / _length(straight), torch.where(w <= 0.5, u0, u1))
    merged = n0 ** (1 - w) * n1**w * torch.where(sine < FLAT, flat, great_circle)
    merged = torch.where((n0 == 0) | (n1 == 0), 0.0, merged)
    return torch.where(w == 0, x0, torch.where(w == 1, x1, merged))


def _in_sequence(states: Sequence[Tensor], weights: Sequence[float], fold: int) -> Tensor:
    merged = states[0]
    for state, w in zip(states[1:], weights, strict=True):
        if fold == RIGHT_ANGLE:
            merged = w * merged + max(0.0, 1 - w * w) ** 0.5 * state
        else:
            merged = _arc(state, merged, merged.new_full((len(merged),), w))
    return merged


def _mean(states: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    lengths = [_length(state) for state in states]
    size = torch.stack([length**w for length, w in zip(lengths, weights, strict=True)]).prod(0)
    zero = torch.stack([length == 0 for length in lengths]).any(0)
    directions = [state / length for state, length in zip(states, lengths, strict=True)]
    pairs = list(zip(directions, weights, strict=True))
    start = torch.stack([w * u for u, w in pairs]).sum(0)
    heaviest = directions[max(range(len(weights)), key=lambda k: (weights[k], -k))]
    point = torch.where(_length(start) < FLAT, heaviest, start / _length(start))
    for _ in range(STEPS):
        step = torch.zeros_like(point)
        for u, w in pairs:
            near = (u * point).sum(1, keepdim=True).clamp(-1, 1)
            sine = ((1 - near) * (1 + near)).sqrt()
            pull = torch.where(sine > FLAT, torch.atan2(sine, near) / sine, (near > 0).double())
            step = step + w * pull * (u - near * point)
        far = _length(step)
        point = torch.cos(far) * point + torch.where(far > 0, torch.sin(far) / far, 1.0) * step
        point = point / _length(point)
    return torch.where(zero, 0.0, size * point)
