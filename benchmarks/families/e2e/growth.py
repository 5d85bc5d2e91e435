# SPDX-License-Identifier: Apache-2.0
"""How a step grows with the number of regions: its time, and the memory it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import counting, suite
from benchmarks.families.e2e import loops
from benchmarks.families.e2e.step import Case, Problem
from benchmarks.suite import Call, Out, Peer, Target

__all__ = ["MemoryCase", "ScalingCase"]

# Regions, canvas, regions per axis: a quarter of the canvas each time, the same overlap.
GROWTH: tuple[tuple[int, tuple[int, int], tuple[int, int]], ...] = (
    (24, (135, 240), (4, 6)),
    (88, (270, 480), (8, 11)),
    (345, (540, 960), (15, 23)),
    (1380, (1080, 1920), (30, 46)),
)
MIDDLE = 345
GROWS, LINEAR, HOLDS = "us per region, 345 over 88", "R^2 of a line", "MiB per region"


def _step(regions: int, device: torch.device) -> Problem:
    ((size, counts),) = [(size, counts) for count, size, counts in GROWTH if count == regions]
    problem = Case("step", size=size, counts=counts).problem("float32", device)
    assert isinstance(problem, Problem)
    return problem


@dataclass(frozen=True, kw_only=True)
class ScalingCase(suite.Case):
    """Ours alone at four sizes, in the same rounds."""

    targets: tuple[Target, ...] = (
        Target(figures=((GROWS, 1.7), (f"{LINEAR} >=", 0.99))),
        Target(threads=2, figures=((GROWS, 1.25), (f"{LINEAR} >=", 0.99))),
    )
    form: str | None = "fresh"

    def problem(self, dtype: str, device: torch.device) -> Scaling:
        """Make all four."""
        return Scaling(self, torch.float32, device)


class Scaling(suite.Problem):
    """The row is that of 345 regions; the others run aside."""

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float | None:
        """Return the error of each size against its own truth."""
        return self.steps[self.regions_of(name)].error_of("intarsia", results)

    @property
    def steps(self) -> dict[int, Problem]:
        """Return the four problems, made once."""
        if not hasattr(self, "_steps"):
            self._steps = {regions: _step(regions, self.device) for regions, _, _ in GROWTH}
        return self._steps

    def regions_of(self, name: str) -> int:
        """Return the number of regions of a candidate."""
        return MIDDLE if name == "intarsia" else int(name.split()[0])

    def ours(self, out: Out) -> Call:
        """Return the step of 345 regions."""
        return self.steps[MIDDLE].ours(out)

    def peers(self) -> Sequence[Peer]:
        """Return the other sizes."""

        def build(regions: int) -> Any:
            return lambda problem, out: problem.steps[regions].ours(out)

        others = [regions for regions, _, _ in GROWTH if regions != MIDDLE]
        return [Peer(f"{regions} regions", build(regions), aside=True) for regions in others]

    def figures(self, row: dict[str, Any]) -> dict[str, float]:
        """Return the growth from 88 to 345 regions, and how well a line fits all four."""
        times = {self.regions_of(name): ms for name, ms in row["ms"].items()}
        count = torch.tensor(sorted(times), dtype=torch.float64)
        took = torch.tensor([times[int(n)] for n in count], dtype=torch.float64)
        fit = float(torch.corrcoef(torch.stack([count, took]))[0, 1].square())
        each = {f"us per region at {n}": times[n] * 1e3 / n for n in sorted(times)}
        return {GROWS: (times[345] / 345) / (times[88] / 88), LINEAR: fit} | each


@dataclass(frozen=True, kw_only=True)
class MemoryCase(suite.Case):
    """Bytes, not time: what the first step of a new composite holds at most."""

    targets: tuple[Target, ...] = (Target(figures=((HOLDS, 0.21),)),)
    form: str | None = "fresh"
    heavy: bool = True

    def problem(self, dtype: str, device: torch.device) -> Memory:
        """Make the step of 345 regions."""
        return Memory(self, torch.float32, device)


class Memory(Scaling):
    """The row is timed at 345 regions; the figures say what every size holds."""

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float | None:
        """Return the error; the peer's canvas is on another scale."""
        return self.steps[MIDDLE].error_of(name, results)

    def peers(self) -> Sequence[Peer]:
        """Return the loop of public code."""

        def build(problem: Memory, out: Out) -> Call:
            return loops.canvas(problem.steps[MIDDLE], out)

        return [Peer(loops.CANVAS, build, idiom=True)]

    def figures(self, row: dict[str, Any]) -> dict[str, float]:
        """Return the most memory held, per region at 345 and in all at each size."""
        found = {}
        for regions, problem in self.steps.items():
            found[f"MiB at {regions}"] = _held(_made(problem.ours), self.device) / 2**20
        found[HOLDS] = found[f"MiB at {MIDDLE}"] / MIDDLE
        if loops.CANVAS in row["ms"]:
            theirs = _held(_made(lambda out: loops.canvas(self.steps[MIDDLE], out)), self.device)
            found[f"{HOLDS}, {loops.CANVAS}"] = theirs / 2**20 / MIDDLE
        return found


def _made(build: Callable[[Out], Call]) -> Call:
    """Return a call that builds the step and takes it: what it keeps counts, too."""
    return lambda: build(None)()


def _held(call: Call, device: torch.device) -> int:
    """Return the most bytes that the first call holds at once beyond what is held already."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    held_bytes: int = counting.on_cpu(call, many=False, warm=False)["peak_bytes"]
    return held_bytes
