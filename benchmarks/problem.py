# SPDX-License-Identifier: Apache-2.0
"""One case made concrete: tensors on a device, and the truth every candidate must reproduce."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import oracle
from benchmarks.cases import Case

__all__ = ["Problem", "build"]

PERIOD = 1 << 20
SIGMA_FRACTION = 0.1


@dataclass(frozen=True)
class Problem:
    """Inputs of one case in one dtype; `canvas` and `patches` are empty where the op does not read them."""

    case: Case
    dtype: torch.dtype
    device: torch.device
    offsets: Tensor
    starts: tuple[tuple[int, ...], ...]
    factors: tuple[Tensor, ...]
    canvas: Tensor
    patches: Tensor
    checked: dict[tuple[str, bool], float | None] = field(default_factory=dict)

    @property
    def out_dtype(self) -> torch.dtype:
        """Return the dtype of the result."""
        return torch.bfloat16 if self.case.op == "extract_cfg" else self.dtype

    @property
    def scale(self) -> float:
        """Return the network's input scale of extract_cfg."""
        return 0.37

    def out_shape(self) -> tuple[int, ...]:
        """Return the shape of the result."""
        case = self.case
        if case.op in ("average", "sliding"):
            return (1, case.channels, *case.size)
        return (2 if case.op == "extract_cfg" else 1, len(self.starts), case.channels, *case.patch)

    @functools.cached_property
    def weight(self) -> Tensor:
        """Return the full window [*s] in float32, the product of the factors."""
        return functools.reduce(lambda a, b: a.unsqueeze(-1) * b, self.factors)

    @functools.cached_property
    def inverse_total(self) -> Tensor:
        """Return 1 / (sum of weights) [*S] in float32: what a tuned loop keeps between calls."""
        return oracle.total(self.starts, self.weight, self.case.size).reciprocal().float()

    @functools.cached_property
    def truth(self) -> Tensor | None:
        """Return the float64 result (extract: exact in the input's dtype); None: nothing to check."""
        case = self.case
        if case.op == "average":
            return oracle.average(self.patches, self.starts, self.weight, case.size)
        if case.op == "sliding":
            return self.canvas
        if case.op == "extract":
            return oracle.extract(self.canvas, self.starts, case.patch)
        if case.op == "extract_cfg":
            scaled = self.canvas.double() * float(torch.tensor(self.scale, dtype=torch.float32))
            return oracle.extract(torch.cat([scaled, scaled]), self.starts, case.patch)
        return None


def _values(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return repeated normal numbers; the period is prime, so that no two neighbouring regions are equal."""
    count, seed = math.prod(shape), torch.Generator().manual_seed(0)
    numbers = torch.randn(min(count, PERIOD - 3), generator=seed).to(device, dtype)
    return numbers.repeat(-(-count // numbers.numel()))[:count].reshape(shape).contiguous()


def build(case: Case, dtype: str, device: torch.device) -> Problem:
    """Make the tensors of a case; the same numbers on every machine."""
    kind = getattr(torch, dtype)
    offsets = case.offsets()
    factors = tuple(_factor(n, case.window).to(device) for n in case.patch)
    canvas = patches = torch.empty(0, dtype=kind, device=device)
    if case.op.startswith("extract") or case.op == "sliding":
        canvas = _values((1, case.channels, *case.size), kind, device)
    if case.op == "average":
        patches = _values((1, case.regions(), case.channels, *case.patch), kind, device)
    starts = tuple(tuple(int(o) for o in start) for start in offsets)
    return Problem(case, kind, device, offsets, starts, factors, canvas, patches)


def _factor(n: int, window: str) -> Tensor:
    if window == "uniform":
        return torch.ones(n)
    u = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / n
    return torch.exp(-u.square() / (2 * SIGMA_FRACTION**2)).float()
