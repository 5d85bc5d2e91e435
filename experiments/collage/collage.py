# SPDX-License-Identifier: Apache-2.0
"""Panoramas six times as wide as high, made in seven ways and measured: DiffCollage's table 1 and figure 5.

Usage: python experiments/collage/collage.py --data PHOTOS [--pictures 16 --steps 64 ...]

PHOTOS holds one folder of photographs per style (see ../landscapes/prepare.py). Pictures that a former run
with the same settings left in --work are not painted again. Writes results.json, sheet.png, latency.png and
the tables in README.md, into --output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from intarsia import __version__, layout, media, models
from intarsia.cli.model_file import ModelFile
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "panorama")]

from compare import distance, photographs, seam, write  # noqa: E402
from sheet import draw  # noqa: E402
from ways import WAYS, Counted, Task  # noqa: E402

MARKS = "<!-- table -->", "<!-- end of table -->"
LATENCY = "<!-- latency -->", "<!-- end of latency -->"


def task_of(arguments: argparse.Namespace, width: int) -> Task:
    """The bundled model, its rows counted."""
    file = ModelFile.open(arguments.model)
    denoiser = models.load(str(file.path))
    for parameter in denoiser.net.parameters():
        parameter.requires_grad_(False)
    patch = (64, 64)
    return Task(
        Counted(denoiser, patch),
        patch,
        width,
        denoiser.styles[arguments.style],
        arguments.steps,
        (denoiser.sigma_min, denoiser.sigma_max),
    )


def paint(arguments: argparse.Namespace) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Way -> pictures `[N, 3, 64, W]`, and what a picture cost: rows, gradients, seconds."""
    work, digest = Path(arguments.work), ModelFile.open(arguments.model).sha256()
    work.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Tensor] = {}
    costs: dict[str, dict[str, float]] = {}
    for way, make in tqdm(WAYS.items(), desc="painting", disable=None):
        found = []
        for start in range(0, arguments.pictures, arguments.batch):
            seeds = list(range(start, min(start + arguments.batch, arguments.pictures)))
            about = {"way": way, "seeds": seeds, "model": digest, "steps": arguments.steps}
            about |= {"width": arguments.width, "style": arguments.style}
            path = work / f"{way.replace(' + ', '-')}-{start:03d}.pt"
            held = torch.load(path, weights_only=True) if path.exists() else {}
            if held.get("about") != json.dumps(about):
                task = task_of(arguments, arguments.width)
                began = time.process_time()
                made = make(task, seeds)
                cost = {
                    "rows": task.denoiser.rows / len(seeds),
                    "gradients": task.denoiser.backward / len(seeds),
                    "seconds": (time.process_time() - began) / len(seeds),
                }
                held = {"about": json.dumps(about), "pictures": made, "cost": cost}
                with media.atomic_file(path) as file:
                    torch.save(held, file)
            found.append(held["pictures"])
            costs[way] = held["cost"]
        pictures[way] = torch.cat(found)
    return pictures, costs


