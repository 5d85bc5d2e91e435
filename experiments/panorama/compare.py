# SPDX-License-Identifier: Apache-2.0
"""Three ways to make a wide picture with a narrow model, measured: concat, equal weights, Gaussian weights.

Usage: python experiments/panorama/compare.py --data PHOTOS [--pictures 32 --width 512 --steps 32 ...]

PHOTOS holds one folder of photographs per style (see ../landscapes/prepare.py). Pictures that a former run
with the same settings left in --work are not painted again. Writes results.json, results.md, sheet.png and
the table in README.md, all into --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from intarsia import __version__, layout, media, metrics, models
from intarsia.cli.model_file import ModelFile
from intarsia.cli.picture import paint, place
from intarsia.cli.settings import METHODS, ImageSettings
from intarsia.training.photos import PhotoFolder
from sheet import draw
from torch import Tensor
from tqdm import tqdm

# How Bethe sums do beside these is in ../collage.
METHOD_ORDER = ("concat", "average", "gaussian")
assert set(METHOD_ORDER) <= set(METHODS)
DISTANCES = ("fine", "fine, at borders", "coarse")
MARKS = "<!-- table -->", "<!-- end of table -->"
SHEET = "\n![Strips of the first seeds; ticks mark where the pieces of concat meet](sheet.png)\n\n"


def paint_all(arguments: argparse.Namespace, base: ImageSettings) -> dict[str, Tensor]:
    """Method -> `[N, 3, H, W]`; picture i of every method starts from the noise of seed i."""
    file = ModelFile.open(arguments.model)
    digest, patch, work = file.sha256(), base.check_model(file), Path(arguments.work)
    denoiser = models.load(str(file.path))
    work.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, list[Tensor]] = {method: [] for method in METHOD_ORDER}
    styles = arguments.style.split(",")
    jobs = [(method, style) for method in METHOD_ORDER for style in styles]
    bar = tqdm(total=arguments.pictures * len(METHOD_ORDER), unit="picture", disable=None)
    for method, style in jobs:
        settings = dataclasses.replace(base, method=method, style=(style,))
        seeds = range(styles.index(style), arguments.pictures, len(styles))
        for group in (seeds[i : i + arguments.batch] for i in range(0, len(seeds), arguments.batch)):
            paths = {seed: work / f"{method}-{style}-{seed:03d}.png" for seed in group}
            notes = {seed: _note(settings, seed, digest) for seed in group}
            missing = [seed for seed in group if not _is_done(paths[seed], notes[seed])]
            if missing:
                made = paint(
                    denoiser,
                    settings,
                    patch=patch,
                    classes=[denoiser.styles[style]],
                    seeds=missing,
                    sigma_range=(denoiser.sigma_min, denoiser.sigma_max),
                )
                for seed, picture in zip(missing, made, strict=True):
                    media.write_png(picture, paths[seed], text={"panorama": notes[seed]})
            pictures[method] += [media.read_image(paths[seed]) for seed in group]
            bar.update(len(group))
    bar.close()
    return {method: torch.stack(found) for method, found in pictures.items()}


def _note(settings: ImageSettings, seed: int, digest: str) -> str:
    about = {**dataclasses.asdict(settings), "seed": seed, "model": digest, "max_batch": 0}
    return json.dumps(about, sort_keys=True)


def _is_done(path: Path, note: str) -> bool:
    try:
        return media.read_png_text(path).get("panorama") == note
    except (OSError, media.MediaError):
        return False


def photographs(folder: str, styles: list[str], patch: tuple[int, int], count: int, seed: int) -> Tensor:
    """`[count, 3, h, w]` crops as in training, of photographs one patch high: what the network saw."""
    photos = PhotoFolder(Path(folder), max_height=patch[0] + 1, drop=0.0)
    rng = np.random.default_rng(seed)
    crops = [photos.crop(styles[i % len(styles)], patch, rng)[0] for i in range(count)]
    return media.to_float(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))


def interval(values: Tensor) -> list[float]:
    """The central 95 % of bootstrap values."""
    return [
        round(v, 4) for v in torch.quantile(values.double(), torch.tensor([0.025, 0.975]).double()).tolist()
    ]


def seam(pictures: Tensor, regions: layout.Layout, *, resamples: int = 2000) -> dict[str, object]:
    """Seam ratio of all pictures with its bootstrap interval over pictures."""
    reports = [metrics.seam_report(picture, regions) for picture in pictures]
    border, interior = (torch.tensor([getattr(r, name) for r in reports]) for name in ("border", "interior"))
    draws = torch.randint(len(reports), (resamples, len(reports)), generator=torch.Generator().manual_seed(0))
    again = border[draws].sum(1) / interior[draws].sum(1)
    return {"ratio": float(border.sum() / interior.sum()), "interval": interval(again)}


def distance(
    pictures: Tensor, reference: Tensor, *, pool: int, patches: int, resamples: int
) -> dict[str, object]:
    """Sliced Wasserstein distance of 16 x 16 patches after averaging `pool x pool`, and its interval."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (torch.nn.functional.avg_pool2d(x, pool) for x in (pictures, reference))

    def once(which: Tensor) -> float:
        return metrics.sliced_wasserstein(
            which, theirs, patch=(16, 16), patches=patches, projections=128, generator=generator
        )

    value, again = once(ours), []
    for _ in range(resamples):
        again.append(once(ours[torch.randint(len(ours), (len(ours),), generator=generator)]))
    # Not the quantiles: a resample has fewer different pictures, so its distance is biased upwards.
    spread = 1.96 * float(torch.tensor(again).std())
    return {"distance": value, "interval": [round(value - spread, 4), round(value + spread, 4)]}


