# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding of q and k together, [16, 6, T, 64]: fresh, into reused memory, in place.

Every formulation gets its tables of cosines and sines as its own code keeps them, made once. Pairs of
channels are (2j, 2j + 1), "interleaved", or (j, j + 32), "half": the same work, each held to its own truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.families import rope_gpu, rope_peers
from benchmarks.oracle import squares
from benchmarks.suite import Call, Out, Peer, Target, both, public_op, values

__all__ = ["CASES", "Case", "Problem"]

BATCH, HEADS, WIDTH, BASE = 16, 6, 64, 10000.0


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """q and k [batch, heads, tokens, width]; `axes` position coordinates a token."""

    axes: int
    tokens: int
    batch: int = BATCH
    heads: int = HEADS

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make q and k, and where the tokens are: on a line, or on a square."""
        shape, kind = (self.batch, self.heads, self.tokens, WIDTH), getattr(torch, dtype)
        if self.axes == 1:
            positions = torch.arange(self.tokens)[:, None]
        else:
            side = torch.arange(math.isqrt(self.tokens))
            positions = torch.cartesian_prod(side, side)
        q, k = (values(shape, kind, device, seed=seed) for seed in (0, 1))
        return Problem(self, kind, device, q, k, positions.to(device, torch.float32))


@dataclass
class Problem(suite.Problem):
    """One case made concrete; `angles` [T, width / 2] are float64."""

    case: Case
    q: Tensor
    k: Tensor
    positions: Tensor
    angles: Tensor = field(init=False)

    def __post_init__(self) -> None:
        pairs = WIDTH // 2 // self.case.axes
        rates = BASE ** -(torch.arange(pairs, dtype=torch.float64, device=self.device) / pairs)
        self.angles = (self.positions.double()[:, :, None] * rates).flatten(1)
        self.first = (self.q.clone(), self.k.clone())

    def buffers(self) -> tuple[Tensor, ...]:
        """Return the memory of both results."""
        return torch.empty_like(self.q), torch.empty_like(self.k)

    def state(self) -> tuple[Tensor, ...]:
        """Return q and k as they were first."""
        self.q.copy_(self.first[0])
        self.k.copy_(self.first[1])
        return self.q, self.k

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float:
        """Return the error over all samples for ours, over the first and the last for the others."""
        if len(results) != 2:
            return float("inf")
        samples, error = range(self.q.shape[0]), 0.0
        for x, result in zip(self.first, results, strict=True):
            if result.shape != x.shape:
                return float("inf")
            square = norm = 0.0
            for b in samples if name == "intarsia" else (samples[0], samples[-1]):
                more = squares(result[b], self.turned(x[b].double(), name not in rope_peers.HALF))
                square, norm = square + more[0], norm + more[1]
            found = (square / norm) ** 0.5
            # A NaN would lose every comparison.
            error = max(error, found if found == found else float("inf"))
        return error

    def turned(self, x: Tensor, interleaved: bool) -> Tensor:
        """Return [heads, T, width] rotated, in the order of channels that a candidate has."""
        cosine, sine = self.angles.cos(), self.angles.sin()
        a, b = (x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).mT).unbind(-1)
        pairs = torch.stack([a * cosine - b * sine, b * cosine + a * sine], dim=-1)
        return (pairs if interleaved else pairs.mT).flatten(-2)

    def traffic(self) -> tuple[int, int]:
        """Return q and k once each way; the tables are small."""
        count = 2 * self.q.numel() * self.q.element_size()
        return count, count

    def ours(self, out: Out) -> Call:
        """Return the public op with a table that is kept, as everyone keeps theirs."""
        rope, q, k = public_op("rope"), self.q, self.k
        table = public_op("rope_table")(self.positions, WIDTH, theta=BASE)
        if self.case.form == "inplace":
            return lambda: rope(q, k, table=table, inplace=True)
        return lambda: rope(q, k, table=table, out=out)

    def peers(self) -> Sequence[Peer]:
        """Return the formulations of torch, and the kernels of others on a GPU."""
        found = [peer for peer in rope_peers.PEERS if self.case.axes == 2 or peer.name not in rope_peers.ONCE]
        return (*found, *(rope_gpu.PEERS if self.device.type == "cuda" else ()))


def _targets(tokens: int, form: str) -> tuple[Target, ...]:
    idioms = ((rope_peers.ROTATE_HALF, 4.5), (rope_peers.DIFFUSERS, 4.5))
    kernels = ((rope_gpu.LIGER, 1.15), (rope_gpu.FLASH, 1.05))
    on_gpu = both(floor=1.15, versus=kernels, launches=1)
    large = tokens == 4096
    if form == "out":
        return (
            Target(best=1.15 if large else 1.0, versus=idioms, stretch=1.4 if large else 1.2),
            Target(
                dtype="bfloat16", best=1.05 if large else 1.0, versus=idioms, stretch=1.3 if large else 1.2
            ),
            *on_gpu,
        )
    if form == "inplace":
        return (
            Target(best=1.25 if large else None, floor=1.7, stretch=1.1),
            Target(dtype="bfloat16", best=1.15 if large else None, floor=3.0, stretch=1.5),
            *on_gpu,
        )
    return on_gpu


def _case(axes: int, tokens: int, form: str) -> Case:
    modes = suite.MODES if (axes, tokens) == (2, 4096) else ("neutral", "captured")
    return Case(
        f"rope.{axes}d.t{tokens}.{form}", "a transformer's q and k: 6 heads of 64, batch 16", axes=axes,
        tokens=tokens, form=form, targets=_targets(tokens, form), modes=modes,
        quick=axes == 2 and (tokens == 1024 or form == "inplace"),
    )  # fmt: skip


CASES = tuple(
    _case(axes, tokens, form)
    for axes in (1, 2)
    for tokens in (1024, 4096)
    for form in ("fresh", "out", "inplace")
)
