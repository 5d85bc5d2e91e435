# SPDX-License-Identifier: Apache-2.0
"""Six ways to make 24 seconds of motion with a model of two, measured (after DiffCollage's Table 3).

Usage: python experiments/motion/compare.py --data cmu_motion_30fps.npz [--motions 8 --steps 50 ...]

Writes results.json, results.md, spectra.png and the table in README.md, all into --output.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from intarsia import __version__, metrics, models, samplers, schedules
from intarsia.cli.animate import MotionSettings, animate, place_windows
from intarsia.conditioning import Known, Replacement
from intarsia.kinematics import FeatureSpace
from intarsia.media.motion import read_clips
from intarsia.models import EDMDenoiser
from intarsia.samplers import ULA
from intarsia.training import MotionClips
from torch import Tensor
from tqdm import tqdm

ACTIONS = ("walking", "jumping", "basketball", "soccer", "washwindow", "directing_traffic")
METHODS = ("concat", "replacement", "average", "bethe", "bethe, shared action", "bethe + ULA")
COLUMNS = (
    ("frechet", "Fréchet distance ↓", "{:.3f}"),
    ("frechet between", "the same, halfway between the model's windows ↓", "{:.3f}"),
    ("jerk", "jerk at seams / elsewhere → 1", "{:.2f}"),
    ("sliding", "feet slide, cm/s ↓", "{:.1f}"),
    ("spectrum", "spectrum, dB off ↓", "{:.2f}"),
    ("bones", "bone error, mm ↓", "{:.4f}"),
    ("calls", "windows through the network", "{:.0f}"),
    ("seconds", "seconds of a core, per motion", "{:.1f}"),
)
MARKS = "<!-- table -->", "<!-- end of table -->"


def plan(index: int) -> tuple[str, ...]:
    """Three actions of 8 s; over the motions each is followed by each other about as often."""
    n = len(ACTIONS)
    return tuple(ACTIONS[(index + k * (1 + index // n % (n - 1))) % n] for k in range(3))


def autoregressive(denoiser: EDMDenoiser, settings: MotionSettings, *, seed: int) -> Tensor:
    """One window after the other; each repeats the second half of the one before by replacement."""
    window = denoiser.sizes[0][0]
    half = window // 2
    windows = place_windows(
        settings,
        sizes=[size[0] for size in denoiser.sizes],
        classes=[denoiser.styles[a] for a in settings.actions],
    )
    generator = torch.Generator().manual_seed(seed)
    sigmas = schedules.karras(settings.steps, denoiser.sigma_min, denoiser.sigma_max)
    known = Known(torch.arange(window) < half)
    done: list[Tensor] = []
    for action in windows.actions.tolist():
        noise = torch.randn(1, denoiser.net.channels, window, generator=generator) * float(sigmas[0])
        held: Any = denoiser
        if done:
            y = torch.cat([done[-1], torch.zeros_like(done[-1])], 2)
            held = Replacement(known, known(y), denoiser)
        made = samplers.sample(
            held, noise, sigmas, samplers.DDIM(), cond={"action": torch.tensor([action])}, progress=False
        )
        done += [made[..., half:]] if done else [made[..., :half], made[..., half:]]
    return torch.cat(done, 2)[..., : settings.frames]


def make(denoiser: EDMDenoiser, method: str, index: int, arguments: argparse.Namespace) -> Tensor:
    """Features `[F, T]` of motion `index`; all methods start from the noise of its seed."""
    frames = round(arguments.seconds * 30)
    name = method.split(",")[0].split(" ")[0]
    settings = MotionSettings(
        plan(index),
        frames=frames,
        method="bethe" if name == "replacement" else name,
        steps=arguments.steps,
        shared=method == "bethe, shared action",
    )
    if name == "replacement":
        return autoregressive(denoiser, settings, seed=index)[0]
    corrector = ULA(step_size=0.3, num_steps=1) if "ULA" in method else None
    return animate(denoiser, settings, seeds=[index], corrector=corrector)[0]


def calls(method: str, frames: int, steps: int, sizes: tuple[int, ...]) -> float:
    """Frames that go through the network for one motion, in windows."""
    window, half = sizes
    count = -(-(frames - window) // half) + 1
    if method == "concat":
        return -(-frames // window) * steps
    if not method.startswith("bethe"):
        return count * steps
    return (count + (count - 1) * half / window) * steps * (2 if "ULA" in method else 1)


def windows_of(motions: list[Tensor], size: int, starts: range) -> Tensor:
    return torch.stack([m[:, s : s + size] for m in motions for s in starts if s + size <= m.shape[1]])


def measure(
    motions: list[Tensor], real: Tensor, space: FeatureSpace, *, stride: int, size: int
) -> dict[str, float]:
    """All columns but time; `real [N, F, size]` are windows of the data."""
    steps = range(stride, motions[0].shape[1] - 3, stride)
    inside = windows_of(motions, size, range(0, 10**4, size // 2))
    across = windows_of(motions, size, range(stride // 2, 10**4, stride))
    feet, values = [space.skeleton.names.index(n) for n in ("LeftToeBase", "RightToeBase")], []
    reference = metrics.random_features(real)
    for motion in motions:
        places = space.decode(motion).positions
        values.append(
            (
                metrics.transition_jerk(places, list(steps), fps=space.fps),
                100 * metrics.foot_sliding(places, feet, fps=space.fps),
                1000 * metrics.bone_length_error(places, space.skeleton.parents, space.skeleton.lengths),
            )
        )
    jerk, sliding, bones = torch.tensor(values, dtype=torch.float64).mean(0).tolist()
    return {
        "frechet": metrics.frechet_distance(metrics.random_features(inside), reference),
        "frechet between": metrics.frechet_distance(metrics.random_features(across), reference),
        "jerk": jerk,
        "sliding": sliding,
        "bones": bones,
    }


def spectrum(motions: list[Tensor], space: FeatureSpace) -> Tensor:
    return torch.stack(
        [metrics.motion_spectrum(space.decode(m).positions) for m in motions if m.shape[1] > 64]
    ).mean(0)


def real_clips(clips: MotionClips, size: int, *, held: bool) -> tuple[Tensor, list[Tensor]]:
    """Windows of the compared actions, each action as often; and their whole stretches."""
    wanted = [clips.actions.index(name) + 1 for name in ACTIONS]
    windows, labels = clips.windows(size, held=held, stride=8)
    least = min(int((labels == label).sum()) for label in wanted)
    chosen = []
    for label in wanted:
        own = (labels == label).nonzero()[:, 0]
        chosen.append(own[torch.linspace(0, len(own) - 1, least).long()])
    stretches, names = clips.windows(65 + 2 * size, held=False, stride=64)
    kept = [s for s, label in zip(stretches, names.tolist(), strict=True) if label in wanted]
    return windows[torch.cat(chosen)], kept


def draw(spectra: dict[str, Tensor], fps: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, power in spectra.items():
        frequency = torch.arange(len(power)) * fps / (2 * (len(power) - 1))
        style: dict[str, Any] = {"color": "black", "linewidth": 2.5} if name == "data" else {"linewidth": 1.2}
        axes.plot(frequency[1:], 10 * power[1:].log10(), label=name, **style)
    axes.set(xlabel="frequency, Hz", ylabel="power of the joints' velocities, dB")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def table(rows: dict[str, dict[str, float]]) -> str:
    head = "| method | " + " | ".join(title for _, title, _ in COLUMNS) + " |"
    lines = [head, "| --- |" + " ---: |" * len(COLUMNS)]
    for name, row in rows.items():
        cells = [form.format(row[key]) if key in row else "" for key, _, form in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="moves")
    parser.add_argument("--output", default=str(Path(__file__).parent))
    parser.add_argument("--motions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args(words)
    denoiser = models.load(arguments.model)
    space = FeatureSpace.from_json(denoiser.about["motion"])
    sizes = tuple(size[0] for size in denoiser.sizes)
    clips = MotionClips(
        [(c.motion, c.action, c.held) for c in read_clips(arguments.data)], sizes=sizes, space=space
    )
    real, stretches = real_clips(clips, sizes[0], held=False)
    unseen, _ = real_clips(clips, sizes[0], held=True)
    true = spectrum(stretches, space)
    frames = round(arguments.seconds * 30)

    rows: dict[str, dict[str, float]] = {}
    first = measure(stretches, real, space, stride=sizes[1], size=sizes[0])
    own = metrics.random_features(real)
    first["frechet"] = metrics.frechet_distance(own[::2], own[1::2])
    del first["frechet between"], first["jerk"]
    rows["data (training clips; two halves)"] = first
    held = metrics.frechet_distance(metrics.random_features(unseen), own)
    rows["data (held-out clips)"] = {"frechet": held}
    spectra = {"data": true}
    bar = tqdm(total=arguments.motions * len(METHODS), unit="motion", disable=None)
    for method in METHODS:
        motions, began = [], time.process_time()
        for index in range(arguments.motions):
            motions.append(make(denoiser, method, index, arguments))
            bar.update()
        seconds = (time.process_time() - began) / arguments.motions
        stride = sizes[0] if method == "concat" else sizes[1]
        row = measure(motions, real, space, stride=stride, size=sizes[0])
        spectra[method] = spectrum(motions, space)
        row["spectrum"] = metrics.spectral_distance(spectra[method], true)
        rows[method] = row | {"calls": calls(method, frames, arguments.steps, sizes), "seconds": seconds}
    output = Path(arguments.output)
    draw(spectra, space.fps, output / "spectra.png")
    about = {"intarsia": __version__, "torch": torch.__version__, **vars(arguments), "rows": rows}
    del about["data"], about["output"]
    (output / "results.json").write_text(json.dumps(about, indent=2) + "\n")
    (output / "results.md").write_text(table(rows))
    readme = output / "README.md"
    if readme.exists():
        before, rest = readme.read_text().split(MARKS[0])
        readme.write_text(f"{before}{MARKS[0]}\n{table(rows)}{MARKS[1]}{rest.split(MARKS[1])[1]}")


if __name__ == "__main__":
    main()
