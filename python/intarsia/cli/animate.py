# SPDX-License-Identifier: Apache-2.0
"""From settings to a long motion: windows, their actions, the composite, the solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia import compose, guidance, layout, samplers, schedules
from intarsia.layout import Layout
from intarsia.models import EDMDenoiser
from intarsia.types import Denoiser

__all__ = ["METHODS", "MotionSettings", "Windows", "animate", "place_windows"]

METHODS = ("bethe", "average", "concat")


@dataclass(frozen=True)
class MotionSettings:
    """What decides a motion. The defaults are those of the command.

    Attributes:
        actions: names, in the order in which they are done; each has an equal part of the time.
        frames: asked for.
        loop: whether the last frame goes on into the first.
        method: `bethe` joins windows by what they share, `average` blends them, `concat` puts them in a row.
        steps: of the solver.
        guidance: 1 follows the model; more exaggerates the action and costs another evaluation.
        shared: whether what two windows share is told their action where it is the same; else none.
        seed: of the noise.
    """

    actions: tuple[str, ...] = ("walking",)
    frames: int = 720
    loop: bool = False
    method: str = "bethe"
    steps: int = 50
    guidance: float = 1.0
    shared: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Windows:
    """Where the network works, and what it is told there.

    Attributes:
        layout: the windows.
        actions: `[R]` int64 class of each window.
        shared: `[V]` int64 class of what neighbours share, in the order of `layout.separators`: 0 where their
            actions differ.
    """

    layout: Layout
    actions: Tensor
    shared: Tensor


def place_windows(settings: MotionSettings, *, sizes: Sequence[int], classes: Sequence[int]) -> Windows:
    """Lay windows over the time, rounded up to a length where all overlaps are equal.

    Args:
        settings: frames, loop and method are read.
        sizes: lengths of windows that the network knows, the window first, then what windows share.
        classes: the actions' class indices, in order.

    Returns:
        The windows.

    Raises:
        ValueError: a loop of windows in a row.
    """
    window, between = sizes[0], min(sizes)
    stride = window - between if between < window else window // 2
    frames = settings.frames
    if settings.method == "concat":
        if settings.loop:
            raise ValueError(
                "generate motion: --method must be bethe or average with --loop, got concat. "
                "Windows in a row have no common frames to close with."
            )
        spread = layout.chain(-(-frames // window) * window, window, window)
    elif settings.loop:
        # Fewer windows would meet twice.
        count = max(-(-frames // stride), -(-window // stride) + 1)
        spread, frames = layout.loop(count * stride, window, stride), count * stride
    else:
        spread = layout.chain(window + max(0, -(-(frames - window) // stride)) * stride, window, stride)
    centres = (spread.offsets[:, 0].double() + window / 2) % spread.size[0]
    part = (centres / frames * len(classes)).long().clamp_max(len(classes) - 1)
    actions = torch.tensor(classes)[part]
    joints = layout.separators(spread)
    if joints is None:
        return Windows(spread, actions, actions[:0])
    after = torch.tensor([offset[0] for offset, _ in joints.boxes()]) // stride % len(actions)
    same = actions[after] == actions[after - 1]
    return Windows(spread, actions, torch.where(same, actions[after], 0))


def composite(denoiser: Denoiser, settings: MotionSettings, windows: Windows, *, max_batch: int) -> Denoiser:
    """The denoiser of the whole motion."""
    null = torch.zeros(1, dtype=torch.long)
    guided: Denoiser = denoiser
    if settings.guidance != 1:
        guided = guidance.CFG(denoiser, {"action": null}, settings.guidance)
    cond = {"action": windows.actions}
    if settings.method == "bethe":
        return compose.bethe(
            guided,
            windows.layout,
            cond=cond,
            separator_denoiser=denoiser,
            separator_cond={"action": windows.shared if settings.shared else null},
            max_batch=max_batch,
        )
    return compose.average(compose.Factor(guided, windows.layout, cond=cond, max_batch=max_batch))


def animate(
    denoiser: EDMDenoiser,
    settings: MotionSettings,
    *,
    seeds: Sequence[int] | None = None,
    callback: Callable[..., Any] | None = None,
    corrector: Any = None,
    max_batch: int = 64,
) -> Tensor:
    """Sample motions.

    Args:
        denoiser: a network of windows `[rows, F, T]` with cond `"action"`.
        settings: what to make.
        seeds: one per motion; None makes one motion from `settings.seed`.
        callback: called after each step, see `samplers.sample`.
        corrector: run after each step, e.g. `samplers.ULA()`.
        max_batch: most windows in the network at once.

    Returns:
        `[B, F, T]` float32 features; T is `frames`, or for a loop the next length that closes.
    """
    classes = [denoiser.styles[name] for name in settings.actions]
    windows = place_windows(settings, sizes=[size[0] for size in denoiser.sizes], classes=classes)
    whole = composite(denoiser, settings, windows, max_batch=max_batch)
    generators = [torch.Generator().manual_seed(seed) for seed in (seeds or [settings.seed])]
    channels = denoiser.net.channels
    noise = torch.stack([torch.randn(channels, *windows.layout.size, generator=g) for g in generators])
    sigmas = schedules.karras(settings.steps, denoiser.sigma_min, denoiser.sigma_max)
    motions = samplers.sample(
        whole,
        noise * float(sigmas[0]),
        sigmas,
        samplers.DDIM(),
        corrector=corrector,
        generator=generators,
        callback=callback,
        progress=False,
    )
    return motions if settings.loop else motions[..., : settings.frames]
