# SPDX-License-Identifier: Apache-2.0
"""Reused results: nothing is allocated, and what that gains under the stock allocator.

The gain is one of the interface, not of a kernel: page faults that never happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.suite import Call, Out, Peer, Target, cases_of

__all__ = ["CASES", "Case", "Problem"]

FRESH = "itself, fresh results"
NONE, GAIN, HELD = "allocations per call", "gain of reuse", "bytes held per call"


@dataclass(frozen=True, kw_only=True)
class Case(suite.Case):
    """Another family's case, with its results reused or in place."""

    of: suite.Case

    def problem(self, dtype: str, device: torch.device) -> Problem:
        """Make the tensors of the other case."""
        inner = self.of.problem(dtype, device)
        return Problem(self, inner.dtype, device, inner)


@dataclass
class Problem(suite.Problem):
    """One case made concrete."""

    case: Case
    inner: suite.Problem

    @property
    def out_dtype(self) -> torch.dtype:
        """Return the dtype of the result."""
        return self.inner.out_dtype

    @property
    def tolerance(self) -> float | None:
        """Return the bound of the other case."""
        return self.inner.tolerance

    def buffers(self) -> Out:
        """Return result tensors to reuse."""
        return self.inner.buffers()

    def state(self) -> Out:
        """Return the tensors that a call in place changes."""
        return self.inner.state()

    def begin(self, name: str) -> None:
        """Prepare the other case."""
        self.inner.begin("intarsia")

    def error_of(self, name: str, results: tuple[Tensor, ...]) -> float | None:
        """Return the error; both candidates are ours."""
        return self.inner.error_of("intarsia", results)

    def traffic(self) -> tuple[int, int]:
        """Return the bytes of the other case."""
        return self.inner.traffic()

    def ours(self, out: Out) -> Call:
        """Return our call into memory that is kept."""
        return self.inner.ours(out)

    def peers(self) -> Sequence[Peer]:
        """Return our call with fresh results, where there is such a one."""
        if self.case.form == "inplace":
            return ()
        return (Peer(FRESH, lambda problem, out: problem.inner.ours(None), aside=True),)

    def figures(self, row: dict[str, Any]) -> dict[str, float]:
        """Return what a call allocates, and how much faster it is for allocating nothing."""
        found = {}
        if "allocations" in row:
            found[NONE] = row["allocations"]["per_call"]
        elif "peak_bytes" in row:
            found[HELD] = row["peak_bytes"]
        if FRESH in row["ms"]:
            found[GAIN] = row["ms"][FRESH] / row["ms"]["intarsia"]
        return found


REUSED = (
    ("regions", "extract.latent4k_s8"),
    ("regions", "extract.pixel4k"),
    ("regions", "avg.ragged88"),
    ("regions", "avg.pixel4k"),
    ("regions", "avg.audio8M"),
    ("merge", "merge.cfg_avg_step"),
    ("amdm", "amdm.k2.128.b16"),
    ("hmc", "hmc.given_noise.pixel4k"),
    ("hmc", "hmc.mid.pixel4k"),
    ("rng", "rng.normal.2^24"),
    ("rope", "rope.2d.t4096.out"),
    ("rope", "rope.2d.t4096.inplace"),
)


def _case(family: str, name: str) -> Case:
    (found,) = [case for case in cases_of(family) if case.name == name]
    targets = (
        Target(mode="out", figures=((NONE, 0.0),)),
        Target(device="cuda", mode="captured", figures=((HELD, 0.0),)),
    )
    return Case(
        f"alloc.workspace.{name}", found.provenance + "; 100 calls with results reused", of=found,
        targets=targets, dtypes=("float32",), modes=("out", "captured"), form=found.form or "out",
        quick=False,
    )  # fmt: skip


CASES = tuple(_case(family, name) for family, name in REUSED)
