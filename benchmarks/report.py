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

__all__ = ["device_name", "environment", "markdown", "missed", "slug", "table", "usable_cores"]

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
        from intarsia import ops

        info |= {"backends": ops.backends(), "ours": ops.reason(device)}
    except ImportError as reason:
        info |= {"backends": str(reason), "ours": "not importable"}
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


HEAD = ["case", "type", "thr", "mode", "ours ms", "floor", "best torch", "", "any", "idiom", "must"]


def _cells(row: Row) -> list[str]:
    start = [row["case"], SHORT.get(row["dtype"], row["dtype"]), str(row["threads"]), row["mode"]]
    if "ms" not in row:
        return [*start, "-", "", "", "", "", "", row.get("refused") or row.get("skipped", "")]
    star = "*" if row["disturbed"] else ""
    return [
        *start, f"{row['ms']['intarsia']:.4g}{star}", _times(row.get("floor_factor")),
        _times(row.get("ratio_best")), row.get("best", ""), _any(row), _times(row.get("ratio_idiom")),
        _must(row),
    ]  # fmt: skip


def table(rows: Iterable[Row], *, short: bool = False) -> str:
    """Return the rows as a table of about 130 columns; `short`: only those with a target or a refusal."""
    lines = [HEAD, *(_cells(row) for row in rows if not short or "target" in row or "refused" in row)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD) - 1)]
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


def _bytes(count: float | None) -> str:
    return "" if count is None else f"{count / 2**20:.3g}"


def markdown(about: dict[str, Any], rows: Iterable[Row]) -> str:
    """Return every row of a run as a Markdown table: the time of ours and the ratio to every peer."""
    head = ["case", "type", "threads", "mode", "ours ms", "x floor", "best torch", "other ratios", "calls"]
    head += ["peak MiB", "error", "figures", "must"]
    lines = [f"# {about['device']}, torch {about['torch']}", ""]
    lines += [
        "Ratios are the other's time over ours. *: too few quiet rounds. Calls: operators, or launches.",
        "",
    ]
    lines += [_markdown_line(head), _markdown_line(["---"] * len(head))]
    for row in rows:
        cells = _cells(row)
        if "ms" not in row:
            lines.append(_markdown_line([*cells[:5], *[""] * 7, cells[-1]]))
            continue
        best = f"{cells[6]} {cells[7]}".strip()
        others = [f"{n} {_times(ratio)}" for n, ratio in row["ratios"].items() if n != row.get("best")]
        calls = row.get("launches", row["calls"].get("intarsia", ""))
        error = row["errors"].get("intarsia")
        figures = ", ".join(f"{name} {value:.4g}" for name, value in row["figures"].items())
        lines.append(_markdown_line([
            *cells[:6], best, ", ".join(others), str(calls), _bytes(row.get("peak_bytes")),
            "" if error is None else f"{error:.1e}", figures, cells[-1],
        ]))  # fmt: skip
    return "\n".join(lines) + "\n"


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


if __name__ == "__main__":
    stored = json.loads(Path(sys.argv[1]).read_text())
    about, wanted = stored["about"], set(sys.argv[2:])
    print(f"{about['device']}, torch {about['torch']}, commit {about['commit'][:12]}")
    words = [
        {*row["case"].split("."), row["dtype"], str(row["threads"]), row["mode"]} for row in stored["rows"]
    ]
    print(table(row for row, own in zip(stored["rows"], words, strict=True) if wanted <= own))
