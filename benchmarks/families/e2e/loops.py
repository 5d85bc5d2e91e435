# SPDX-License-Identifier: Apache-2.0
"""One denoising step as public code takes it, restated operator by operator around diffusers' own scheduler.

`canvas` is the loop of diffusers' community pipeline mixture_canvas, `panorama` that of its
StableDiffusionPanoramaPipeline, `windows` the value/count loop of long audio and motion. They keep what those
keep (weight maps, embeddings) and rebuild what those rebuild (count maps, copies of the scheduler).
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.suite import Call, Missing, Out, Peer

__all__ = ["CANVAS", "LOOP", "canvas", "panorama", "windows"]

CANVAS, LOOP = "mixture_canvas (restated)", "value/count loop"


def scheduler_of(problem: Any) -> Any:
    """Return diffusers' DDIM scheduler with the schedule of Stable Diffusion, 50 steps."""
    try:
        kind = importlib.import_module("diffusers").DDIMScheduler
    except ImportError as reason:
        raise Missing(str(reason)) from reason
    scheduler = kind(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(50, device=problem.device)
    assert int(scheduler.timesteps[problem.index]) == problem.time
    return scheduler


def canvas(problem: Any, out: Out) -> Call:
    """Every region by itself: crop, double, network, guide; then weigh, add and count; then one step."""
    scheduler, net, latents = scheduler_of(problem), problem.net, problem.latents
    t, places, scale = scheduler.timesteps[problem.index], problem.places, problem.scale
    full = problem.weight.double().expand(1, latents.shape[1], *problem.weight.shape).contiguous()
    maps = [full.clone() for _ in places]
    prompts = [{"text": torch.cat([problem.empty_text, text[None]])} for text in problem.text]

    @torch.no_grad()
    def call() -> Tensor:
        answers = []
        for place, prompt in zip(places, prompts, strict=True):
            crop = latents[place]
            rows = scheduler.scale_model_input(torch.cat([crop] * 2), t)
            without, with_ = net(rows, t, prompt).chunk(2)
            answers.append(without + scale * (with_ - without))
        noise = torch.zeros(latents.shape, device=latents.device)
        contributors = torch.zeros(latents.shape, device=latents.device)
        for place, answer, weight in zip(places, answers, maps, strict=True):
            noise[place] += answer * weight
            contributors[place] += weight
        noise /= contributors
        noise = torch.nan_to_num(noise)
        found: Tensor = scheduler.step(noise, t, latents).prev_sample
        return found

    return call


def panorama(batch: int) -> Any:
    """Return the loop that steps every window by itself, `batch` windows at once, with its own scheduler."""

    def build(problem: Any, out: Out) -> Call:
        scheduler, net, latents = scheduler_of(problem), problem.net, problem.latents
        t, scale = scheduler.timesteps[problem.index], problem.scale
        groups = [problem.places[i : i + batch] for i in range(0, len(problem.places), batch)]
        status = [copy.deepcopy(scheduler.__dict__)] * len(groups)
        prompt = torch.cat([problem.empty_text, problem.text[:1]])
        count, value = torch.zeros_like(latents), torch.zeros_like(latents)

        @torch.no_grad()
        def call() -> Tensor:
            count.zero_()
            value.zero_()
            for j, group in enumerate(groups):
                crops = torch.cat([latents[place] for place in group])
                scheduler.__dict__.update(status[j])
                rows = scheduler.scale_model_input(crops.repeat_interleave(2, dim=0), t)
                answer = net(rows, t, {"text": torch.cat([prompt] * len(group))})
                without, with_ = answer[::2], answer[1::2]
                guided = without + scale * (with_ - without)
                stepped = scheduler.step(guided, t, crops).prev_sample
                status[j] = copy.deepcopy(scheduler.__dict__)
                for one, place in zip(stepped.chunk(len(group)), group, strict=True):
                    value[place] += one
                    count[place] += 1
            return torch.where(count > 0, value / count, value)

        return call

    return build


def windows(problem: Any, out: Out) -> Call:
    """One window after the other, weighed and counted; then one DDIM step by its formula."""
    net, latents, weight = problem.net, problem.latents, problem.weight
    a, b = problem.levels
    told = torch.full((1,), problem.time, device=latents.device)

    @torch.no_grad()
    def call() -> Tensor:
        value, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for place in problem.places:
            value[place] += net(latents[place], told) * weight
            count[place] += weight
        noise = value / count
        clean = (latents - (1 - a) ** 0.5 * noise) / a**0.5
        return b**0.5 * clean + (1 - b) ** 0.5 * noise

    return call


PANORAMA = tuple(
    Peer(f"panorama, {batch} at once (restated)", panorama(batch), idiom=batch == 1) for batch in (1, 4, 16)
)
