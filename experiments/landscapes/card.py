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
from intarsia import models, samplers, schedules
from intarsia.training.photos import PhotoFolder
from PIL import Image, ImageDraw
from torch import Tensor

PER_STYLE, BANK, STEPS = 8, 6000, 32


def draw(denoiser: models.EDMDenoiser, style: int, size: tuple[int, int], place: Tensor, seed: int) -> Tensor:
    """Samples `[B, 3, h, w]` of one style at the places `[B, 2]`."""
    generator = torch.Generator().manual_seed(seed)
    sigmas = schedules.karras(STEPS, denoiser.sigma_min, denoiser.sigma_max)
    x = float(sigmas[0]) * torch.randn(len(place), 3, *size, generator=generator)
    cond = {"style": torch.full((len(place),), style), "vertical": place}
    return samplers.sample(denoiser, x, sigmas, samplers.DPMpp2M(), cond=cond).clamp(-1, 1)


def picture(rows: list[Tensor], names: list[str], gap: int = 2, left: int = 66) -> Image.Image:
    """A labelled sheet; `rows` of `[B, 3, h, w]`."""
    heights = [row.shape[2] + gap for row in rows]
    width = left + max(row.shape[0] * (row.shape[3] + gap) for row in rows)
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for row, name, height in zip(rows, names, heights, strict=True):
        pen.text((4, top + row.shape[2] // 2 - 6), name, fill="black")
        for k, one in enumerate(row):
            pixels = ((one + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (left + k * (row.shape[3] + gap), top))
        top += height
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)


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
        samples = draw(denoiser, index, size, places, seed=index)
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
        rows.append(draw(denoiser, denoiser.styles["redrock"], other, place, seed=0))
    labels = [*denoiser.styles, *(f"{h}x{w}" for h, w in denoiser.sizes[1:])]
    picture(rows, labels).save(output / "samples.png", optimize=True)
    picture(pairs, names).save(output / "nearest.png", optimize=True)
    curve(log, output / "curve.png")
    text = {"bank": BANK, "steps": STEPS, "rms_difference": figures}
    (output / "card.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
