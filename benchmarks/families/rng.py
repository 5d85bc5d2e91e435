# SPDX-License-Identifier: Apache-2.0
"""Standard normal fields: ours by canvas coordinates, torch's by a serial generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import philox, suite
from benchmarks.oracle import squares
from benchmarks.suite import Call, Out, Peer, Target, public_op

__all__ = ["CASES", "Case", "Problem"]

SEED, STREAM = 1234567, (3, 5)
ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """A field of size [1, 1, *size]."""

    size: tuple[int, int]

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """There is nothing to read."""
        return Problem(self, getattr(torch, dtype), device)


@dataclass
class Problem(suite.Problem):
    """One case made concrete."""

    case: Case
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = suite.generator(self.device, SEED)

    def buffers(self) -> Tensor:
        """Return the memory of the field."""
        return torch.empty((1, 1, *self.case.size), dtype=self.dtype, device=self.device)

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float:
        """Return our relative error; of another generator, whether its numbers look normal at all."""
        result, (height, width) = results[0], self.case.size
        if tuple(result.shape) != (1, 1, height, width):
            return float("inf")
        if name != "intarsia":
            count, deviates = result.numel(), result.double()
            mean, spread = float(deviates.mean()), float(deviates.square().mean()) - 1
            return 0.0 if abs(mean) < 6 / count**0.5 and abs(spread) < 9 / count**0.5 else float("inf")
        square = norm = 0.0
        for first in range(0, height, ROWS_AT_ONCE):
            rows = range(first, min(first + ROWS_AT_ONCE, height))
            truth = philox.canvas_normals(SEED, STREAM, rows, width)
            more = squares(result[0, 0, first : first + ROWS_AT_ONCE].cpu(), truth)
            square, norm = square + more[0], norm + more[1]
        error = (square / norm) ** 0.5
        return error if error == error else float("inf")

    def traffic(self) -> tuple[int, int]:
        """Return one write of the field."""
        height, width = self.case.size
        return 0, height * width * self.dtype.itemsize

    def ours(self, out: Out) -> Call:
        """Return the public op."""
        noise, size, dtype, device = public_op("canvas_noise"), self.case.size, self.dtype, self.device
        if out is None:
            return lambda: noise(SEED, STREAM, (0, 0), size, dtype=dtype, device=device)
        return lambda: noise(SEED, STREAM, (0, 0), size, out=out)

    def peers(self) -> Sequence[Peer]:
        """Return torch's two ways."""
        return (
            Peer("torch.randn", _randn, idiom=True, forms=("fresh",)),
            Peer("normal_", _normal),
        )


def _randn(problem: Problem, out: Out) -> Call:
    shape, generator = (1, 1, *problem.case.size), problem.generator
    dtype, device = problem.dtype, problem.device
    return lambda: torch.randn(shape, generator=generator, dtype=dtype, device=device)


def _normal(problem: Problem, out: Out) -> Call:
    buffer = problem.buffers() if out is None else out
    assert isinstance(buffer, Tensor)
    if out is None:
        return lambda: torch.empty_like(buffer).normal_(generator=problem.generator)
    return lambda: buffer.normal_(generator=problem.generator)


def _case(power: int) -> Case:
    height = 2 ** (power // 2)
    targets = (
        Target(best=3.3, stretch=5.0),
        Target(threads=2, best=6.5),
        Target(device="cuda", best=0.9),
    )
    return Case(
        f"rng.normal.2^{power}", "a field of canvas noise", targets=targets, dtypes=("float32",),
        size=(height, 2**power // height), quick=power in (16, 24),
        modes=suite.MODES if power == 24 else ("neutral", "captured", "eager"),
    )  # fmt: skip


CASES = tuple(_case(power) for power in range(16, 25, 2))
