# SPDX-License-Identifier: Apache-2.0
"""FLUX and Stable Diffusion 3: tokens, positions and the time shift are those of the patch."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, ImageGuide, Region
from intarsia.adapters.diffusers.flux import pack, positions, unpack
from torch import Tensor

WIDE: dict[str, Any] = {"height": 64, "width": 192, "patch": 64, "overlap": 32, "num_inference_steps": 2}


def run(pipe: Any, prompt: str | None = "a red barn", **told: Any) -> Any:
    told = {"extra": {"max_sequence_length": 12}, "output_type": "latent", **told}
    generator = torch.Generator().manual_seed(3)
    return Composer.from_pipe(pipe)(prompt, generator=generator, **told).images


def heard(module: torch.nn.Module) -> list[dict[str, Any]]:
    """The keyword arguments of every call that the module will get."""
    calls: list[dict[str, Any]] = []
    module.register_forward_pre_hook(lambda _, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True)
    return calls


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (2, 8)])
def test_packing_and_positions_are_diffusers_own(size: tuple[int, int]) -> None:
    kind, (height, width) = diffusers.FluxPipeline, size
    x = torch.randn(3, 4, height, width)
    assert torch.equal(pack(x), kind._pack_latents(x, 3, 4, height, width))
    assert torch.equal(unpack(pack(x), size), x)
    ids = kind._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(positions(size, x), ids)


def test_the_network_sees_patches_alone() -> None:
    pipe = tiny.flux()
    calls = heard(pipe.transformer)
    x = run(pipe, regions=[Region((64, 16, 112, 48), prompt="boats")], max_batch=1, **WIDE)
    assert x.shape == (1, 4, 8, 24)
    tokens = {call["hidden_states"].shape[1] for call in calls}
    assert tokens == {16, 6}
    for call in calls:
        rows, columns = (4, 4) if call["hidden_states"].shape[1] == 16 else (2, 3)
        assert call["img_ids"].amax(0).tolist() == [0, rows - 1, columns - 1]
        assert call["img_ids"].shape == (rows * columns, 3)


@pytest.mark.parametrize("build", [tiny.flux, lambda: tiny.stable_diffusion_3(dynamic_shifting=True)])
def test_the_time_shift_is_that_of_the_patch(build: Any) -> None:
    pipe = build()
    seen: list[list[float]] = []

    def note(_: Any, step: int, t: Tensor, held: dict[str, Tensor]) -> dict[str, Tensor]:
        seen[-1].append(float(t))
        return {}

    call = {"num_inference_steps": 4, "callback_on_step_end": note, "output_type": "latent"}
    for width in (64, 192):
        seen.append([])
        pipe("a", height=64, width=width, max_sequence_length=12, **call)
        seen.append([])
        run(pipe, **{**WIDE, **call, "width": width})
    small, ours_small, large, ours_large = seen
    assert small == ours_small == ours_large != large


def test_each_region_is_told_its_own_guidance() -> None:
    pipe = tiny.flux()
    calls = heard(pipe.transformer)
    regions = [Region((0, 0, 64, 64), prompt="boats", guidance_scale=7.0)]
    run(pipe, regions=regions, guidance_scale=2.0, **WIDE)
    told = torch.cat([call["guidance"] for call in calls])
    assert sorted(set(told.tolist())) == [2.0, 7.0]


def test_true_guidance_needs_a_negative_prompt_as_in_diffusers() -> None:
    pipe = tiny.flux()
    calls = heard(pipe.transformer)
    extra = {"max_sequence_length": 12, "true_cfg_scale": 4.0}
    small = {"height": 64, "width": 64, "num_inference_steps": 1, "extra": extra}
    unguided = run(pipe, **small)
    assert [len(call["hidden_states"]) for call in calls] == [1]
    region = Region((0, 0, 64, 64), negative_prompt="fog")
    assert not torch.equal(run(pipe, regions=[region], **small), unguided)
    assert [len(call["hidden_states"]) for call in calls[1:]] == [2]


def test_a_network_without_a_guidance_embedding_is_told_none() -> None:
    pipe = tiny.flux(guidance_embeds=False)
    calls = heard(pipe.transformer)
    small = {"height": 64, "width": 64, "num_inference_steps": 1}
    assert torch.equal(run(pipe, guidance_scale=1.0, **small), run(pipe, guidance_scale=9.0, **small))
    assert {call["guidance"] for call in calls} == {None}


def test_heun_steps_flux_though_its_own_pipeline_cannot() -> None:
    pipe = tiny.flux()
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    with pytest.raises(ValueError, match="sigmas"):
        pipe("a", height=64, width=64, max_sequence_length=12)
    x = run(pipe, **WIDE)
    assert x.isfinite().all() and x.std() > 0


def test_stable_diffusion_3_places_every_patch_in_the_middle() -> None:
    pipe = tiny.stable_diffusion_3()
    network = pipe.transformer
    embedded: list[Tensor] = []
    network.pos_embed.register_forward_hook(lambda _, args, out: embedded.append(out))
    calls = heard(network)
    same = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 1, 3)
    run(pipe, guidance_scale=1.0, latents=same, max_batch=1, **{**WIDE, "overlap": 0})
    first = [out for out, call in zip(embedded, calls, strict=True)][:3]
    assert torch.equal(first[0], first[1]) and torch.equal(first[1], first[2])
    table = network.pos_embed.cropped_pos_embed(8, 8)
    content = network.pos_embed.proj(same[..., :8]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(first[0], content + table)


@pytest.mark.parametrize("build", [tiny.flux, tiny.stable_diffusion_3])
def test_pictures_guide_in_the_vaes_own_scale(build: Any) -> None:
    pipe = build()
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean = pipe.vae.encode(picture * 2 - 1).latent_dist.mode()
    config = pipe.vae.config
    expected = (mean - config.shift_factor) * config.scaling_factor
    encoded = Composer.from_pipe(pipe).family.encode_image(picture * 2 - 1)
    torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=1e-5)
    guide = ImageGuide(picture[0], (0, 0, 64, 64), strength=1.0)
    x = run(pipe, guides=[guide], **WIDE)
    torch.testing.assert_close(x[..., :8], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [tiny.flux, tiny.stable_diffusion_3])
def test_a_closed_canvas_has_no_seam(build: Any) -> None:
    pipe = build()
    noise = torch.randn(1, 4, 8, 24, generator=torch.Generator().manual_seed(5))
    told = {**WIDE, "wrap": True}
    still, turned = run(pipe, latents=noise, **told), run(pipe, latents=noise.roll(4, 3), **told)
    torch.testing.assert_close(turned, still.roll(4, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [tiny.flux, tiny.stable_diffusion_3])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 200}, "width must be a multiple of 16, got 200. The nearest legal values are 192 and 208"),
        ({"patch": 56}, "patch must be a multiple of 16"),
        ({"regions": [Region((0, 0, 40, 64), prompt="a")]}, "box must be a multiple of 16 in its width"),
        ({"regions": [Region((4, 0, 36, 64), prompt="a")]}, "box must be a multiple of 8 where it begins"),
    ],
)
def test_sizes_are_whole_tokens(build: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build(), **{**WIDE, **change})
