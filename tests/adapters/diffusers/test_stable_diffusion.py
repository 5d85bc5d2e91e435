# SPDX-License-Identifier: Apache-2.0
"""What Stable Diffusion alone has: guidance that it is told, safety, sizes and crops, static shapes."""

from __future__ import annotations

import threading
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, Region
from intarsia.adapters.diffusers._model import usual_batch
from pipelines import CASES, array, both, compose, generator

SD, XL = CASES["stable_diffusion"], CASES["stable_diffusion_xl"]


def told(pipe: Any, name: str = "unet") -> list[dict[str, Any]]:
    """The arguments of every network call from now on."""
    calls: list[dict[str, Any]] = []
    network = getattr(pipe, name)
    plain = network.forward

    def forward(x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> Any:
        calls.append({"x": x, "t": t, **kwargs})
        return plain(x, t, **kwargs)

    network.forward = forward
    return calls


def distilled() -> Any:
    """A latent consistency model: its network is told the guidance scale."""
    pipe = tiny.stable_diffusion()
    config = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    with tiny.seeded(1):
        pipe.unet = diffusers.UNet2DConditionModel(**{**config, "time_cond_proj_dim": 6}).eval()
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def test_a_network_that_is_told_its_guidance_is_not_guided_besides() -> None:
    pipe = distilled()
    theirs, ours = both(SD, pipe, guidance_scale=8.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours - both(SD, pipe, guidance_scale=2.0)[1]).max() > 1e-5
    calls = told(pipe)
    regions = [Region(SD.boxes[0], guidance_scale=3.0), Region(SD.boxes[1])]
    compose(pipe, SD, regions=regions, guidance_scale=8.0, num_inference_steps=1)
    (call,) = calls
    expected = pipe.get_guidance_scale_embedding(torch.tensor([2.0, 7.0]), 6)
    torch.testing.assert_close(call["timestep_cond"], expected)


class Checker(torch.nn.Module):
    """Finds fault with every second picture, and blackens it."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, images: Any, clip_input: Any) -> tuple[Any, list[bool]]:
        flags = [bool(index % 2) for index in range(len(images))]
        for index, flag in enumerate(flags):
            if flag:
                images[index] = 0
        return images, flags


def test_the_safety_checker_is_asked_as_the_pipeline_would() -> None:
    pipe = SD.build()
    pipe.safety_checker = Checker()
    pipe.feature_extractor = lambda pictures, return_tensors: Pixels(pixel_values=torch.zeros(len(pictures)))
    call = {"num_inference_steps": 2, "output_type": "np", **SD.small}
    theirs = pipe(["a", "b"], generator=generator(), **call)
    ours = Composer.from_pipe(pipe)(["a", "b"], generator=generator(), **call)
    assert ours.nsfw_content_detected == theirs.nsfw_content_detected == [False, True]
    np.testing.assert_allclose(ours.images, theirs.images, atol=1e-5)
    assert Composer.from_pipe(pipe)("a", return_dict=False, **call)[1] == [False]


class Pixels(dict[str, torch.Tensor]):
    """What a feature extractor returns."""

    @property
    def pixel_values(self) -> torch.Tensor:
        return self["pixel_values"]

    def to(self, device: Any) -> Pixels:
        return self


def time_ids(**extra: Any) -> list[list[float]]:
    pipe = XL.build()
    calls = told(pipe)
    regions = [Region((64, 16, 128, 64), prompt="a wood")]
    compose(pipe, XL, regions=regions, extra=extra, num_inference_steps=1, guidance_scale=1.0, max_batch=1)
    return [call["added_cond_kwargs"]["time_ids"][0].tolist() for call in calls]


def test_a_patch_is_told_that_it_is_a_picture_of_its_own_size() -> None:
    small, whole = [48, 64, 0, 0, 48, 64], [64, 64, 0, 0, 64, 64]
    assert time_ids() == [small, whole, whole, whole]


def test_patches_may_be_told_where_they_lie() -> None:
    assert time_ids(place_in_canvas=True) == [
        [64, 128, 16, 64, 48, 64],
        *([64, 128, 0, x, 64, 64] for x in (0, 32, 64)),
    ]
    everywhere = {"original_size": (9, 8), "crops_coords_top_left": (7, 6), "target_size": (5, 4)}
    assert time_ids(**everywhere) == [[9, 8, 7, 6, 5, 4]] * 4


def test_a_region_without_guidance_has_none() -> None:
    pipe = SD.build()
    call = {"patch": 64, "overlap": 0, "output_type": "latent", "window": "uniform"}
    regions = [Region(SD.boxes[0], guidance_scale=0.5), Region(SD.boxes[1], guidance_scale=6.0)]
    mixed = array(compose(pipe, SD, regions=regions, **call), SD)
    for scale, half in ((1.0, np.s_[..., :8]), (6.0, np.s_[..., 8:])):
        alone = array(compose(pipe, SD, guidance_scale=scale, **call), SD)
        np.testing.assert_allclose(mixed[half], alone[half], atol=1e-5)


def test_one_static_shape_for_a_compiled_network() -> None:
    pipe = SD.build()
    calls = told(pipe)
    regions = [Region((x, 0, x + 64, 64), prompt=f"part {x}") for x in range(0, 65, 16)]
    compose(pipe, SD, regions=regions, prompt=None, max_batch=4, pad=True, num_inference_steps=2)
    assert {tuple(call["x"].shape) for call in calls} == {(4, 4, 8, 8)} and len(calls) == 2 * 3
    assert {tuple(call["encoder_hidden_states"].shape) for call in calls} == {(4, 16, 16)}


def test_the_usual_batch_is_smaller_where_patches_are_larger() -> None:
    assert [usual_batch(patch) for patch in ((8, 8), (64, 64), (128, 128), (21, 60, 104))] == [8, 8, 2, 1]


def test_hooks_are_freed_after_every_run() -> None:
    pipe = SD.build()
    freed: list[int] = []
    pipe.maybe_free_model_hooks = lambda: freed.append(1)
    compose(pipe, SD)
    with pytest.raises(ValueError, match="negative_prompt must be one or 1"):
        compose(pipe, SD, negative_prompt=["a", "b"])
    assert len(freed) == 2 and Composer.from_pipe(pipe).family.device == torch.device("cpu")


def test_another_thread_may_interrupt() -> None:
    pipe = SD.build()
    composer = Composer.from_pipe(pipe)
    started, steps = threading.Event(), []

    def look(composer: Composer, step: int, timestep: Any, given: dict[str, Any]) -> None:
        steps.append(step)
        started.set()

    def stop() -> None:
        started.wait(60)
        composer.interrupt()

    other = threading.Thread(target=stop)
    other.start()
    result = composer(
        "a cat", num_inference_steps=900, callback_on_step_end=look, output_type="np", **SD.small
    )
    other.join()
    assert 1 <= len(steps) < 900 and np.isfinite(result.images).all()


def test_other_pipelines_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="pipe must be one of StableDiffusionPipeline, .*, got NoneType"):
        Composer.from_pipe(None)


def test_a_closed_picture_is_closed_after_decoding() -> None:
    pipe = SD.build()
    start = torch.randn(1, 4, 8, 16, generator=generator(5))
    composer = Composer.from_pipe(pipe, vae={"patch": 8, "overlap": 4})

    def picture(latents: torch.Tensor, wrap: bool) -> np.ndarray:
        call = {"num_inference_steps": 2, "output_type": "np", "overlap": 32, **SD.wide}
        return composer("a cat", latents=latents, wrap=wrap, **call).images

    for wrap, equal in ((True, True), (False, False)):
        turned = np.roll(picture(start, wrap), 32, 2)
        assert np.allclose(picture(start.roll(4, -1), wrap), turned, atol=1e-4) is equal


@pytest.mark.parametrize(
    ("build", "dtype"),
    [
        (tiny.stable_diffusion, torch.float16),
        (tiny.stable_diffusion_3, torch.float16),
        (tiny.stable_diffusion_xl, torch.float32),
    ],
)
def test_the_vae_leaves_float16_where_the_pipeline_would_have_it(build: Any, dtype: torch.dtype) -> None:
    pipe, seen = build().to(torch.float16), set()
    pipe.vae.register_to_config(force_upcast=True)
    pipe.vae.decoder.conv_in.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    family = Composer.from_pipe(pipe).family
    family.decode(torch.zeros(1, family.channels, 4, 4), wrap=(False, False), patch=(4, 4))
    assert seen == {dtype} and pipe.vae.dtype == torch.float16
