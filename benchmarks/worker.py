# SPDX-License-Identifier: Apache-2.0
"""One process of a run: the rows of one allocator setting, one JSON line per row."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.measure import WrongResult, measure
from benchmarks.suite import FAMILIES, STOCK, Case, Missing, Problem, select

__all__ = ["main", "shares"]

Row = dict[str, Any]


def shares(weights: dict[str, float], began: float, seconds: float) -> dict[str, float]:
    """Return when each family begins its last row; what one leaves unused falls to the next."""
    total, spent, ends = sum(weights.values()), 0.0, {}
    for name, weight in weights.items():
        spent += weight
        ends[name] = began + seconds * spent / total
    return ends


def main(argument: str) -> None:
    """Run the rows a JSON object describes; print one JSON line per row. A wrong result is a row, too."""
    spec = json.loads(argument)
    # The allocator keeps what it is given back: touched here once, it costs the first rows nothing.
    torch.ones(spec.get("kept_bytes", 0), dtype=torch.uint8)
    chosen = select(spec["only"], spec["device"], spec["quick"], spec["families"])
    weights: dict[str, float] = Counter(family for family, _ in chosen)
    if not spec["quick"]:
        weights = {name: FAMILIES[name][spec["modes"][0] in STOCK] for name in weights}
    ends = shares(weights, time.time(), spec["seconds"])
    for family, case in chosen:
        for dtype in [d for d in case.dtypes if d in spec["dtypes"] or len(case.dtypes) == 1]:
            for row in _rows(case, dtype, spec, ends[family]):
                print(json.dumps({"family": family} | row), flush=True)


def _rows(case: Case, dtype: str, spec: dict[str, Any], end: float) -> Iterator[Row]:
    problem: Problem | None = None
    for mode in spec["modes"]:
        for threads in spec["threads"]:
            if not case.runs(mode, threads, dtype, spec["device"], any_threads=spec["any_threads"]):
                continue
            row: Row = {"case": case.name, "dtype": dtype, "threads": threads, "mode": mode}
            if time.time() > end:
                yield row | {"skipped": "the time budget was spent"}
                continue
            slow = not spec["quick"] and mode in ("neutral", "captured")
            try:
                problem = problem or case.problem(dtype, torch.device(spec["device"]))
                yield measure(problem, mode=mode, threads=threads, slow=slow, rounds=spec["rounds"])
            except Missing as reason:
                yield row | {"skipped": str(reason)}
                if problem is None:
                    return
            except WrongResult as reason:
                yield row | {"refused": str(reason)}
            except Exception as reason:  # One broken op must not cost the rows after it.
                yield row | {"refused": f"{type(reason).__name__}: {str(reason).splitlines()[:1]}"}


if __name__ == "__main__":
    main(sys.argv[1])
