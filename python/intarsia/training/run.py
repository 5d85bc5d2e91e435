# SPDX-License-Identifier: Apache-2.0
"""What every training of a small denoiser shares: step, checkpoint, log, and going on where one stopped."""

from __future__ import annotations

import abc
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

from intarsia.models import EDMDenoiser, save
from intarsia.training.ema import EMA

__all__ = ["Run", "Settings", "replace_text"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that every training has.

    Attributes:
        iterations: optimiser steps.
        batch: examples per step; all of a step have one size.
        learning_rate: Adam's, after `warmup` steps; falls linearly to 0 over the last `decay` of the run.
        warmup: steps of linear warm-up.
        decay: fraction of the run over which the rate falls.
        ema: final decay of the parameter average, which is what gets saved.
        log_sigma: mean and standard deviation of ln sigma.
        drop: probability that an example loses its class.
        seed: every random number of step k follows from (seed, k), so a resumed run repeats an unbroken one.
        checkpoint_every: steps between checkpoints.
    """

    iterations: int = 12_000
    batch: int = 16
    learning_rate: float = 4e-4
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999
    log_sigma: tuple[float, float] = (-1.0, 1.4)
    drop: float = 0.1
    seed: int = 0
    checkpoint_every: int = 250

    def rate(self, step: int) -> float:
        """Learning rate at `step`."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.iterations - step) / (self.decay * self.iterations))
        return self.learning_rate * rise * fall


def _loss(
    denoiser: EDMDenoiser, clean: Tensor, cond: dict[str, Tensor], sigma: Tensor, noise: Tensor
) -> Tensor:
    """EDM's weighted denoising loss, as the error of the raw output F (Karras et al. 2022, equation 8)."""
    ones = [1] * (clean.ndim - 1)
    c_skip, c_out = (c.reshape(-1, *ones) for c in denoiser.precond(sigma)[1:3])
    noisy = clean + sigma.reshape(-1, *ones) * noise
    return (denoiser.raw(noisy, sigma, cond) - (clean - c_skip * noisy) / c_out).square().mean()


def replace_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    temporary = path.with_suffix(".part")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Run(abc.ABC):
    """The state of a training run: network, average, optimiser, step.

    Args:
        denoiser: what is trained, in bfloat16 autocast.
        arguments: of its `UNet`, for the model file.
        folder: for `model.safetensors`, `checkpoint.pt`, `log.jsonl` and `settings.json`.
        settings: of the run.
        free: names of settings that may change between the parts of one run.
    """

    def __init__(
        self,
        denoiser: EDMDenoiser,
        arguments: dict[str, Any],
        folder: Path,
        settings: Settings,
        *,
        free: tuple[str, ...] = ("iterations", "checkpoint_every"),
    ) -> None:
        self.denoiser, self.arguments = denoiser, arguments
        self.folder, self.settings, self.free = folder, settings, free
        self.denoiser.compute_dtype = torch.bfloat16
        self.average = EMA(self.denoiser, decay=settings.ema)
        self.optimizer = torch.optim.Adam(
            self.denoiser.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.checkpoint = folder / "checkpoint.pt"

    @abc.abstractmethod
    def examples(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch `[B, C, *s]` and its cond, drawn with `rng` alone."""

    def measures(self) -> dict[str, float]:
        """What the log tells at checkpoints, beside the training loss."""
        return {}

    def advance(self) -> float:
        """One optimiser step; returns its loss."""
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean, cond = self.examples(rng)
        mean, std = s.log_sigma
        sigma = (mean + std * torch.randn(len(clean), generator=generator)).exp()
        noise = torch.randn(clean.shape, generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(self.step)
        loss = _loss(self.denoiser, clean, cond, sigma, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.denoiser)
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def error(self, clean: Tensor, cond: dict[str, Tensor], sigma: float) -> float:
        """The averaged network's loss on `clean [B, C, *s]` at one level, with the same noise each time."""
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        return float(_loss(self.average.module, clean, cond, torch.full((len(clean),), sigma), noise))

    def write(self) -> None:
        """Write checkpoint and model, each replaced whole."""
        temporary = self.checkpoint.with_suffix(".part")
        state = {
            "settings": dataclasses.asdict(self.settings),
            "styles": list(self.denoiser.styles),
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

    def read(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, weights_only=True)
        # A JSON round trip makes tuples and lists compare equal.
        free = dict.fromkeys(self.free, 0)
        pair = state["settings"], dataclasses.asdict(self.settings)
        known, wanted = (json.loads(json.dumps(settings | free)) for settings in pair)
        if known != wanted or state["styles"] != list(self.denoiser.styles):
            raise ValueError(
                f"train: settings must equal those of {self.checkpoint}, got others. "
                "Choose another output folder, or pass resume=False to start again."
            )
        self.denoiser.load_state_dict(state["denoiser"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.average.updates = state["step"], state["seconds"], state["step"]

    def complete(self, *, resume: bool, progress: bool) -> Path:
        """Train to the last iteration; returns the path of the model file."""
        from tqdm import tqdm

        if resume and self.checkpoint.exists():
            self.read()
        replace_text(
            self.folder / "settings.json", json.dumps(dataclasses.asdict(self.settings), indent=2) + "\n"
        )
        log = self.folder / "log.jsonl"
        known = log.read_text().splitlines(keepends=True) if self.step and log.exists() else []
        replace_text(log, "".join(line for line in known if json.loads(line)["step"] <= self.step))

        recent: list[float] = []
        began = time.monotonic()
        total, every = self.settings.iterations, self.settings.checkpoint_every
        with tqdm(initial=self.step, total=total, disable=not progress, desc="training", unit="step") as bar:
            while self.step < total:
                recent.append(self.advance())
                bar.update()
                store = self.step % every == 0 or self.step == total
                if self.step % 50 == 0 or self.step == total:
                    now = time.monotonic()
                    self.seconds, began = self.seconds + now - began, now
                    loss = float(np.mean(recent))
                    bar.set_postfix(loss=f"{loss:.4f}")
                    line = {"step": self.step, "loss": loss, "seconds": round(self.seconds, 1)}
                    with open(log, "a") as file:
                        file.write(json.dumps(line | (self.measures() if store else {})) + "\n")
                    recent = []
                if store:
                    self.write()
        return self.folder / "model.safetensors"
