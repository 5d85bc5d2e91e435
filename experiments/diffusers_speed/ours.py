# SPDX-License-Identifier: Apache-2.0
"""Our side: `Composer.from_pipe`, called as a user would."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from intarsia.adapters.diffusers import Composer, Region
from torch import Tensor

from experiments.diffusers_speed.scene import OnStep, Run, Task, scheduler

__all__ = ["mixture", "multidiffusion"]


def _composer(task: Task) -> Composer:
    pipe = diffusers.StableDiffusionPipeline(
        None, None, None, task.unet, scheduler(), None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return Composer.from_pipe(pipe)


def mixture(task: Task, *, batch: int, window: Any = "gaussian") -> Run:
    """Every region with its prompt, `batch` rows in a call of the network; a prompt and its guidance are two.

    Args:
        task: the canvas and its regions.
        batch: most rows of a call.
        window: another one than Mixture of Diffusers', as (patch) -> 1-D factors.
    """
    composer = _composer(task)
    if callable(window):
        given = window

        def window(patch: tuple[int, ...], *, dtype: torch.dtype, device: Any) -> tuple[Tensor, ...]:
            return tuple(factor.to(device, dtype) for factor in given(patch))

    regions = [
        Region(box, prompt_embeds=prompt[None]) for box, prompt in zip(task.boxes, task.prompts, strict=True)
    ]

    def run(steps: int, on_step: OnStep) -> Tensor:
        return _run(
            composer, task, steps, on_step, regions=regions, patch=task.patch, window=window, max_batch=batch
        )

    return run


def multidiffusion(task: Task, *, window: int, stride: int, batch: int) -> Run:
    """One prompt on windows of `window` latents, `stride` apart, with equal weights."""
    composer, shared = _composer(task), 8 * (window - stride)

    def run(steps: int, on_step: OnStep) -> Tensor:
        return _run(
            composer, task, steps, on_step, prompt_embeds=task.prompts[:1], overlap=shared,
            patch=(8 * window, 8 * window), window="uniform", max_batch=batch,
        )  # fmt: skip

    return run


def _run(composer: Composer, task: Task, steps: int, on_step: OnStep, **call: Any) -> Tensor:
    height, width = task.pixels

    def told(composer: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        on_step()
        return {}

    found: Tensor = composer(
        height=height,
        width=width,
        negative_prompt_embeds=task.empty,
        latents=task.noise,
        num_inference_steps=steps,
        guidance_scale=task.scale,
        output_type="latent",
        callback_on_step_end=told,
        progress=False,
        **call,
    ).images
    return found
