# SPDX-License-Identifier: Apache-2.0
"""AMDM's aggregation: fold the states of K models on the sphere, then step towards each model's own mean.

m = slerp(x_K, .. slerp(x_2, x_1; w_1) ..; w_{K-1}), norms interpolated geometrically; w = 1 keeps the fold;
y_k = m - min(eta, |m - mu_k|) (m - mu_k) / |m - mu_k|. Angles and norms are those of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.suite import Call, Out, Peer, Target, both, public_op, values

__all__ = ["CASES", "Case", "Problem"]

WEIGHTS = (0.5, 0.65)
ETA = 0.3


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """States and means [models, batch, *shape]."""

    models: int
    batch: int
    shape: tuple[int, ...]

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make states that are half alike, as those of models on one schedule are, and means near them."""
        kind, shape = getattr(torch, dtype), (self.models, self.batch, *self.shape)
        common = values(shape[1:], torch.float32, device, seed=1)
        states = (0.8 * common + 0.6 * values(shape, torch.float32, device)).to(kind)
        means = (states.float() + 0.05 * values(shape, torch.float32, device, seed=2)).to(kind)
        shares = [1 - w for w in WEIGHTS[: self.models - 1]]
        return Problem(self, kind, device, states, means, shares)


@dataclass
class Problem(suite.Problem):
    """One case made concrete; `weights` are the shares of each state that joins the fold."""

    case: Case
    states: Tensor
    means: Tensor
    weights: Sequence[float]

    @property
    def tolerance(self) -> float | None:
        """Return the wider bound of bf16: two roundings."""
        return 4e-3 if self.dtype == torch.bfloat16 else None

    def buffers(self) -> Tensor:
        """Return the memory of the result [K, B, *shape]."""
        return torch.empty_like(self.states)

    def truth_of(self, name: str) -> tuple[Tensor, ...]:
        """Return the definition in float64, sample by sample."""
        results = torch.empty_like(self.states, dtype=torch.float64)
        for b in range(self.states.shape[1]):
            folded = self.states[0, b].double()
            for state, w in zip(self.states[1:, b], self.weights, strict=True):
                folded = _slerp(folded, state.double(), w)
            for k, mean in enumerate(self.means[:, b].double()):
                away = folded - mean
                results[k, b] = folded - away * min(ETA / float(away.norm()), 1.0)
        return (results,)

    def traffic(self) -> tuple[int, int]:
        """Return 2 K states read and K written."""
        count = self.states.numel() * self.states.element_size()
        return 2 * count, count

    def ours(self, out: Out) -> Call:
        """Return the public op."""
        aggregate, states, means = public_op("spherical_aggregate"), self.states, self.means
        weights = WEIGHTS[: self.case.models - 1]
        return lambda: aggregate(states, means, weights, ETA, out=out)

    def peers(self) -> Sequence[Peer]:
        """Return the formulations of torch."""
        return PEERS


def _slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    norm_a, norm_b = float(a.norm()), float(b.norm())
    angle = math.acos(float((a * b).sum()) / (norm_a * norm_b))
    toward_a, toward_b = math.sin((1 - w) * angle), math.sin(w * angle)
    length = norm_a ** (1 - w) * norm_b**w / math.sin(angle)
    return length * (toward_a * a / norm_a + toward_b * b / norm_b)


Formula = Callable[[Tensor, Tensor, Sequence[float], Tensor | None], Tensor]


def _each(x: Tensor) -> Tensor:
    """Return the norm of every sample [B, 1, ..]."""
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


