# SPDX-License-Identifier: Apache-2.0
"""Pictures and figures for the card of the bundled `landscapes` model.

Usage: python experiments/landscapes/card.py MODEL.safetensors PHOTOS_BY_STYLE LOG.jsonl OUTPUT

PHOTOS_BY_STYLE is what prepare.py wrote. OUTPUT gets samples.png (first draws of each style, not selected),
nearest.png (samples above the nearest of many training crops), curve.png (training loss) and card.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from intarsia import models
from intarsia.training import PhotoFolder, draw, write_sheet
from torch import Tensor

PER_STYLE, BANK, STEPS = 8, 6000, 32


def bank(photos: PhotoFolder, style: str, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """`[BANK, 3, h, w]` training crops of one style."""
    crops = np.stack([photos.crop(style, size, rng)[0] for _ in range(BANK)])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


def nearest(samples: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Index of, and root mean square difference to, the nearest crop of each sample."""
    distance = torch.cdist(samples.flatten(1), crops.flatten(1)) / samples[0].numel() ** 0.5
    best = distance.min(1)
    return best.indices, best.values


def curve(log: Path, path: Path) -> None:
    """Plot the training loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = {(entry := json.loads(line))["step"]: entry["loss"] for line in log.read_text().splitlines()}
    steps, losses = np.array(sorted(lines)), np.array([lines[k] for k in sorted(lines)])
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(steps, losses, color="0.75", lw=0.8, label="mean of 50 steps")
    axes.plot(
        steps[9:], np.convolve(losses, np.full(10, 0.1), "valid"), color="tab:blue", label="mean of 500 steps"
    )
    axes.set(xlabel="step", ylabel="EDM loss", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(model: Path, data: Path, log: Path, output: Path) -> None:
    """Write the four files."""
    output.mkdir(parents=True, exist_ok=True)
    denoiser, photos, rng = models.load(model), PhotoFolder(data), np.random.default_rng(0)
    size = denoiser.sizes[0]
    rows, pairs, names, figures = [], [], [], {}
    for style, index in denoiser.styles.items():
        places = torch.tensor([photos.crop(style, size, rng)[1] for _ in range(PER_STYLE)])
        samples = draw(denoiser, style=index, size=size, vertical=places, seed=index, steps=STEPS)
        crops = bank(photos, style, size, rng)
        which, distance = nearest(samples, crops)
        # What two real crops differ by: fresh ones against the same bank.
        real = bank(photos, style, size, np.random.default_rng(10_000 + index))[:200]
        floor = nearest(real, crops)[1]
        rows.append(samples)
        pairs += [samples, crops[which]]
        names += [style, "nearest"]
        figures[style] = {"sample_to_nearest": distance.mean().item(), "crop_to_nearest": floor.mean().item()}
        print(style, figures[style])
    for other in denoiser.sizes[1:]:
        place = torch.tensor([[0.5, other[0] / 64]] * PER_STYLE)
        rows.append(draw(denoiser, style=denoiser.styles["badlands"], size=other, vertical=place, seed=0))
    labels = [*denoiser.styles, *(f"{h}x{w}" for h, w in denoiser.sizes[1:])]
    write_sheet(output / "samples.png", rows, labels)
    write_sheet(output / "nearest.png", pairs, names)
    curve(log, output / "curve.png")
    text = {"bank": BANK, "steps": STEPS, "rms_difference": figures}
    (output / "card.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
