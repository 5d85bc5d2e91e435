# SPDX-License-Identifier: Apache-2.0
"""Rows as tables, and what was asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.diffusers_speed.scene import CONFIG

__all__ = ["into_page", "markdown", "targets"]

Row = dict[str, Any]
# What each scene is compared with: the peer at its defaults.
DEFAULT = {"mixture": ("mixture_canvas", 2), "tiling": ("mixture_tiling", 2), "panorama": ("panorama", 2)}
NAMES = {
    "intarsia": "intarsia",
    "mixture_canvas": "mixture_canvas (restated)",
    "mixture_tiling": "mixture_tiling (restated)",
    "panorama": "StableDiffusionPanoramaPipeline",
}


def _row(found: Row, scene: str, who: str, rows: int, threads: int) -> Row:
    wanted = {"scene": scene, "who": who, "rows": rows, "threads": threads}
    return next((row for row in found["time"] if wanted.items() <= row.items()), {})


def _speed_up(found: Row, row: Row) -> float | None:
    """How much faster a step is than that of the peer at its defaults."""
    peer = _row(found, row["scene"], *DEFAULT[row["scene"]], row["threads"])
    return peer["step_ms"] / row["step_ms"] if "step_ms" in peer and "step_ms" in row else None


def targets(found: Row) -> list[Row]:
    """What was asked, what was reached, and whether that is enough."""
    device, best = found["facts"]["device"], found["facts"]["best"]
    asked = CONFIG["targets"][device]
    verdicts: list[Row] = []
    for threads in sorted({row["threads"] for row in found["time"]}):
        suffix = f", {threads} thread" + "s" * (threads > 1) if device == "cpu" else ""
        mine = {s: _row(found, s, "intarsia", best, threads) for s in ("mixture", "panorama")}
        if threads == 1:
            reached = mine["mixture"].get("overhead_percent")
            about = f"beyond the network, {best} rows a call, %"
            verdicts.append(_verdict(about, asked["overhead %"], reached, most=True))
        for scene, row in mine.items():
            about = f"speed-up over {NAMES[DEFAULT[scene][0]]}{suffix}"
            reached = _speed_up(found, row) if row else None
            verdicts.append(_verdict(about, asked[f"speed-up{suffix}"], reached, most=False))
    return verdicts


def _verdict(about: str, must: float, reached: float | None, *, most: bool) -> Row:
    met = None if reached is None else bool(reached <= must if most else reached >= must)
    return {"about": about, "must": must, "most": most, "reached": reached, "met": met}


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines)) + "\n"


def _number(row: Row, key: str, form: str) -> str:
    return format(row[key], form) if row.get(key) is not None else ""


def _times(found: Row) -> str:
    heads = [
        "",
        "threads",
        "rows a call",
        "step, ms",
        "network, ms",
        "beyond it, %",
        "speed-up",
        "whole run, s",
    ]
    cuda, lines = found["facts"]["device"] == "cuda", []
    for row in found["time"]:
        faster = _speed_up(found, row)
        name = f"{NAMES[row['who']]}, {row['scene']}" if row["who"] == "intarsia" else NAMES[row["who"]]
        mark = "" if row["quiet_runs"] or cuda or not row["runs"] else "*"
        cells = [f"**{name}**" if row["who"] == "intarsia" and row["main"] else name, str(row["threads"])]
        cells += [str(row["rows"]), _number(row, "step_ms", ".1f") + mark, _number(row, "network_ms", ".1f")]
        cells += [_number(row, "overhead_percent", ".2f"), "" if faster is None else f"{faster:.2f}x"]
        lines.append([*cells, _number(row, "run_s", ".2f")])
    if cuda:
        heads, lines = [heads[0], *heads[2:]], [[cells[0], *cells[2:]] for cells in lines]
    return _table(heads, lines)


def _memory(found: Row) -> str:
    held = {(row["who"], row["regions"]): row["peak_mib"] for row in found["memory"]}
    alone = held.get(("network alone", 0), 0.0)
    lines = []
    for regions in sorted({regions for _, regions in held if regions}):
        mine, theirs = held["intarsia", regions], held["mixture_canvas", regions]
        numbers = [f"{alone:.0f}", f"{mine:.0f}", f"{max(mine - alone, 0) / regions:.2f}", f"{theirs:.0f}"]
        lines.append([str(regions), *numbers])
    heads = ["regions", "one call of the network, MiB", "a step of ours, MiB", "beyond the call, per region"]
    return _table([*heads, "a step of mixture_canvas, MiB"], lines)


def _asked(found: Row) -> str:
    lines = []
    for row in found["targets"]:
        sign = "<=" if row["most"] else ">="
        said = {None: "not measured", True: "met", False: "SHORT"}[row["met"]]
        lines.append([row["about"], f"{sign} {row['must']:g}", _number(row, "reached", ".2f"), said])
    return _table(["asked", "", "reached", ""], lines)


def markdown(found: Row) -> str:
    """All tables, under a line that says what they belong to."""
    about, scene = found["facts"], found["facts"]["scene"]
    height, width = scene["pixels"]
    rows, columns = scene["patch"]
    wide = scene["panorama"]
    where = about["machine"] if about["device"] == "cuda" else f"{about['cores']} cores of {about['machine']}"
    regions = scene["counts"][0] * scene["counts"][1]
    said = (
        f"{where}; torch {about['torch']}, diffusers {about['diffusers']}, {about['dtype']}, network "
        f"`{about['network']}`, guided. *mixture*, *tiling*: {width}x{height} pixels, {regions} regions of "
        f"{columns}x{rows}. *panorama*: {wide['pixels'][1]}x{wide['pixels'][0]} pixels, windows of "
        f"{wide['window']} latents, {wide['stride']} apart. Whole runs have {about['steps']} steps."
    )
    times = _times(found)
    if "*" in times.replace("**", ""):
        said += " `*`: other processes were busy in every round."
    return "\n".join([said + "\n", times, _memory(found), _asked(found)])


def into_page(page: Path, device: str, text: str) -> None:
    """Put the tables between the marks of their device, if the page is there."""
    begin, end = f"<!-- {device} -->", f"<!-- end of {device} -->"
    if not page.exists() or begin not in page.read_text():
        return
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}")
