# SPDX-License-Identifier: Apache-2.0
"""Train the image denoiser on a folder of photographs: resumable, bf16, EMA."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intarsia.models import EDMDenoiser, UNet, channels_last, save
from intarsia.training.ema import EMA
from intarsia.training.photos import PhotoFolder
from intarsia.training.sheet import draw, write_sheet

__all__ = ["ImageTraining", "train"]


@dataclass(frozen=True)
class ImageTraining:
    """Settings of a training run; the defaults take 75 minutes at 2.7 steps a second (two EPYC cores).

    Attributes:
        iterations: optimiser steps.
        batch: crops per step; all crops of a step have one size.
        sizes: patch sizes, (h, w) each.
        proportions: how often each size is drawn.
        channels: width of the U-Net's levels.
        attention: levels with self-attention.
        learning_rate: Adam's, after `warmup` steps; falls linearly to 0 over the last `decay` of the run.
        warmup: steps of linear warm-up.
        decay: fraction of the run over which the rate falls.
        ema: final decay of the parameter average, which is what gets saved.
        log_sigma: mean and standard deviation of ln sigma.
        drop: probability that a crop loses its class.
        max_height: largest virtual picture height that crops are cut from.
        seed: every random number of step k follows from (seed, k), so a resumed run repeats an unbroken one.
        checkpoint_every: steps between checkpoints.
        samples: pictures of each style on the sample sheet that ends the run; 0 draws none.
    """

    iterations: int = 12_000
    batch: int = 16
    sizes: tuple[tuple[int, int], ...] = ((64, 64), (64, 32), (32, 64), (32, 32))
    proportions: tuple[float, ...] = (0.5, 0.2, 0.15, 0.15)
    channels: tuple[int, ...] = (64, 80, 96, 112)
    attention: tuple[int, ...] = (2, 3)
    learning_rate: float = 4e-4
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999
    log_sigma: tuple[float, float] = (-1.0, 1.4)
    drop: float = 0.1
    max_height: int = 288
    seed: int = 0
    checkpoint_every: int = 250
    samples: int = 8

    def unet(self, num_styles: int) -> dict[str, Any]:
        """Arguments of the `UNet`."""
        return {
            "ndim": 2,
            "in_channels": 3,
            "channels": list(self.channels),
            "blocks": 1,
            "attention": list(self.attention),
            "num_classes": num_styles + 1,
            "num_positions": 2,
        }

    def rate(self, step: int) -> float:
        """Learning rate at `step`."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.iterations - step) / (self.decay * self.iterations))
        return self.learning_rate * rise * fall


