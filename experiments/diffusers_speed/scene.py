# SPDX-License-Identifier: Apache-2.0
"""What everybody is given: a network like Stable Diffusion 1.5's, noise, prompts, and where regions lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

__all__ = ["CONFIG", "OnStep", "Run", "Task", "network", "scheduler", "task"]

CONFIG: dict[str, Any] = json.loads((Path(__file__).parent / "config.json").read_text())
PIXELS = 8  # of one latent element

OnStep = Callable[[], None]
Run = Callable[[int, OnStep], Tensor]
"""`run(steps, on_step)`: a whole run from the noise, `on_step()` after each step; returns [1, 4, h, w]."""


@dataclass(frozen=True, eq=False)
class Task:
    """One canvas and its regions.

    Attributes:
        unet: the network, in the dtype that it computes in.
        noise: [1, 4, h, w], standard normal, float32.
        boxes: (left, top, right, bottom) in pixels, row by row.
        patch: (height, width) in pixels of every box.
        prompts: [R, tokens, E], one for each region.
        empty: [1, tokens, E], the negative prompt.
        scale: of guidance.
    """

    unet: torch.nn.Module
    noise: Tensor
    boxes: list[tuple[int, int, int, int]]
    patch: tuple[int, int]
    prompts: Tensor
    empty: Tensor
    scale: float

    @property
    def places(self) -> list[tuple[slice, slice, slice, slice]]:
        """Where each region lies in the latents."""
        every = slice(None)
        return [
            (every, every, slice(top // PIXELS, bottom // PIXELS), slice(left // PIXELS, right // PIXELS))
            for left, top, right, bottom in self.boxes
        ]

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        height, width = self.noise.shape[2:]
        return PIXELS * height, PIXELS * width


def network(name: str, *, device: str, dtype: str) -> torch.nn.Module:
    """The network of that name with random weights: how fast it is does not depend on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(**CONFIG["networks"][name])
    return unet.eval().requires_grad_(False).to(device, getattr(torch, dtype))


def scheduler() -> diffusers.DDIMScheduler:
    """DDIM with the schedule of Stable Diffusion."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def task(unet: Any, pixels: list[int], patch: list[int], counts: list[int]) -> Task:
    """A canvas with `counts` regions of `patch` pixels, spread evenly from edge to edge."""
    height, width = patch
    tops, lefts = (
        [round(k * (whole - part) / max(count - 1, 1) / PIXELS) * PIXELS for k in range(count)]
        for whole, part, count in zip(pixels, patch, counts, strict=True)
    )
    boxes = [(left, top, left + width, top + height) for top in tops for left in lefts]
    generator = torch.Generator().manual_seed(1)
    shape = (1, unet.config.in_channels, pixels[0] // PIXELS, pixels[1] // PIXELS)
    noise = torch.randn(shape, generator=generator)
    told = torch.randn(
        len(boxes) + 1, CONFIG["tokens"], unet.config.cross_attention_dim, generator=generator
    ).to(unet.device, unet.dtype)
    scale = CONFIG["guidance_scale"]
    return Task(unet, noise.to(unet.device), boxes, (height, width), told[1:], told[:1], scale)
