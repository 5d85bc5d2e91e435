# SPDX-License-Identifier: Apache-2.0
"""The peers. The panorama is diffusers' own pipeline; the two mixtures are restated from what they do.

RESTATED: diffusers' community pipelines mixture_canvas and mixture_tiling want packages and devices that are
not everywhere, so their loops stand here in our words, operation by operation. Per step and region, one after
the other: crop, double, the network on these two rows, guide. Then per region: multiply by its weight map
(float64, repeated for every channel), add to the sum and to the count, which begins anew in every step. Then
divide, and step the scheduler once. One change in their favour: rows are cast to the network's dtype, since
otherwise neither runs in half precision.
"""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from torch import Tensor

from experiments.diffusers_speed.scene import OnStep, Run, Task, scheduler

__all__ = ["canvas", "canvas_window", "panorama", "tiling", "tiling_window"]

VARIANCE = 0.01


def _bell(length: int, middle: float) -> Tensor:
    """The Gaussian of Mixture of Diffusers on one axis, [length] float64."""
    place = (torch.arange(length, dtype=torch.float64) - middle) / length
    return torch.exp(-(place**2) / (2 * VARIANCE)) / math.sqrt(2 * math.pi * VARIANCE)


def canvas_window(patch: tuple[int, ...]) -> tuple[Tensor, ...]:
    """mixture_canvas: centred on both axes."""
    return tuple(_bell(length, (length - 1) / 2) for length in patch)


def tiling_window(patch: tuple[int, ...]) -> tuple[Tensor, ...]:
    """mixture_tiling: half an element off the centre of the rows, kept for comparison."""
    rows, columns = patch
    return _bell(rows, rows / 2), _bell(columns, (columns - 1) / 2)


def _maps(task: Task, window: Any) -> Tensor:
    rows, columns = window(tuple(length // 8 for length in task.patch))
    return torch.outer(rows, columns).tile(1, task.noise.shape[1], 1, 1).to(task.noise.device)


@torch.no_grad()
def _mixture(task: Task, maps: list[Tensor], steps: int, on_step: OnStep, *, uncovered: bool) -> Tensor:
    stepper, places = scheduler(), task.places
    stepper.set_timesteps(steps, device=task.noise.device)
    told = [torch.cat([task.empty, prompt[None]]) for prompt in task.prompts]
    latents = task.noise * stepper.init_noise_sigma
    for t in stepper.timesteps:
        answers = []
        for place, prompt in zip(places, told, strict=True):
            rows = stepper.scale_model_input(torch.cat([latents[place]] * 2), t)
            answer = task.unet(rows.to(task.unet.dtype), t, encoder_hidden_states=prompt)["sample"]
            without, with_ = answer.chunk(2)
            answers.append(without + task.scale * (with_ - without))
        total = torch.zeros(latents.shape, device=latents.device)
        count = torch.zeros(latents.shape, device=latents.device)
        for place, answer, weight in zip(places, answers, maps, strict=True):
            total[place] += answer * weight
            count[place] += weight
        total /= count
        if uncovered:
            total = torch.nan_to_num(total)
        latents = stepper.step(total, t, latents).prev_sample
        on_step()
    return latents


def canvas(task: Task) -> Run:
    """mixture_canvas, restated: a weight map of its own for every region."""

    def run(steps: int, on_step: OnStep) -> Tensor:
        maps = [_maps(task, canvas_window) for _ in task.boxes]
        return _mixture(task, maps, steps, on_step, uncovered=True)

    return run


def tiling(task: Task) -> Run:
    """mixture_tiling, restated: one weight map for all regions."""

    def run(steps: int, on_step: OnStep) -> Tensor:
        maps = [_maps(task, tiling_window)] * len(task.boxes)
        return _mixture(task, maps, steps, on_step, uncovered=False)

    return run


def panorama(task: Task, *, window: int, stride: int, views: int) -> Run:
    """diffusers' StableDiffusionPanoramaPipeline, `views` windows at once.

    Its windows are always 64 wide and 8 apart; for a network that is trained on less, this says so to
    `get_views`, which takes both. All else is the pipeline's.
    """
    pipe = _Panorama(None, None, None, task.unet, scheduler(), None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.window, pipe.stride = window, stride

    def run(steps: int, on_step: OnStep) -> Tensor:
        def told(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            on_step()
            return {}

        height, width = task.pixels
        found: Tensor = pipe(
            prompt_embeds=task.prompts[:1],
            negative_prompt_embeds=task.empty,
            height=height,
            width=width,
            latents=task.noise.to(task.unet.dtype),
            num_inference_steps=steps,
            guidance_scale=task.scale,
            view_batch_size=views,
            output_type="latent",
            callback_on_step_end=told,
        ).images
        return found

    return run


class _Panorama(diffusers.StableDiffusionPanoramaPipeline):
    window, stride = 64, 8

    def get_views(
        self, panorama_height: int, panorama_width: int, circular_padding: bool = False
    ) -> list[tuple[int, int, int, int]]:
        place = panorama_height, panorama_width, self.window, self.stride
        found: list[tuple[int, int, int, int]] = super().get_views(*place, circular_padding)
        return found
