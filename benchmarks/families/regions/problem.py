# SPDX-License-Identifier: Apache-2.0
"""One case made concrete: tensors on a device, and the truth every candidate must reproduce."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.families.regions import ours, peers, truth
from benchmarks.families.regions.cases import SIGMA_FRACTION, Case
from benchmarks.suite import values

__all__ = ["Problem", "build"]


@dataclass
class Problem(suite.Problem):
    """Inputs of one case in one dtype; `canvas` and `patches` are empty where the op does not read them."""

    case: Case
    offsets: Tensor
    starts: tuple[tuple[int, ...], ...]
    factors: tuple[Tensor, ...]
    canvas: Tensor
    patches: Tensor

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
        return truth.total(self.starts, self.weight, self.case.size).reciprocal().float()

    @functools.cached_property
    def truth(self) -> Tensor | None:
        """Return the float64 result (extract: exact in the input's dtype); None: nothing to check."""
        case = self.case
        if case.op == "average":
            return truth.average(self.patches, self.starts, self.weight, case.size)
        if case.op == "sliding":
            return self.canvas
        if case.op == "extract":
            return truth.extract(self.canvas, self.starts, case.patch)
        if case.op == "extract_cfg":
            scaled = self.canvas.double() * float(torch.tensor(self.scale, dtype=torch.float32))
            return truth.extract(torch.cat([scaled, scaled]), self.starts, case.patch)
        return None

    def truth_of(self, name: str) -> tuple[Tensor, ...] | None:
        """Return the truth, the same for every candidate."""
        return None if self.truth is None else (self.truth,)

    def buffers(self) -> Tensor | None:
        """Return a result tensor to reuse; building plans and windows has none."""
        if self.case.op in ("plan", "weights"):
            return None
        return torch.empty(self.out_shape(), dtype=self.out_dtype, device=self.device)

    def traffic(self) -> tuple[int, int]:
        """Return the bytes of the case."""
        return self.case.traffic(str(self.dtype).removeprefix("torch."))

    def ours(self, out: suite.Out) -> suite.Call:
        """Return our call."""
        assert out is None or isinstance(out, Tensor)
        return ours.build(self, out)

    def peers(self) -> list[peers.Peer]:
        """Return the formulations that apply to the case."""
        return peers.candidates(self)


def build(case: Case, dtype: str, device: torch.device) -> Problem:
    """Make the tensors of a case; the same numbers on every machine."""
    if case.op == "sliding" and importlib.util.find_spec("monai") is None:
        raise suite.Missing("MONAI is not installed")
    kind = getattr(torch, dtype)
    offsets = case.offsets()
    factors = tuple(_factor(n, case.window).to(device) for n in case.patch)
    canvas = patches = torch.empty(0, dtype=kind, device=device)
    if case.op.startswith("extract") or case.op == "sliding":
        canvas = values((1, case.channels, *case.size), kind, device)
    if case.op == "average":
        patches = values((1, case.regions(), case.channels, *case.patch), kind, device)
    starts = tuple(tuple(int(o) for o in start) for start in offsets)
    return Problem(case, kind, device, offsets, starts, factors, canvas, patches)


def _factor(n: int, window: str) -> Tensor:
    if window == "uniform":
        return torch.ones(n)
    u = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / n
    return torch.exp(-u.square() / (2 * SIGMA_FRACTION**2)).float()
