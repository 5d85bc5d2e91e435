# SPDX-License-Identifier: Apache-2.0
"""Pictures and numbers for the card of a motion model.

Usage: python experiments/motion/card.py --data cmu_motion_30fps.npz --log RUN/log.jsonl [--model moves]

Writes curve.png, samples.png (one window of each action, unselected) and card.json into --output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from intarsia import models, samplers, schedules
from intarsia.kinematics import FeatureSpace
from intarsia.media.motion import draw_frames, read_clips
from intarsia.models import EDMDenoiser
from intarsia.training import MotionClips
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def sample(denoiser: EDMDenoiser, action: int, count: int) -> Tensor:
    """Single windows `[count, F, size]`, no composition."""
    generator = torch.Generator().manual_seed(action)
    sigmas = schedules.karras(50, denoiser.sigma_min, denoiser.sigma_max)
    noise = torch.randn(count, denoiser.net.channels, *denoiser.sizes[0], generator=generator)
    cond = {"action": torch.full((count,), action)}
    return samplers.sample(
        denoiser, noise * float(sigmas[0]), sigmas, samplers.DDIM(), cond=cond, progress=False
    )


def nearest(windows: Tensor, known: Tensor) -> float:
    """Root mean square difference of each window to the nearest of the known ones, averaged."""
    scale = windows[0].numel() ** 0.5
    return float(torch.cdist(windows.flatten(1), known.flatten(1)).amin(1).mean()) / scale


def sheet(made: dict[str, Tensor], space: FeatureSpace, path: Path) -> None:
    side, count = 150, 8
    picture = Image.new("RGB", (150 + side * count, side * len(made)), (250, 248, 243))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for row, (name, windows) in enumerate(made.items()):
        pen.text((10, row * side + side // 2), name.replace("_", " "), fill=(52, 49, 46), font=font)
        frames = list(
            draw_frames(space.decode(windows[0], smooth=True), size=(side, side), fps=30, clock=False)
        )
        for column in range(count):
            still = frames[round(column * (len(frames) - 1) / (count - 1))]
            picture.paste(still, (150 + column * side, row * side))
    picture.quantize(128).save(path, optimize=True)


def curve(log: Path, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(
        [line["step"] for line in lines], [line["loss"] for line in lines], color="0.7", label="training"
    )
    told = [line for line in lines if "held 0.4" in line]
    for sigma, colour in ((0.1, "C0"), (0.4, "C1"), (1.6, "C2")):
        for part, style in (("held", "-"), ("seen", ":")):
            label = f"{'held-out' if part == 'held' else 'training'} clips, sigma {sigma}"
            values = [line[f"{part} {sigma}"] for line in told]
            axes.plot([line["step"] for line in told], values, style, color=colour, label=label)
    axes.set(xlabel="step", ylabel="loss (1: nothing learnt)", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=100)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--model", default="moves")
    parser.add_argument("--output", default=str(Path(__file__).parent))
    arguments = parser.parse_args(words)
    output = Path(arguments.output)
    denoiser = models.load(arguments.model)
    space = FeatureSpace.from_json(denoiser.about["motion"])
    clips = MotionClips(
        [(c.motion, c.action, c.held) for c in read_clips(arguments.data)],
        sizes=tuple(size[0] for size in denoiser.sizes),
        space=space,
    )
    made = {name: sample(denoiser, index, 8) for name, index in denoiser.styles.items()}
    size = denoiser.sizes[0][0]
    known, known_labels = clips.windows(size, held=False, stride=2)
    fresh, fresh_labels = clips.windows(size, held=True)
    distances = {}
    for name, index in denoiser.styles.items():
        own = known[known_labels == index]
        distances[name] = {
            "sample": nearest(made[name].float(), own),
            "held out": nearest(fresh[fresh_labels == index], own),
        }
    (output / "card.json").write_text(json.dumps(distances, indent=2) + "\n")
    for name, row in distances.items():
        ratio = row["sample"] / row["held out"]
        print(f"| {name} | {row['sample']:.3f} | {row['held out']:.3f} | {ratio:.2f} |")
    sheet(made, space, output / "samples.png")
    curve(Path(arguments.log), output / "curve.png")


if __name__ == "__main__":
    main()
