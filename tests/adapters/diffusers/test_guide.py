# SPDX-License-Identifier: Apache-2.0
"""Pictures that parts of the canvas follow: outpainting, kept parts, and what is refused."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, ImageGuide, Region
from PIL import Image
from pipelines import CASES, array

CASE = CASES["stable_diffusion"]


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pipeline() -> Any:
    pipe = CASE.build()
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe


def clean(pipe: Any, pixels: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        return (pipe.vae.encode(image).latent_dist.mean * pipe.vae.config.scaling_factor).numpy()


def canvas(pipe: Any, *guides: ImageGuide, prompt: Any = "a cat", **kwargs: Any) -> np.ndarray:
    """A small run; its pictures go through the VAE whole."""
    call = {"num_inference_steps": 3, "seed": 3, **CASE.wide, **CASE.guided, **kwargs}
    composer = Composer.from_pipe(pipe, vae={"patch": 64})
    return array(composer(prompt, guides=guides, output_type="latent", **call), CASE)


def test_outpainting_keeps_the_picture_and_continues_it() -> None:
    pipe = pipeline()
    for given in (
        picture(),
        Image.fromarray(picture()),
        torch.from_numpy(picture()).permute(2, 0, 1),
        picture()[None] / 255,
    ):
        found = canvas(pipe, ImageGuide(given, (32, 0, 96, 64), strength=1.0))
        np.testing.assert_allclose(found[..., 4:12], clean(pipe, picture()), atol=1e-5)
    free = canvas(pipe)
    assert np.isfinite(found).all() and np.abs(found[..., :4] - free[..., :4]).max() > 1e-4


def test_a_guide_acts_for_its_share_of_the_steps() -> None:
    pipe = pipeline()
    target, states = clean(pipe, picture(64, 128)), []

    def look(composer: Composer, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> None:
        states.append(given["latents"].numpy())

    for strength, count in ((0.0, 0), (0.5, 2), (0.75, 3), (1.0, 4)):
        states.clear()
        guide = ImageGuide(picture(64, 128), strength=strength)
        canvas(pipe, guide, num_inference_steps=4, callback_on_step_end=look)
        scheduler = Composer.from_pipe(pipe).family.schedule(4, patch=(8, 8))
        kept = []
        for state, sigma in zip(states, scheduler.sigmas[1:].tolist(), strict=True):
            noise = (state - target) / sigma if sigma else state - target
            kept.append(abs(noise.std() - (1 if sigma else 0)) < 0.05 and abs(noise.mean()) < 0.1)
        assert kept[:count] == [True] * count
        if count < 4:
            first = canvas(pipe, num_inference_steps=4) if not count else states[-1]
            np.testing.assert_array_equal(states[-1], first)
            assert np.abs(states[-1] - target).max() > 0.1


def test_one_part_is_made_anew_and_the_rest_kept() -> None:
    pipe = pipeline()
    before = picture(64, 128)
    keep = np.ones((64, 128))
    keep[:, 64:] = 0
    again = Region((64, 0, 128, 64), prompt="a wood", seed=8)
    found = canvas(pipe, ImageGuide(before, strength=1.0, mask=keep), regions=[again])
    np.testing.assert_allclose(found[..., :8], clean(pipe, before)[..., :8], atol=1e-5)
    other = canvas(
        pipe, ImageGuide(before, strength=1.0, mask=keep), regions=[Region(again.box, prompt="a wood")]
    )
    assert np.abs(found - other)[..., 8:].max() > 1e-2


def test_a_guide_reaches_across_a_closed_seam() -> None:
    pipe = pipeline()
    found = canvas(pipe, ImageGuide(picture(), (96, 0, 160, 64), strength=1.0), wrap=True)
    target = clean(pipe, picture())
    np.testing.assert_allclose(np.concatenate([found[..., 12:], found[..., :4]], -1), target, atol=1e-5)


def test_every_image_of_a_batch_follows() -> None:
    pipe = pipeline()
    guide = ImageGuide(picture(), (0, 0, 64, 64), strength=1.0)
    found = canvas(pipe, guide, prompt=["a cat", "a dog"], seed=[3, 4])
    np.testing.assert_allclose(found[..., :8], np.repeat(clean(pipe, picture()), 2, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"image": picture(56, 64)},
            r"guides\[0\].image must have the box's size .*, got \[56, 64\]",
        ),
        ({"image": picture(), "mask": np.ones((8, 8))}, r"guides\[0\].mask must have the box's size"),
        ({"image": picture() / 100}, r"guides\[0\]: image must lie within 0 and 1"),
        ({"image": picture()[..., 0]}, r"guides\[0\]: image must have three channels, got \[64, 64\]"),
        ({"image": "sea.png"}, r"guides\[0\]: image must be an image, an array or a tensor, got str"),
        ({"image": picture(), "box": (96, 0, 160, 64)}, "box must lie on the canvas"),
        ({"image": picture(), "box": (4, 0, 68, 64)}, "box must be a multiple of 8 where it begins"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canvas(tiny.stable_diffusion(), ImageGuide(**{"box": (0, 0, 64, 64), **given}))


def test_a_strength_is_a_share() -> None:
    with pytest.raises(ValueError, match="strength must be within 0 and 1, got 1.5"):
        ImageGuide(picture(), strength=1.5)
