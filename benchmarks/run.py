# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.run`: check against the oracle, time against torch and the floor, print a table.

Each allocator setting needs its own process, so this one starts `benchmarks.worker` once per setting.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.suite import FAMILIES, STOCK

__all__ = ["main", "run"]

FOUR_GIB = str(4 << 30)
NEUTRAL = {
    "MALLOC_MMAP_THRESHOLD_": FOUR_GIB,
    "MALLOC_TRIM_THRESHOLD_": FOUR_GIB,
    "MALLOC_TOP_PAD_": str(64 << 20),
    # glibc keeps the splinters of aligned allocations in small per-thread bins, beside the results that they
    # were cut from, which then cannot be reused: fresh results wander, and for whom depends on history.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
KEPT = 1 << 30
# Seconds: a row that was begun is ended.
BUDGETS = {("cpu", False): 860.0, ("cpu", True): 100.0, ("cuda", False): 420.0, ("cuda", True): 55.0}
MODES = {"cpu": ("neutral", "default-fresh", "out"), "cuda": ("captured", "eager")}
RESULTS = Path(__file__).resolve().parent / "results"
ASKED = ("device", "modes", "threads", "dtypes", "only", "quick", "families", "any_threads")
Row = dict[str, Any]


def _worker(spec: dict[str, Any], neutral: bool) -> Iterator[Row]:
    stock = {"KINETO_LOG_LEVEL": "99", "PYTHONWARNINGS": "ignore"} | {
        k: v for k, v in os.environ.items() if k not in NEUTRAL
    }
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(spec)]
    root = Path(__file__).resolve().parent.parent
    environment = stock | (NEUTRAL if neutral else {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"benchmarks.worker: must end with status 0, got {process.returncode}. See above.")


def run(
    *, device: str, modes: Sequence[str], threads: Sequence[int], dtypes: Sequence[str], only: str = "",
    quick: bool = False, rounds: int = 7, budget: float = 860.0, families: Sequence[str] = (),
    any_threads: bool = False,
) -> Iterator[Row]:  # fmt: skip
    """Yield one row per case, dtype, mode and number of threads.

    Args:
        device: "cpu" or "cuda".
        modes: Of `MODES[device]`.
        threads: Numbers of intra-op threads.
        dtypes: Names of torch dtypes.
        only: Comma-separated words; a case runs when its name contains one.
        quick: Leave out the large cases and the slow peers.
        rounds: Quiet rounds per row.
        budget: No row is begun after this many seconds; families share it (`suite.FAMILIES`).
        families: Families to run; empty: all.
        any_threads: Run every case with all of `threads`, not only where the case or a target asks for them.

    Yields:
        Rows as `benchmarks.measure.measure` returns them.

    Raises:
        RuntimeError: If a worker crashes.
    """
    spec = {"device": device, "threads": list(threads), "dtypes": list(dtypes), "only": only, "quick": quick}
    spec |= {"rounds": rounds, "families": list(families), "any_threads": any_threads}
    parts = {neutral: [m for m in modes if (m not in STOCK) == neutral] for neutral in (True, False)}
    began, given = time.time(), [FAMILIES[name] for name in families or FAMILIES]
    share = sum(kept for kept, _ in given) / sum(map(sum, given))
    for neutral, chosen in parts.items():
        if chosen:
            left = budget - (time.time() - began)
            seconds = left * share if neutral and parts[False] else left
            part = {"modes": chosen, "kept_bytes": KEPT if neutral else 0, "seconds": max(seconds, 0.0)}
            yield from _worker(spec | part, neutral)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Time the ops of intarsia.")
    parser.add_argument("--quick", action="store_true", help="fp32, 1 thread, neutral mode: under 2 minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", default="", help="comma-separated, default 1,2 (quick: 1)")
    parser.add_argument("--modes", default="", help="cpu: neutral,default-fresh,out; cuda: captured,eager")
    parser.add_argument("--dtypes", default="", help="default float32,bfloat16 (quick: float32)")
    parser.add_argument("--only", default="", help="comma-separated parts of case names")
    parser.add_argument("--family", default="", help=f"comma-separated, of {', '.join(FAMILIES)}")
    parser.add_argument("--rounds", type=int, default=7, help="quiet rounds per row")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no row is begun")
    parser.add_argument(
        "--json", type=Path, help="where to write; a complete run goes to benchmarks/results/"
    )
    parser.add_argument("--check", action="store_true", help="exit with status 3 when a must is not met")
    chosen = parser.parse_args(argv)
    known, quick = MODES[chosen.device], chosen.quick
    cores = report.usable_cores()
    chosen.any_threads = bool(chosen.threads)
    chosen.families = [name for name in chosen.family.split(",") if name]
    threads = "1" if quick or cores < 2 or chosen.device == "cuda" else "1,2"
    chosen.threads = [int(n) for n in (chosen.threads or threads).split(",")]
    chosen.modes = [m for m in (chosen.modes or ",".join(known[:1] if quick else known)).split(",") if m]
    chosen.dtypes = (chosen.dtypes or ("float32" if quick else "float32,bfloat16")).split(",")
    chosen.budget = chosen.budget or BUDGETS[chosen.device, quick]
    if unknown := set(chosen.families) - set(FAMILIES):
        parser.error(f"--family must be among {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    if unknown := set(chosen.modes) - set(known):
        parser.error(f"--modes must be among {', '.join(known)} on {chosen.device}, got {', '.join(unknown)}")
    if unknown := set(chosen.dtypes) - {"float32", "bfloat16"}:
        parser.error(f"--dtypes must be among float32, bfloat16, got {', '.join(unknown)}")
    if max(chosen.threads) > cores:
        parser.error(
            f"--threads must be at most {cores}, the cores this process may use, got {chosen.threads}."
        )
    if importlib.util.find_spec("intarsia") is None:
        parser.error("intarsia must be importable, got no such package. Run `python -m pip install .` first.")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda must find a GPU, got none. Leave the option out to run on the CPU.")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write the JSON, print the table last; return 1 after a wrong result or a crash, 3 for --check."""
    chosen = _arguments(argv)
    began, rows, broken = time.time(), [], False
    wanted = {key: getattr(chosen, key) for key in ASKED}
    try:
        for row in run(**wanted, rounds=chosen.rounds, budget=chosen.budget):
            rows.append(row)
            name = f"{row['case']} {row['dtype']} {row['mode']} {row['threads']} thread(s)"
            print(f"[{time.time() - began:5.1f} s] {name}", file=sys.stderr, flush=True)
    except (KeyboardInterrupt, RuntimeError) as reason:
        print(f"{reason}\nbenchmarks.run: stopped early, the rows so far follow", file=sys.stderr)
        broken = True
    about = report.environment(chosen.device) | {"seconds": round(time.time() - began, 1), "asked": wanted}
    path = chosen.json
    if path is None and not (chosen.quick or chosen.only or chosen.families or broken):
        path = RESULTS / f"{chosen.device}-{report.slug(about['device'])}.json"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        partial.replace(path)
        path.with_suffix(".md").write_text(report.markdown(about, rows))
    print(f"{about['device']}, torch {about['torch']}, {about['seconds']} s" + (f", {path}" if path else ""))
    print(report.table(rows, short=chosen.device == "cuda" and path is not None))
    if "reference" in about["ours"]:
        print(f"ATTENTION, these are not the kernels: {about['ours']}")
    asked = [row for row in rows if "target" in row]
    short = [row for row in asked if report.missed(row)]
    print(
        f"must: {len(asked) - len(short)} of {len(asked)} rows met;  * too few quiet rounds, medians over all"
    )
    if broken or any("refused" in row for row in rows):
        return 1
    return 3 if chosen.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