def _loss(
    denoiser: EDMDenoiser, clean: Tensor, cond: dict[str, Tensor], sigma: Tensor, noise: Tensor
) -> Tensor:
    """EDM's weighted denoising loss, as the error of the raw output F (Karras et al. 2022, equation 8)."""
    c_skip, c_out = (c.reshape(-1, 1, 1, 1) for c in denoiser.precond(sigma)[1:3])
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * noise
    return (denoiser.raw(noisy, sigma, cond) - (clean - c_skip * noisy) / c_out).square().mean()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Run:
    """The state of a training run: network, average, optimiser, step."""

    def __init__(self, photos: PhotoFolder, folder: Path, settings: ImageTraining) -> None:
        torch.manual_seed(settings.seed)
        self.photos, self.folder, self.settings = photos, folder, settings
        self.arguments = settings.unet(len(photos.styles))
        self.denoiser = EDMDenoiser(UNet(**self.arguments), styles=photos.styles, sizes=settings.sizes)
        self.denoiser.compute_dtype = torch.bfloat16
        channels_last(self.denoiser)
        self.average = EMA(self.denoiser, decay=settings.ema)
        self.optimizer = torch.optim.Adam(
            self.denoiser.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.checkpoint = folder / "checkpoint.pt"

    def advance(self) -> float:
        """One optimiser step; returns its loss."""
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        size = s.sizes[rng.choice(len(s.sizes), p=s.proportions)]
        crops = self.photos.batch(s.batch, size, rng)
        mean, std = s.log_sigma
        sigma = (mean + std * torch.randn(s.batch, generator=generator)).exp()
        noise = torch.randn(crops.pixels.shape, generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(self.step)
        cond = {"style": crops.style, "vertical": crops.vertical}
        loss = _loss(self.denoiser, crops.pixels, cond, sigma, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.denoiser)
        self.step += 1
        return float(loss.detach())

    def write(self) -> None:
        """Write checkpoint and model, each replaced whole."""
        temporary = self.checkpoint.with_suffix(".part")
        state = {
            "settings": dataclasses.asdict(self.settings),
            "styles": self.photos.styles,
            "denoiser": self.denoiser.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        try:
            torch.save(state, temporary)
            os.replace(temporary, self.checkpoint)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        save(self.average.module, self.folder / "model.safetensors", self.arguments)

    def sheet(self) -> None:
        """Draw the averaged network's samples of each style, at places as in training."""
        size, count = self.settings.sizes[0], self.settings.samples
        rng = np.random.default_rng(self.settings.seed)
        rows = []
        for index, style in enumerate(self.photos.styles, 1):
            places = torch.tensor([self.photos.crop(style, size, rng)[1] for _ in range(count)])
            rows.append(draw(self.average.module, style=index, size=size, vertical=places, seed=index))
        write_sheet(self.folder / "samples.png", rows, self.photos.styles)

    def read(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, weights_only=True)
        # These may change between parts of one run; a JSON round trip makes tuples and lists compare equal.
        free = {"iterations": 0, "checkpoint_every": 0, "samples": 0}
        pair = state["settings"], dataclasses.asdict(self.settings)
        known, wanted = (json.loads(json.dumps(settings | free)) for settings in pair)
        if known != wanted or state["styles"] != self.photos.styles:
            raise ValueError(
                f"train: settings must equal those of {self.checkpoint}, got others. "
                "Choose another output folder, or pass resume=False to start again."
            )
        self.denoiser.load_state_dict(state["denoiser"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.average.updates = state["step"], state["seconds"], state["step"]


def train(
    data: str | Path,
    output: str | Path,
    settings: ImageTraining | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train an image denoiser on the photographs under `data`.

    Args:
        data: `FOLDER/<style>/*.jpg|png|webp`, one sub-folder per style.
        output: folder for `model.safetensors` (float16, the averaged parameters), `checkpoint.pt`,
            `log.jsonl` (step, loss, seconds), `settings.json` and `samples.png`, unselected samples.
        settings: what to train; None takes the defaults.
        resume: go on from `checkpoint.pt` if there is one; `iterations` may differ from before.
        progress: show a progress bar.

    Returns:
        Path of the written model file.

    Raises:
        ValueError: if `data` has no photographs, or the checkpoint is of other settings.

    Note:
        bfloat16 autocast and channels_last. Files are replaced whole, so Ctrl-C leaves the last checkpoint
        intact. A resumed run repeats an unbroken one bit for bit.

    Source:
        Karras et al. 2022 (loss, preconditioning).
    """
    from tqdm import tqdm

    settings, folder = settings or ImageTraining(), Path(output)
    photos = PhotoFolder(Path(data), max_height=settings.max_height, drop=settings.drop)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(photos, folder, settings)
    if resume and run.checkpoint.exists():
        run.read()
    _replace(folder / "settings.json", json.dumps(dataclasses.asdict(settings), indent=2) + "\n")
    log = folder / "log.jsonl"
    known = log.read_text().splitlines(keepends=True) if run.step and log.exists() else []
    _replace(log, "".join(line for line in known if json.loads(line)["step"] <= run.step))

    recent: list[float] = []
    began = time.monotonic()
    total = settings.iterations
    with tqdm(initial=run.step, total=total, disable=not progress, desc="training", unit="step") as bar:
        while run.step < total:
            recent.append(run.advance())
            bar.update()
            if run.step % 50 == 0 or run.step == total:
                now = time.monotonic()
                run.seconds, began = run.seconds + now - began, now
                loss = float(np.mean(recent))
                bar.set_postfix(loss=f"{loss:.4f}")
                with open(log, "a") as file:
                    line = {"step": run.step, "loss": loss, "seconds": round(run.seconds, 1)}
                    file.write(json.dumps(line) + "\n")
                recent = []
            if run.step % settings.checkpoint_every == 0 or run.step == total:
                run.write()
    if settings.samples:
        run.sheet()
    return folder / "model.safetensors"