def _public(states: Tensor, means: Tensor, weights: Sequence[float], out: Tensor | None = None) -> Tensor:
    folded = states[0]
    for state, w in zip(states[1:], weights, strict=True):
        norm_a, norm_b = _each(folded), _each(state)
        a, b = folded / norm_a, state / norm_b
        dot = (a * b).flatten(1).sum(1).view_as(norm_a)
        angle = torch.acos(dot)
        mixed = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
        folded = mixed * norm_a ** (1 - w) * norm_b**w
    results = []
    for mean in means:
        away = folded - mean
        norm = _each(away)
        results.append(folded - torch.clamp(norm, max=ETA) * away / norm)
    return torch.stack(results, out=out)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Return a . b over the last axis, in float32 for bf16."""
    return (a * b).sum(-1) if a.dtype == torch.float32 else (a.float() * b).sum(-1)


def _factors(aa: Tensor, ab: Tensor, bb: Tensor, w: float) -> tuple[Tensor, Tensor]:
    """Return what multiplies a and b, from the dot products of each sample."""
    norm_a, norm_b = aa.sqrt(), bb.sqrt()
    angle = torch.acos(ab / (norm_a * norm_b))
    length = norm_a ** (1 - w) * norm_b**w / torch.sin(angle)
    return length * torch.sin((1 - w) * angle) / norm_a, length * torch.sin(w * angle) / norm_b


def _tuned(states: Tensor, means: Tensor, weights: Sequence[float], out: Tensor | None = None) -> Tensor:
    """Two multiply-adds a fold, one reduction and one lerp for all deviations."""
    x, mu = states.flatten(2), means.flatten(2)
    folded = x[0]
    for state, w in zip(x[1:], weights, strict=True):
        on_a, on_b = _factors(_dots(folded, folded), _dots(folded, state), _dots(state, state), w)
        folded = torch.addcmul(folded * on_a[:, None].to(x.dtype), state, on_b[:, None].to(x.dtype))
    norm = torch.linalg.vector_norm(folded - mu, dim=-1, keepdim=True, dtype=torch.float32)
    step = (ETA / norm).clamp(max=1).to(x.dtype)
    target = None if out is None else out.flatten(2)
    return torch.lerp(folded.expand_as(mu), mu, step, out=target).view_as(states)


def _gram(states: Tensor, means: Tensor, weights: Sequence[float], out: Tensor | None = None) -> Tensor:
    """Every angle and norm from the products of states and means, as batched matrix products."""
    x, mu = states.flatten(2).transpose(0, 1), means.flatten(2).transpose(0, 1)
    xx, xm = torch.bmm(x, x.mT).float(), torch.bmm(x, mu.mT).float()
    mm = torch.linalg.vector_norm(mu, dim=-1, dtype=torch.float32).square()
    on = torch.zeros_like(xx[:, 0])
    on[:, 0] = 1
    for k, w in enumerate(weights, start=1):
        pulled = torch.bmm(xx, on[:, :, None])[..., 0]
        on_a, on_b = _factors((on * pulled).sum(1), pulled[:, k], xx[:, k, k], w)
        on = on * on_a[:, None]
        on[:, k] = on_b
    folded2 = torch.bmm(torch.bmm(on[:, None], xx), on[:, :, None])[..., 0]
    norm = (folded2 - 2 * torch.bmm(on[:, None], xm)[:, 0] + mm).clamp_min(1e-30).sqrt()
    step = (ETA / norm).clamp(max=1).to(x.dtype)[..., None]
    folded = torch.bmm(on[:, None].to(x.dtype), x)
    target = None if out is None else out.flatten(2).transpose(0, 1)
    return torch.lerp(folded.expand_as(mu), mu, step, out=target).transpose(0, 1).view_as(states)


def _peer(formula: Formula, *, compiled: bool = False) -> Callable[[Problem, Out], Call]:
    def build(problem: Problem, out: Out) -> Call:
        states, means, weights = problem.states, problem.means, problem.weights
        if not compiled:
            return lambda: formula(states, means, weights, out)

        def whole(x: Tensor, mu: Tensor, target: Tensor | None) -> Tensor:
            result = formula(x, mu, weights, None)
            return result if target is None else target.copy_(result)

        call = torch.compile(whole, dynamic=False)
        return lambda: call(states, means, out)

    return build


PEERS = (
    Peer("eager, public formulas", _peer(_public), idiom=True),
    Peer("tuned eager", _peer(_tuned)),
    Peer("tuned eager, Gram by bmm", _peer(_gram)),
    Peer("torch.compile, public", _peer(_public, compiled=True), slow=True, compiled=True),
    Peer("torch.compile, tuned", _peer(_tuned, compiled=True), slow=True, compiled=True),
)


def _case(models: int, side: int, batch: int) -> Case:
    floor = 2.7
    ratio = {1: 3.5 if side == 64 else 3.0, 4: 3.0, 16: 2.0}[batch]
    stretch = {1: 5.0, 4: 4.0, 16: 3.0}[batch]
    targets = (
        Target(best=ratio, floor=floor, stretch=stretch),
        Target(dtype="bfloat16", best=3.0, floor=4.3, error=4e-3),
        *both(best=1.3, idiom=10, max_us=8 if (side, batch) == (64, 1) else None, launches=2),
    )
    headline = (models, side, batch) == (2, 128, 16)
    return Case(
        f"amdm.k{models}.{side}.b{batch}", f"{models} latents of {side * 8}x{side * 8} pictures",
        targets=targets, models=models, batch=batch, shape=(4, side, side),
        quick=batch in (1, 16) and models == 2, modes=suite.MODES if headline else ("neutral", "captured"),
    )  # fmt: skip


CASES = tuple(_case(models, side, batch) for models in (2, 3) for side in (64, 128) for batch in (1, 4, 16))