def measure(
    pictures: dict[str, Tensor], costs: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Row name -> measures; two rows put them in scale."""
    patch = (64, 64)
    common = layout.grid((64, arguments.width), patch, (64, 32))
    styles = [arguments.style]
    reference, other = (photographs(arguments.data, styles, patch, arguments.crops, s) for s in (0, 1))
    pieces = torch.cat(pictures["concat"].split(64, dim=-1))
    rows: dict[str, dict[str, Any]] = {}
    for name, found in {"photographs": other, "single patches": pieces, **pictures}.items():
        options = {"patches": arguments.patches, "resamples": arguments.resamples}
        row: dict[str, Any] = {
            "fine": distance(found, reference, pool=1, **options),
            "coarse": distance(found, reference, pool=4, **options),
        }
        if name in pictures:
            row["seam"] = seam(found, common)
            row["contrast"] = float(found.std() / other.std())
            row |= costs[name]
        rows[name] = row
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The measures as a Markdown table."""
    heads = [
        "",
        "distance, fine",
        "distance, coarse",
        "seam ratio",
        "contrast",
        "patches a picture",
        "of them with gradients",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]

    def cell(entry: dict[str, Any] | None, key: str) -> str:
        return "" if entry is None else "{:.3f} [{:.3f}, {:.3f}]".format(entry[key], *entry["interval"])

    for name, row in rows.items():
        cells = [name, cell(row["fine"], "distance"), cell(row["coarse"], "distance")]
        cells.append(cell(row.get("seam"), "ratio"))
        cells.append(f"{row['contrast']:.2f}" if "contrast" in row else "")
        cells += [f"{row[key]:.0f}" if key in row else "" for key in ("rows", "gradients")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def latency(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds and sequential network calls of one picture against its width, in order and all at once."""
    found = []
    for pieces in (1, 2, 4, 6, 8):
        width = 64 * pieces
        for way in ("replacement", "bethe"):
            best, task = float("inf"), task_of(arguments, width)
            for repeat in range(2):
                task.denoiser.rows = 0.0
                began = time.monotonic()
                WAYS[way](task, [repeat])
                best = min(best, time.monotonic() - began)
            halves = 2 * pieces - 1
            chained = arguments.steps * (halves if way == "replacement" else 1)
            row = {"width": width, "way": way, "seconds": best, "patches": task.denoiser.rows}
            found.append({**row, "steps in a row": chained})
    return found


def latency_table(found: list[dict[str, Any]]) -> str:
    """Width against seconds and steps that wait for one another."""
    lines = ["| width | way | steps in a row | patches | seconds |", "|---|---|---|---|---|"]
    for row in found:
        chained, patches = row["steps in a row"], row["patches"]
        lines.append(f"| {row['width']} | {row['way']} | {chained} | {patches:.0f} | {row['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def into_readme(output: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between two marks of README.md, where there is one."""
    readme = output / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text().partition(marks[0])
        write(output, "README.md", f"{before}{marks[0]}\n{text}{marks[1]}{rest.partition(marks[1])[2]}")


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photographs, one folder per style")
    parser.add_argument("--output", default=str(HERE), help="for results")
    parser.add_argument("--work", default="runs/collage", help="for the pictures")
    parser.add_argument("--model", default="landscapes")
    parser.add_argument("--style", default="badlands")
    parser.add_argument("--pictures", type=int, default=16, help="per way")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4, help="pictures painted together")
    parser.add_argument("--crops", type=int, default=512, help="photograph crops to compare with")
    parser.add_argument("--patches", type=int, default=4096, help="drawn for a distance")
    parser.add_argument("--resamples", type=int, default=100, help="bootstrap draws of a distance")
    parser.add_argument("--shown", type=int, default=2, help="seeds on the sheet")
    parser.add_argument("--latency", action="store_true", help="measure figure 5 as well, on an idle machine")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Paint, measure, write."""
    arguments = parse(words)
    pictures, costs = paint(arguments)
    rows = measure(pictures, costs, arguments)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("data", "output", "work")}
    facts = {"intarsia": __version__, "torch": torch.__version__, "settings": settings, "rows": rows}
    former = output / "results.json"
    if former.exists():
        facts["latency"] = json.loads(former.read_text()).get("latency")
    if arguments.latency:
        facts["latency"] = latency(arguments)
    write(output, "results.json", json.dumps(facts, indent=1) + "\n")
    into_readme(output, MARKS, table(rows))
    if facts.get("latency"):
        into_readme(output, LATENCY, latency_table(facts["latency"]))
    # The margin of the sheet is made for short names.
    short = {way: way.replace("reconstruction", "reconstruct.") for way in pictures}
    groups = {
        f"{arguments.style}, seed {seed}": {short[way]: found[seed] for way, found in pictures.items()}
        for seed in range(min(arguments.shown, arguments.pictures))
    }
    media.write_png(draw(groups, every=64), output / "sheet.png")
    print(table(rows))


if __name__ == "__main__":
    main()
