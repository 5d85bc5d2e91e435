# SPDX-License-Identifier: Apache-2.0
"""What a run says: the machine it ran on and a short table.

`python -m benchmarks.report PATH [WORD...]` prints the table of a stored run, or its rows with every word.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import floor

__all__ = ["device_name", "environment", "missed", "slug", "table", "usable_cores"]

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
SHORT = {"float32": "f32", "bfloat16": "bf16"}


def device_name(device: str) -> str:
    """Return the name of the CPU or GPU; on a CPU with family and model, which tell the generation."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name = found.get("model name", platform.machine())
    family = found.get("cpu family")
    return f"{name} (family {family}, model {found.get('model')})" if family else name


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than there are where it is pinned."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug(name: str) -> str:
    """Return a file name made of the device's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _caches() -> dict[str, str]:
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = (index / "level").read_text().strip(), (index / "type").read_text().strip()
        sizes[f"L{level} {kind.lower()}"] = (index / "size").read_text().strip()
    return sizes


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--", "kernels", "csrc", "python/intarsia/ops", "benchmarks/*.py")
    return f"{commit} with uncommitted changes" if changed else commit


def environment(device: str) -> dict[str, Any]:
    """Return what a reader needs to know about the machine and the software of a run."""
    info: dict[str, Any] = {
        "device": device_name(device),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "caches": _caches(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "libc": " ".join(platform.libc_ver()),
        "commit": _commit(),
        "floor": "plain copy" if device == "cuda" or floor.probe() is None else "compiled probe",
    }
    try:
        info["intarsia"] = metadata.version("intarsia")
    except metadata.PackageNotFoundError:
        info["intarsia"] = "source tree"
    try:
        from intarsia.ops import backends

        info["backends"] = backends()
    except ImportError as reason:
        info["backends"] = str(reason)
    try:
        from intarsia import _C

        info["build"] = _C.build_info()
    except (ImportError, AttributeError):
        info["build"] = None
    if device == "cuda":
        info |= {"cuda": torch.version.cuda, "capability": torch.cuda.get_device_capability()}
    return info


def missed(row: Row) -> list[str]:
    """Return the names of the figures that fall short in a row."""
    return [key for key, verdict in row.get("target", {}).items() if verdict["met"] is False]


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _any(row: Row) -> str:
    return _times(row.get("ratio_strongest")) if row.get("strongest") != row.get("best") else ""


def _must(row: Row) -> str:
    if "target" not in row:
        return ""
    short = missed(row)
    if not short:
        return "met"
    return "SHORT of " + ", ".join(_shortfall(key, row["target"][key]) for key in short)


def _shortfall(key: str, verdict: dict[str, Any]) -> str:
    allows = verdict.get("floor_allows")
    beyond = f" (the floor allows {allows:.2f})" if allows is not None and allows < verdict["must"] else ""
    return f"{key} {verdict['must']:g}{beyond}"


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table of at most 130 columns."""
    head = ["case", "type", "thr", "mode", "ours ms", "floor", "best torch", "", "any", "idiom", "must"]
    lines = [head]
    for row in rows:
        start = [row["case"], SHORT.get(row["dtype"], row["dtype"]), str(row["threads"]), row["mode"]]
        if "ms" not in row:
            lines.append([*start, "-", "", "", "", "", "", row.get("refused") or row.get("skipped", "")])
            continue
        star = "*" if row["disturbed"] else ""
        lines.append([
            *start, f"{row['ms']['intarsia']:.4g}{star}", _times(row.get("floor_factor")),
            _times(row.get("ratio_best")), row.get("best", ""), _any(row), _times(row.get("ratio_idiom")),
            _must(row),
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    right = (2, 4, 5, 6, 8, 9)
    return "\n".join(
        "  ".join(
            [
                c.rjust(w) if i in right else c.ljust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=False))
            ]
            + line[-1:]
        ).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    stored = json.loads(Path(sys.argv[1]).read_text())
    about, wanted = stored["about"], set(sys.argv[2:])
    print(f"{about['device']}, torch {about['torch']}, commit {about['commit'][:12]}")
    words = [
        {*row["case"].split("."), row["dtype"], str(row["threads"]), row["mode"]} for row in stored["rows"]
    ]
    print(table(row for row, own in zip(stored["rows"], words, strict=True) if wanted <= own))