def at_borders(pictures: Tensor, patch: int, size: int = 16) -> Tensor:
    """`[N', 3, H, size]` strips of the pictures, each centred where two pieces of concat meet."""
    middles = range(patch, pictures.shape[-1], patch)
    return torch.cat([pictures[..., x - size // 2 : x + size // 2] for x in middles])


def measure(
    pictures: dict[str, Tensor], arguments: argparse.Namespace, base: ImageSettings
) -> dict[str, dict]:
    """Row name -> measures."""
    patch = base.check_model(ModelFile.open(arguments.model))
    height, width = pictures["concat"].shape[-2:]
    common = layout.grid((height, width), patch, patch)
    styles = arguments.style.split(",")
    reference, other = (photographs(arguments.data, styles, patch, arguments.crops, seed) for seed in (0, 1))
    pieces = torch.cat([common.extract(pictures["concat"])[:, r] for r in range(common.num_regions)])
    rows: dict[str, dict] = {}
    sets = {"photographs": other, "single pieces": pieces, **pictures}
    for name, found in tqdm(sets.items(), desc="measuring", disable=None):
        row: dict[str, object] = {}
        if name in pictures:
            own = place(dataclasses.replace(base, method=name), patch=patch, classes=[]).layout
            row["regions"] = own.num_regions
            row["own borders"] = seam(found, own)
            row["common borders"] = seam(found, common)
        options = {"patches": arguments.patches, "resamples": arguments.resamples}
        row["fine"] = distance(found, reference, pool=1, **options)
        row["coarse"] = distance(found, reference, pool=4, **options)
        if name in pictures:
            row["fine, at borders"] = distance(at_borders(found, patch[1]), reference, pool=1, **options)
        rows[name] = row
    return rows


def table(rows: dict[str, dict]) -> str:
    """The measures as a Markdown table."""

    def cell(entry: dict | None, key: str) -> str:
        if entry is None:
            return ""
        low, high = entry["interval"]
        return f"{entry[key]:.3f} [{low:.3f}, {high:.3f}]"

    heads = ["", "regions", "seam ratio, own borders", "seam ratio, every patch width"]
    heads += [f"distance, {which}" for which in DISTANCES]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = [name, str(row.get("regions", ""))]
        cells += [cell(row.get(f"{which} borders"), "ratio") for which in ("own", "common")]
        cells += [cell(row.get(which), "distance") for which in DISTANCES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(output: Path, name: str, text: str) -> None:
    """Write a text file whole."""
    with media.atomic_file(output / name) as file:
        file.write(text.encode())


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    parser.add_argument("--data", required=True, help="photographs, one folder per style")
    parser.add_argument("--output", default=str(here), help="for results and sheet")
    parser.add_argument("--work", default="runs/panorama", help="for the pictures")
    parser.add_argument("--model", default="landscapes")
    parser.add_argument("--style", default="badlands", help="one or more, taken in turn")
    parser.add_argument("--pictures", type=int, default=32, help="per method")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--steps", type=int, default=ImageSettings.steps)
    parser.add_argument("--solver", default=ImageSettings.solver)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="pictures painted together")
    parser.add_argument("--crops", type=int, default=512, help="photograph crops to compare with")
    parser.add_argument("--patches", type=int, default=4096, help="drawn for a distance")
    parser.add_argument("--resamples", type=int, default=100, help="bootstrap draws of a distance")
    parser.add_argument("--shown", type=int, default=4, help="seeds on the sheet")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Paint, measure, write."""
    arguments = parse(words)
    began = time.monotonic()
    base = ImageSettings(
        width=arguments.width,
        height=arguments.height,
        steps=arguments.steps,
        solver=arguments.solver,
        stride=arguments.stride,
        model=arguments.model,
    )
    base.check()
    patch = base.check_model(ModelFile.open(arguments.model))
    if arguments.width % patch[1] or arguments.height != patch[0]:
        sys.exit(
            f"compare: --width must be a multiple of {patch[1]} and --height {patch[0]}, got "
            f"{arguments.width} x {arguments.height}. Pieces must be whole to be compared."
        )
    pictures = paint_all(arguments, base)
    rows = measure(pictures, arguments, base)
    output, text = Path(arguments.output), table(rows)
    output.mkdir(parents=True, exist_ok=True)
    facts = {
        "intarsia": __version__,
        "torch": torch.__version__,
        "model_sha256": ModelFile.open(arguments.model).sha256(),
        "settings": {
            k: v for k, v in vars(arguments).items() if k not in ("data", "output", "work", "model")
        },
        "rows": rows,
    }
    write(output, "results.json", json.dumps(facts, indent=1) + "\n")
    write(output, "results.md", text)
    readme = output / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text().partition(MARKS[0])
        write(
            output, "README.md", f"{before}{MARKS[0]}\n{text}{SHEET}{MARKS[1]}{rest.partition(MARKS[1])[2]}"
        )
    styles = arguments.style.split(",")
    shown = range(min(arguments.shown, arguments.pictures))
    order = [seed for style in range(len(styles)) for seed in range(style, arguments.pictures, len(styles))]
    groups = {
        f"{styles[seed % len(styles)]}, seed {seed}": {
            m: pictures[m][order.index(seed)] for m in METHOD_ORDER
        }
        for seed in shown
    }
    media.write_png(draw(groups, every=patch[1]), output / "sheet.png")
    print(text + f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
