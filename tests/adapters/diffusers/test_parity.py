# SPDX-License-Identifier: Apache-2.0
"""One region that is the whole canvas is the plain pipeline, with any scheduler."""

from __future__ import annotations

import types

import diffusers
import numpy as np
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, Region
from pipelines import CASES, array, both, generator

SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "pndm-prk": (diffusers.PNDMScheduler, {"skip_prk_steps": False}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-karras": (diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "kdpm2": (diffusers.KDPM2DiscreteScheduler, {}),
    "kdpm2-ancestral": (diffusers.KDPM2AncestralDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpm++-sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++-single": (diffusers.DPMSolverSinglestepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "sa": (diffusers.SASolverScheduler, {}),
    "ipndm": (diffusers.IPNDMScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
    "tcd": (diffusers.TCDScheduler, {}),
    "edm-euler": (diffusers.EDMEulerScheduler, {}),
}


def with_scheduler(pipe, name):
    kind, options = SCHEDULERS[name]
    pipe.scheduler = kind.from_config(tiny.ddim().config, **options)
    return pipe


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_one_region_is_the_plain_pipeline(name: str, scheduler: str) -> None:
    case = CASES[name]
    pipe = with_scheduler(case.build(), scheduler)
    call = {"num_inference_steps": 4, "output_type": "latent"}
    theirs, ours = both(case, pipe, **case.plain, **call, max_batch=1)
    assert np.isfinite(ours).all()
    np.testing.assert_array_equal(ours, theirs)
    theirs, ours = both(case, pipe, **case.guided, **call)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()), rtol=0)


IMAGES = pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
CALLS = {
    "negative prompt": {"negative_prompt": "a dog"},
    "empty negative prompt": {"negative_prompt": ""},
    "two prompts": {"prompt": ["a cat", "the sea"], "negative_prompt": ["a dog", "land"]},
    "images per prompt": {"prompt": ["a cat", "the sea"], "num_images_per_prompt": 2},
    "rescaled": {"guidance_rescale": 0.7},
    "no guidance": {"guidance_scale": 0.0, "negative_prompt": "a dog"},
    "eta": {"eta": 0.7},
    "own timesteps": {"timesteps": [900, 500, 100], "scheduler": "euler"},
    "own sigmas": {"sigmas": [9.0, 3.0, 0.5], "scheduler": "euler"},
}


@IMAGES
@pytest.mark.parametrize("call", list(CALLS))
def test_arguments_mean_what_they_mean_in_diffusers(name: str, call: str) -> None:
    case, told = CASES[name], dict(CALLS[call])
    pipe = with_scheduler(case.build(), told.pop("scheduler", "ddim"))
    prompt = told.pop("prompt", "a cat")
    theirs, ours = both(case, pipe, prompt, **{**case.guided, **told})
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    assert ours.std() > 0.01
    plain = both(case, pipe, "a cat", **case.guided)[0]
    same = call == "empty negative prompt" and name == "stable_diffusion"
    assert same or plain.shape != ours.shape or np.abs(plain - ours).max() > 1e-4


@IMAGES
def test_embeddings_and_latents_from_outside(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    names = [
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ]
    encoded = pipe.encode_prompt(
        prompt="a cat",
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt="a dog",
    )
    told = {**dict(zip(names, encoded, strict=False)), **case.guided}
    told["latents"] = torch.randn(1, 4, 8, 8, generator=generator(3))
    theirs, ours = both(case, pipe, None, **told)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    regions = [Region((0, 0, 64, 64), **{name: told[name] for name in names if name in told})]
    call = {"num_inference_steps": 3, "output_type": "np", "latents": told["latents"], **case.guided}
    boxed = array(Composer.from_pipe(pipe)(regions=regions, **case.small, **call), case)
    np.testing.assert_array_equal(boxed, ours)


@IMAGES
def test_one_box_that_is_the_canvas_is_the_plain_pipeline(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    call = {"num_inference_steps": 3, "output_type": "np", **case.small}
    theirs = array(
        pipe("a cat", generator=generator(), negative_prompt="a dog", guidance_scale=4.0, **call), case
    )
    told = {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 4.0}
    for where in ({"box": (0, 0, 64, 64)}, {"mask": np.ones((64, 64))}):
        ours = Composer.from_pipe(pipe)(regions=[Region(**where, **told)], generator=generator(), **call)
        np.testing.assert_allclose(array(ours, case), theirs, atol=1e-5, rtol=0)


def test_velocity_prediction() -> None:
    case = CASES["stable_diffusion"]
    theirs, ours = both(case, tiny.stable_diffusion(prediction="v_prediction"), **case.guided)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_micro_conditioning_from_outside() -> None:
    case = CASES["stable_diffusion_xl"]
    pipe = case.build()
    extra = {
        "original_size": (512, 768),
        "crops_coords_top_left": (16, 8),
        "target_size": (256, 128),
        "negative_original_size": (99, 98),
        "negative_crops_coords_top_left": (3, 4),
        "negative_target_size": (97, 96),
    }
    call = {"num_inference_steps": 3, "output_type": "np", **case.small, **case.guided}
    theirs = array(pipe("a cat", generator=generator(), **call, **extra), case)
    ours = array(Composer.from_pipe(pipe)("a cat", generator=generator(), **call, extra=extra), case)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    assert np.abs(ours - both(case, pipe, **case.guided)[1]).max() > 1e-4


@IMAGES
def test_clip_skip(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    call = {"num_inference_steps": 3, "output_type": "np", **case.small, **case.guided}
    told = {"negative_prompt": "a dog", "clip_skip": 1, **call}
    ours = array(Composer.from_pipe(pipe)("a cat", generator=generator(), **told), case)
    # diffusers looks for the encoder's last norm where transformers 5 no longer has it.
    norm = pipe.text_encoder.final_layer_norm
    pipe.text_encoder.text_model = types.SimpleNamespace(final_layer_norm=norm)
    theirs, again = both(case, pipe, **told)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    np.testing.assert_allclose(again, theirs, atol=1e-5, rtol=0)
    assert np.abs(ours - both(case, pipe, negative_prompt="a dog", **call)[1]).max() > 1e-4


def test_what_was_set_on_the_scheduler_counts() -> None:
    case = CASES["stable_diffusion_3"]
    pipe = case.build()
    call = {"num_inference_steps": 3, "output_type": "np", **case.small, **case.plain}
    found = []
    for shift in (3.0, 7.0):
        pipe.scheduler.set_shift(shift)
        found.append(array(pipe("a cat", generator=generator(), **case.extra, **call), case))
        ours = Composer.from_pipe(pipe)("a cat", generator=generator(), extra=case.extra, **call)
        np.testing.assert_allclose(array(ours, case), found[-1], atol=1e-5, rtol=0)
    assert np.abs(found[0] - found[1]).max() > 1e-4
