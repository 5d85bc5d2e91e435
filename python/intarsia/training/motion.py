# SPDX-License-Identifier: Apache-2.0
"""Train the motion denoiser on clips of motion capture: windows and half windows, by action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intarsia.kinematics import Motion
from intarsia.models import EDMDenoiser, UNet
from intarsia.training.clips import MotionClips
from intarsia.training.run import Run, Settings

__all__ = ["MotionTraining", "train"]


@dataclass(frozen=True, kw_only=True)
class MotionTraining(Settings):
    """Settings of a training run; the defaults take some 25 minutes of one EPYC core.

    Those of `Settings` and:

    Attributes:
        sizes: lengths of windows in frames, each drawn as often: the window, and what windows share.
        features: per frame; the narrowest level should be wider, see `FeatureSpace.fitted`.
        channels: width of the U-Net's levels.
        attention: levels with self-attention.
        dropout: inside the residual blocks.
        balance: see `MotionClips`.
    """

    iterations: int = 6_000
    batch: int = 32
    learning_rate: float = 8e-4
    log_sigma: tuple[float, float] = (-1.2, 1.5)
    checkpoint_every: int = 500
    sizes: tuple[int, ...] = (64, 32)
    features: int = 64
    channels: tuple[int, ...] = (128, 112, 96)
    attention: tuple[int, ...] = (2,)
    dropout: float = 0.05
    balance: float = 0.3

    def unet(self, channels: int, actions: int) -> dict[str, Any]:
        """Arguments of the `UNet`."""
        return {
            "ndim": 1,
            "in_channels": channels,
            "channels": self.channels,
            "blocks": 1,
            "attention": self.attention,
            "num_classes": actions + 1,
            "dropout": self.dropout,
        }


class _MotionRun(Run):
    """Windows of clips."""

    settings: MotionTraining

    def __init__(self, clips: MotionClips, folder: Path, settings: MotionTraining) -> None:
        torch.manual_seed(settings.seed)
        self.clips = clips
        arguments = settings.unet(clips.space.channels, len(clips.actions))
        denoiser = EDMDenoiser(
            UNet(**arguments),
            styles=clips.actions,
            sizes=[(size,) for size in settings.sizes],
            sigma_range=(0.004, 40.0),
            label="action",
            about={"motion": clips.space.to_json()},
        )
        super().__init__(denoiser, arguments, folder, settings)

    def examples(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Windows of one size and their actions; some lose their action."""
        size = int(rng.choice(self.settings.sizes))
        windows, action = self.clips.batch(self.settings.batch, size, rng)
        dropped = torch.from_numpy(rng.random(len(action)) < self.settings.drop)
        return windows, {"action": action.masked_fill(dropped, 0)}

    def measures(self) -> dict[str, float]:
        """Loss on held-out and on as many training windows of the first size, at three levels."""
        result = {}
        for name, held in (("held", True), ("seen", False)):
            windows, action = self.clips.windows(self.settings.sizes[0], held=held)
            some = torch.linspace(0, len(windows) - 1, min(96, len(windows))).long()
            for sigma in (0.1, 0.4, 1.6):
                error = self.error(windows[some], {"action": action[some]}, sigma)
                result[f"{name} {sigma}"] = round(error, 5)
        return result


def train(
    clips: Sequence[tuple[Motion, str, bool]],
    output: str | Path,
    settings: MotionTraining | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train a motion denoiser.

    Args:
        clips: motions of one skeleton at one rate, the action of each, and whether it is held out.
        output: folder for `model.safetensors` (float16, the averaged parameters), `checkpoint.pt`,
            `log.jsonl` (step, losses, seconds) and `settings.json`.
        settings: what to train; None takes the defaults.
        resume: go on from `checkpoint.pt` if there is one; `iterations` may differ from before.
        progress: show a progress bar.

    Returns:
        Path of the written model file.

    Raises:
        ValueError: no clip to train on, or the checkpoint is of other settings.

    Note:
        bfloat16 autocast. Files are replaced whole, so Ctrl-C leaves the last checkpoint intact. A resumed
        run repeats an unbroken one but for dropout.

    Source:
        Karras et al. 2022 (loss, preconditioning); Zhang et al. 2023, "DiffCollage" (half windows).
    """
    settings, folder = settings or MotionTraining(), Path(output)
    windows = MotionClips(clips, sizes=settings.sizes, channels=settings.features, balance=settings.balance)
    folder.mkdir(parents=True, exist_ok=True)
    return _MotionRun(windows, folder, settings).complete(resume=resume, progress=progress)
