# SPDX-License-Identifier: Apache-2.0
"""Regions: what they refuse, whose prompts they have, and the noise that they redraw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from intarsia.adapters.diffusers import Composer, Region
from intarsia.adapters.diffusers._noise import initial_noise, reroll
from intarsia.adapters.diffusers._prompts import Prompts, indices
from intarsia.adapters.diffusers.plan import Part
from intarsia.types import PerCanvas
from pipelines import CASES, array, compose, generator

BOX = (0, 0, 64, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "box must be given where there is no mask"),
        ({"box": (0, 0, 64)}, "box must have as many ends as starts"),
        ({"box": (0, 0, 0, 64)}, "box must have an area"),
        ({"box": (0, 0, 64, math.nan)}, "box must hold finite numbers"),
        ({"box": BOX, "weight": -1}, "weight must be finite and not negative, got -1"),
        ({"box": BOX, "weight": math.inf}, "weight must be finite"),
        ({"box": BOX, "guidance_scale": math.nan}, "guidance_scale must be finite"),
        ({"box": BOX, "prompt": ["a"]}, "prompt must be a string or None, got list"),
        ({"box": BOX, "prompt": "a", "prompt_embeds": torch.ones(1, 1, 1)}, "prompt must be None where"),
        ({"box": BOX, "reroll": "half"}, "reroll must be 'whole', 'alone' or a finite number"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Region(**given)


def drawn(**given: Any) -> torch.Tensor:
    call = {"latents": None, "seed": None, "origin": (0, 0), "generator": None, "dtype": torch.float32}
    return initial_noise((2, 4, 8, 12), **{**call, "device": torch.device("cpu"), **given})


def test_a_larger_canvas_keeps_its_noise() -> None:
    call = {"latents": None, "generator": None, "dtype": torch.float32, "device": torch.device("cpu")}
    small = initial_noise((1, 4, 8, 8), seed=5, origin=(0, 0), **call)
    large = initial_noise((1, 4, 12, 16), seed=5, origin=(-2, -4), **call)
    assert torch.equal(large[:, :, 2:10, 4:12], small)
    assert torch.equal(drawn(seed=[5, 6])[:1, :, :, :8], small)


def test_a_generator_draws_as_in_diffusers() -> None:
    assert torch.equal(drawn(generator=generator(1)), torch.randn(2, 4, 8, 12, generator=generator(1)))
    half = drawn(generator=generator(1), dtype=torch.float16)
    assert half.dtype == torch.float32 and not torch.equal(half, drawn(generator=generator(1)))
    each = drawn(generator=(generator(1), generator(2)))
    assert torch.equal(each[1:], torch.randn(1, 4, 8, 12, generator=generator(2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 5}, "seed must be 2 integers, got 1"),
        ({"generator": [generator()]}, "generator must be one or 2, got 1"),
        (
            {"latents": torch.zeros(1, 4, 8, 12)},
            r"latents must have shape \[2, 4, 8, 12\], got \[1",
        ),
    ],
)
def test_noise_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(**given)


def test_a_region_redraws_its_noise() -> None:
    noise = drawn(seed=[1, 2])
    parts = [Part(((0, 8), (0, 6))), Part(((0, 8), (4, 12)))]
    others = [Region(BOX), Region(BOX)]

    def again(**given: Any) -> torch.Tensor:
        return reroll(noise, [others[0], Region(BOX, **given)], parts, origin=(0, 0))

    whole = again(seed=9)
    assert torch.equal(whole[..., :4], noise[..., :4])
    assert torch.equal(whole[..., 4:], drawn(seed=[9, 9])[..., 4:])
    assert torch.equal(again(seed=[9, 1])[1, ..., 4:], drawn(seed=[1, 1])[1, ..., 4:])
    alone = again(seed=9, reroll="alone")
    assert torch.equal(alone[..., :6], noise[..., :6]) and torch.equal(alone[..., 6:], whole[..., 6:])
    parts[0] = Part(parts[0].spans, None, 0.0)  # what is silent reaches nowhere
    assert torch.equal(again(seed=9, reroll="alone"), whole)
    mixed = again(seed=9, reroll=0.5)[..., 4:]
    expected = (noise + 0.5 * drawn(seed=[9, 9]))[..., 4:] / math.sqrt(1.25)
    torch.testing.assert_close(mixed, expected)
    assert torch.equal(again(seed=9, reroll=0.0), noise) and torch.equal(again(), noise)
    with pytest.raises(ValueError, match=r"regions\[1\].seed must be one or 2, got 3 seeds"):
        again(seed=[1, 2, 3])


def test_masks_and_silent_regions_redraw_where_they_are() -> None:
    noise = drawn(seed=[1, 2])
    share = torch.zeros(8, 12, dtype=torch.float64)
    share[2:4, 3:5] = 0.5
    parts = [Part(((0, 8), (0, 12)), share, 0.0)]
    fresh = reroll(noise, [Region(BOX, seed=3, weight=0.0)], parts, origin=(0, 0))
    assert ((fresh != noise) == (share > 0)).all()


def test_a_region_without_weight_only_redraws() -> None:
    case = CASES["stable_diffusion"]
    pipe = case.build()
    plain = array(compose(pipe, case, seed=4, output_type="latent"), case)
    silent = [Region((0, 0, 64, 64), prompt="never encoded", weight=0, seed=6)]
    fresh = array(compose(pipe, case, seed=4, regions=silent, output_type="latent"), case)
    assert np.abs(fresh - plain)[..., :8].max() > 1e-2
    again = array(compose(pipe, case, seed=4, regions=silent, output_type="latent"), case)
    np.testing.assert_array_equal(fresh, again)


def test_the_same_part_of_a_larger_picture_stays() -> None:
    case = CASES["stable_diffusion"]
    pipe = case.build()
    call = {"patch": 64, "overlap": 0, "output_type": "latent", "seed": 4}
    small = array(compose(pipe, case, **{**call, "width": 128}), case)
    large = array(compose(pipe, case, **{**call, "width": 192}, origin=(-64, 0)), case)
    np.testing.assert_allclose(large[..., 8:], small, atol=1e-5)


def table(guided: bool = True) -> Prompts:
    return Prompts(Composer.from_pipe(CASES["stable_diffusion"].build()).family, {}, guided)


def test_every_text_is_encoded_once() -> None:
    prompts = table()
    call = prompts.call(["a", "b", "a"], None, {})
    assert call == [(0, 2), (1, 2), (0, 2)]
    regions = [Region(BOX, prompt="b"), Region(BOX, prompt="c", negative_prompt="a"), Region(BOX)]
    pairs = [prompts.region(number, region, call) for number, region in enumerate(regions)]
    assert pairs[0] == [(1, 2)] and pairs[1] == [(3, 4)] and pairs[2] == call
    assert {name: len(rows) for name, rows in prompts.tables(torch.device("cpu")).items()} == {
        "prompt_embeds": 5
    }
    rows = indices(pairs, torch.tensor([0, 1, -1, 2]), call, 6)
    assert isinstance(rows, PerCanvas) and rows.value.shape == (6, 4, 2)
    assert rows.value[:, 2, 0].tolist() == [0, 0, 1, 1, 0, 0]
    assert indices(pairs[:2], torch.tensor([1, 0]), None, 1).tolist() == [[3, 4], [1, 2]]


def test_unguided_runs_encode_no_negative_prompt() -> None:
    prompts = table(guided=False)
    call = prompts.call("a", "never", {})
    assert call == [(0, -1)] and prompts.region(0, Region(BOX, negative_prompt="nor this"), call) == [(0, -1)]
    assert len(prompts.rows) == 1


@pytest.mark.parametrize(
    ("prompt", "call", "message"),
    [
        (
            None,
            {"regions": [Region((0, 0, 128, 64))]},
            r"regions\[0\].prompt must be given where prompt is None",
        ),
        (["a", "b"], {"negative_prompt": ["c"] * 3}, "negative_prompt must be one or 2, got 3"),
        (["a", 3], {}, "prompt must be a string or a list of them"),
        ("a", {"prompt_embeds": torch.zeros(1, 16, 16)}, "prompt must be None where prompt_embeds are given"),
        ("a", {"seed": 1, "generator": generator()}, "generator must be None where there is a seed"),
        ("a", {"origin": (8, 8)}, "origin must be None where there is no seed"),
        ("a", {"seed": 1, "origin": (4, 8)}, "origin must be a multiple of 8, got 4"),
        (
            "a",
            {"extra": {"original_size": (1, 1)}},
            "extra must hold arguments of StableDiffusionPipeline alone",
        ),
        (
            "a",
            {"guidance_rescale": 0.5, "regions": [Region(BOX, guidance_scale=2.0)]},
            "guidance_rescale must be 0",
        ),
        (None, {"negative_prompt": "b"}, "regions must cover the whole canvas where prompt is None"),
        ("a", {"timesteps": [5], "sigmas": [1.0]}, "timesteps must be None where sigmas are given"),
        ("a", {"sigmas": [1.0]}, "sigmas must be None for DDIMScheduler"),
        (
            "a",
            {"regions": [Region(BOX, prompt_embeds=torch.zeros(1, 9, 16))]},
            "prompt_embeds must have one shape",
        ),
    ],
)
def test_calls_that_do_not_fit_are_refused(prompt: Any, call: dict[str, Any], message: str) -> None:
    case = CASES["stable_diffusion"]
    with pytest.raises(ValueError, match=message):
        compose(case.build(), case, prompt, **call)


def test_pooled_embeddings_belong_to_the_others() -> None:
    case = CASES["stable_diffusion_xl"]
    embeds = torch.zeros(1, 16, 32)
    with pytest.raises(ValueError, match="pooled_prompt_embeds must be given, too, got only prompt_embeds"):
        compose(case.build(), case, None, prompt_embeds=embeds)
