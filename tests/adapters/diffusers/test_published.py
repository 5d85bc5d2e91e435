# SPDX-License-Identifier: Apache-2.0
"""Published ways of composing: MultiDiffusion as diffusers has it, Mixture of Diffusers by hand."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import diffusers
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, Region
from pipelines import generator
from torch import Tensor


def panorama(pipe: diffusers.StableDiffusionPipeline, window: int) -> Any:
    """diffusers' pipeline, with windows of less than its 64 latents where that would take long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {**pipe.components, "requires_safety_checker": False}
        theirs = tiny.quiet(diffusers.StableDiffusionPanoramaPipeline(**parts))
    theirs.get_views = partial(theirs.get_views, window_size=window, stride=window // 8)
    return theirs


def canvases(
    height: int, width: int, *, closed: bool = False, window: int = 16, guidance: float = 5.0
) -> tuple[Tensor, Tensor]:
    """The latents of diffusers' panorama pipeline and of ours, in pixels of `height` and `width`."""
    pipe = tiny.stable_diffusion()
    call = {"height": height, "width": width, "guidance_scale": guidance, "output_type": "latent"}
    call["num_inference_steps"] = 2
    theirs = panorama(pipe, window)("a beach", circular_padding=closed, generator=generator(), **call).images
    ours = Composer.from_pipe(pipe)(
        "a beach",
        patch=8 * window,
        overlap=7 * window,
        window="uniform",
        wrap=closed,
        generator=generator(),
        **call,
    ).images
    return theirs, ours


@pytest.mark.parametrize(
    ("height", "width", "closed", "window"),
    [
        (160, 160, False, 16),
        (192, 128, False, 16),
        (128, 192, True, 16),
        (64, 160, True, 8),
        (512, 576, False, 64),
    ],
)
def test_multidiffusion_is_the_panorama_pipeline(height: int, width: int, closed: bool, window: int) -> None:
    guidance = 5.0 if window < 64 else 1.0
    theirs, ours = canvases(height, width, closed=closed, window=window, guidance=guidance)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_columns_that_the_panorama_pipeline_leaves_at_zero_are_covered() -> None:
    theirs, ours = canvases(128, 152)
    assert (theirs[..., 18:] == 0).all() and (theirs[..., :18] != 0).all()
    assert ours.isfinite().all() and (ours != 0).all()
    assert 0.5 < ours[..., 18:].std() / ours[..., :18].std() < 2


def gaussian(cells: int) -> Tensor:
    """The weight of one axis, as the paper has it, in float64."""
    middle = (cells - 1) / 2
    return torch.tensor(
        [math.exp(-(((j - middle) / cells) ** 2) / 0.02) / math.sqrt(0.02 * math.pi) for j in range(cells)],
        dtype=torch.float64,
    )


def algorithm_1(
    pipe: diffusers.StableDiffusionPipeline, regions: list[Region], x: Tensor, steps: int, scale: float
) -> Tensor:
    """Mixture of Diffusers by the letter, region by region, in float64."""
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    abar = scheduler.alphas_cumprod.double()
    for t in scheduler.timesteps.tolist():
        total, weights = torch.zeros_like(x), torch.zeros_like(x)
        for region in regions:
            left, top, right, bottom = (int(value) // 8 for value in region.box)
            part = x[:, :, top:bottom, left:right]
            answers = []
            for text in ("", region.prompt):
                embeds = pipe.encode_prompt([text], "cpu", 1, False)[0]
                answers.append(
                    pipe.unet(part, t, encoder_hidden_states=embeds.double(), return_dict=False)[0]
                )
            null, told = answers
            strength = region.guidance_scale or scale
            guided = null + strength * (told - null)
            w = region.weight * gaussian(bottom - top)[:, None] * gaussian(right - left)
            total[:, :, top:bottom, left:right] += w * guided
            weights[:, :, top:bottom, left:right] += w
        noise = total / weights
        before, after = abar[t], abar[t - 1000 // steps] if t >= 1000 // steps else abar[0]
        clean = (x - (1 - before).sqrt() * noise) / before.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * noise
    return x


def test_mixture_of_diffusers_is_algorithm_1() -> None:
    pipe = tiny.stable_diffusion()
    regions = [
        Region((0, 0, 64, 64), prompt="a house"),
        Region((32, 0, 96, 64), prompt="a field", guidance_scale=3.0),
        Region((64, 0, 128, 64), prompt="a wood", weight=0.25),
        Region((0, 32, 64, 80), prompt="a road"),
        Region((40, 40, 88, 80), prompt="a fence", weight=2.0),
        Region((64, 32, 128, 80), prompt="a lake", guidance_scale=9.0),
        Region((0, 8, 128, 72), prompt="fog", weight=0.5),
    ]
    x = torch.randn(1, 4, 10, 16, generator=generator(7), dtype=torch.float64)
    pipe.unet.double()
    with torch.no_grad():
        expected = algorithm_1(pipe, regions, x, 5, 6.0)
    pipe.unet.float()
    for batch in (1, 3, None):
        ours = Composer.from_pipe(pipe)(
            regions=regions,
            height=80,
            width=128,
            patch=(80, 128),
            latents=x,
            guidance_scale=6.0,
            num_inference_steps=5,
            max_batch=batch,
            output_type="latent",
        ).images
        error = (ours.double() - expected).abs().max() / expected.abs().max()
        assert error < 1e-5
