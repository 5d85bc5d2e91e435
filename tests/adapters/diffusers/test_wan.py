# SPDX-License-Identifier: Apache-2.0
"""Wan: frames and latents, closed axes, two networks, and a decoder that remembers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, ImageGuide, Region
from intarsia.adapters.diffusers._video import decode_video, memory_of
from torch import Tensor

UNIT = (4, 8, 8)
OPEN = (False, False, False)
CALL: dict[str, Any] = {
    "num_frames": 9,
    "height": 32,
    "width": 64,
    "patch": (9, 32, 32),
    "overlap": (4, 16, 16),
    "num_inference_steps": 2,
}


def run(pipe: Any, **told: Any) -> Tensor:
    told = {**CALL, "extra": {"max_sequence_length": 12}, "output_type": "pt", **told}
    if "latents" not in told:
        told["generator"] = torch.Generator().manual_seed(3)
    frames: Tensor = Composer.from_pipe(pipe)("a red barn", **told).frames
    return frames


def latents(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 4, *size, dtype=dtype, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("frames", "wrap"), [(9, False), (17, False), (8, True), (20, True)])
def test_a_video_has_the_frames_asked_for(frames: int, wrap: bool) -> None:
    video = run(tiny.wan(), num_frames=frames, wrap=(wrap, False, False))
    assert video.shape == (1, frames, 3, 32, 64) and video.isfinite().all()


@pytest.mark.parametrize(
    ("frames", "expected"), [((0, 1), (0, 1)), ((0, 9), (0, 3)), ((1, 9), (1, 3)), ((5, 17), (2, 5))]
)
def test_frames_are_latents(frames: tuple[int, int], expected: tuple[int, int]) -> None:
    family = Composer.from_pipe(tiny.wan()).family
    assert family.spans((8, 0, 40, 32), (5, 4, 8), frames=frames) == (expected, (0, 4), (1, 5))
    assert family.spans(None, (5, 4, 8)) == ((0, 5), (0, 4), (0, 8))


def test_native_sizes_are_the_pipelines_defaults() -> None:
    family = Composer.from_pipe(tiny.wan()).family
    assert family.native == (21, 60, 104) and family.multiple == (4, 16, 16)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_closed_axis_has_no_seam(axis: int) -> None:
    pipe = tiny.wan()
    wrap = tuple(a == axis for a in range(3))
    size = {"num_frames": 16 if axis == 0 else 5, "height": 64 if axis == 1 else 32}
    size["width"] = 64 if axis == 2 else 32
    noise = latents(4 if axis == 0 else 2, size["height"] // 8, size["width"] // 8)
    told = {**size, "patch": (8, 32, 32), "wrap": wrap, "output_type": "latent"}
    turn = 1 if axis == 0 else 2
    still, turned = run(pipe, latents=noise, **told), run(pipe, latents=noise.roll(turn, axis + 2), **told)
    torch.testing.assert_close(turned, still.roll(turn, axis + 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("axis", "patch"), [(0, (4, 4)), (1, (8, 8)), (2, (8, 8))])
def test_a_closed_axis_stays_closed_through_the_decoder(axis: int, patch: tuple[int, ...]) -> None:
    vae = tiny.wan().vae.double()
    z = latents(3, 12 if axis == 1 else 4, 12 if axis == 2 else 4, dtype=torch.float64)
    # Pieces of 8 that overlap by 2 begin every 6; in time any place will do.
    turn = 1 if axis == 0 else 6
    closed = tuple(a == axis for a in range(3))
    told: dict[str, Any] = {"unit": UNIT, "patch": patch, "overlap": (2, 2), "wrap": closed}
    with torch.no_grad():
        still, turned = decode_video(vae, z, **told), decode_video(vae, z.roll(turn, axis + 2), **told)
    torch.testing.assert_close(turned, still.roll(turn * UNIT[axis], axis + 2), rtol=0, atol=1e-12)


def test_a_loop_in_time_is_one_lap_of_an_endless_video() -> None:
    vae = tiny.wan().vae.double()
    z = latents(5, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        loop = decode_video(vae, z, unit=UNIT, patch=(60, 104), overlap=(15, 26), wrap=(True, False, False))
        endless = vae.decode(z.repeat(1, 1, 9, 1, 1)).sample
    lap = endless[:, :, 1 + 4 * (8 * 5 - 1) :]
    torch.testing.assert_close(loop.roll(3, 2), lap, rtol=0, atol=1e-12)
    again = endless[:, :, 4 * 7 * 5 : 4 * 8 * 5]
    torch.testing.assert_close(loop, again, rtol=0, atol=1e-12)


def test_the_decoder_remembers_no_more_than_computed() -> None:
    vae = tiny.wan().vae.double()
    z = latents(40, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        whole = vae.decode(z).sample
        z[:, :, 2] += 1
        last = int((vae.decode(z).sample - whole).abs().amax((0, 1, 3, 4)).nonzero().max())
    assert 2 + memory_of(vae) - 2 <= (last + 3) // 4 <= 2 + memory_of(vae)


def test_pieces_are_closed_and_near_the_whole() -> None:
    vae = tiny.wan().vae
    z = latents(2, 12, 16)
    with torch.no_grad():
        whole = vae.decode(z).sample
        assert torch.equal(decode_video(vae, z, unit=UNIT, patch=(12, 16), overlap=(3, 4), wrap=OPEN), whole)
        pieces = decode_video(vae, z, unit=UNIT, patch=(12, 12), overlap=(3, 3), wrap=OPEN)
    assert pieces.shape == whole.shape
    assert (pieces - whole).square().mean().sqrt() < 0.5 * whole.std()


def test_pieces_of_the_decoder_are_as_large_as_said() -> None:
    pipe = tiny.wan()
    seen: list[tuple[int, ...]] = []
    decode = pipe.vae.decode

    def look(z: Tensor, return_dict: bool = True) -> Any:
        seen.append(tuple(z.shape[3:]))
        return decode(z, return_dict=return_dict)

    pipe.vae.decode = look
    composer = Composer.from_pipe(pipe, vae={"patch": (4, 6), "overlap": 2})
    told = {**CALL, "extra": {"max_sequence_length": 12}, "num_inference_steps": 1}
    video = composer("a red barn", output_type="pt", generator=torch.Generator().manual_seed(3), **told)
    assert video.frames.shape == (1, 9, 3, 32, 64) and seen == [(4, 6)] * 2
    with pytest.raises(
        ValueError, match="vae must hold what this VAE takes, got exact. Known are: patch, over"
    ):
        Composer.from_pipe(pipe, vae={"exact": True})


def test_masks_leave_the_same_part_of_every_frame() -> None:
    family = Composer.from_pipe(tiny.wan()).family
    mask = torch.zeros(32, 64, dtype=torch.float64)
    mask[:, 4:16] = 1
    share = family.share(mask, ((1, 3), (0, 4), (0, 8)), (4, 4, 8))
    assert share.shape == (4, 4, 8)
    assert not share[0].any() and not share[3].any()
    assert share[1, 0].tolist() == [0.5, 1, 0, 0, 0, 0, 0, 0] and torch.equal(share[1], share[2])
    video = run(tiny.wan(), regions=[Region(mask=mask, frames=(1, 9), prompt="a lake")])
    assert video.isfinite().all()


@pytest.mark.parametrize("frames", [1, 5])
def test_a_clip_goes_on_from_its_first_frames(frames: int) -> None:
    pipe = tiny.wan()
    clip = torch.rand(frames, 3, 32, 64, generator=torch.Generator().manual_seed(4))
    video = clip.movedim(0, 1)[None] * 2 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(video).latent_dist.mode()
    scale = pipe.vae.config
    shift, std = (torch.tensor(v).reshape(1, 4, 1, 1, 1) for v in (scale.latents_mean, scale.latents_std))
    image = clip[0] if frames == 1 else clip
    x = run(pipe, guides=[ImageGuide(image, (0, 0, 64, 32), strength=1.0)], output_type="latent")
    first = frames // 4 + 1
    torch.testing.assert_close(x[:, :, :first], (mean - shift) / std, rtol=1e-4, atol=1e-4)
    assert x.shape[2] == 3
    half = torch.ones(32, 64)
    half[:, 32:] = 0
    guide = ImageGuide(image, (0, 0, 64, 32), strength=1.0, mask=half)
    masked = run(pipe, guides=[guide], output_type="latent")
    torch.testing.assert_close(masked[:, :, :first, :, :4], x[:, :, :first, :, :4])
    assert not torch.allclose(masked[:, :, :first, :, 4:], x[:, :, :first, :, 4:], atol=1e-2)


def test_each_network_takes_its_own_noise_levels() -> None:
    pipe, other = tiny.wan(), tiny.wan(seed=1)
    pipe.register_modules(transformer_2=other.transformer)
    pipe.register_to_config(boundary_ratio=0.8)
    small = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 4, "guidance_scale": 1.0}
    expected = pipe(
        "a red barn",
        generator=torch.Generator().manual_seed(3),
        max_sequence_length=12,
        output_type="pt",
        **small,
    ).frames
    actual = run(pipe, max_batch=1, **small)
    assert torch.equal(actual, expected)
    pipe.register_to_config(boundary_ratio=None)
    assert not torch.equal(run(pipe, max_batch=1, **small), expected)


def test_a_network_told_the_time_of_every_token() -> None:
    pipe = tiny.wan()
    pipe.register_to_config(expand_timesteps=True)
    small = {"num_frames": 5, "height": 32, "width": 32, "guidance_scale": 1.0, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(3)
    expected = pipe("a red barn", generator=generator, max_sequence_length=12, output_type="pt", **small)
    assert torch.equal(run(pipe, max_batch=1, **small), expected.frames)


def test_a_network_in_half_precision_may_keep_some_weights_in_float32() -> None:
    pipe = tiny.wan()
    # As from_pretrained(torch_dtype=torch.bfloat16) leaves them.
    for name, weight in pipe.transformer.named_parameters():
        if not any(kept in name for kept in pipe.transformer._keep_in_fp32_modules):
            weight.data = weight.data.bfloat16()
    assert next(pipe.transformer.parameters()).dtype == torch.float32
    small = {"num_frames": 5, "height": 32, "width": 32, "guidance_scale": 1.0, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 2, 4, 4, generator=generator)
    told = {"latents": latents, "output_type": "latent", **small}
    expected = pipe("a red barn", max_sequence_length=12, **told).frames
    # Not to the bit: the pipeline hands its scheduler bfloat16, the composer float32.
    torch.testing.assert_close(run(pipe, max_batch=1, **told), expected, rtol=1e-2, atol=1e-2)


def test_own_noise_levels() -> None:
    family = Composer.from_pipe(tiny.wan()).family
    levels = [1.0, 0.7, 0.2]
    scheduler = family.schedule(9, patch=(1, 4, 4), sigmas=levels)
    # The shift is the configuration's, in time and picture of any size.
    expected = [3 * level / (1 + 2 * level) for level in levels]
    torch.testing.assert_close(scheduler.sigmas[:3], torch.tensor(expected), rtol=0, atol=1e-5)
    assert levels == [1.0, 0.7, 0.2]


def test_memory_of_the_published_decoder() -> None:
    assert memory_of(diffusers.AutoencoderKLWan(base_dim=4)) == 38


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_frames": 10},
            "num_frames must be a multiple of 4 plus 1, got 10. The nearest legal: 9 and 13",
        ),
        (
            {"num_frames": 9, "wrap": (True, False, False)},
            "num_frames must be a multiple of 4 in a loop, got 9. The nearest legal: 8 and 12",
        ),
        ({"num_frames": 0}, "num_frames must be a multiple of 4 plus 1, got 0"),
        ({"width": 72}, "width must be a multiple of 16, got 72. The nearest legal values are 64 and 80"),
        ({"regions": [Region((0, 0, 32, 32), frames=(2, 9))]}, "frames must begin at a multiple of 4 plus 1"),
        (
            {"regions": [Region((0, 0, 32, 32), frames=(1, 8))]},
            "end at a multiple of 4 plus 1, got 8. .*5 and 9",
        ),
        ({"regions": [Region((0, 0, 32, 32), frames=(9, 5))]}, "frames must end after they begin"),
        (
            {"guides": [ImageGuide(torch.zeros(4, 3, 32, 64))]},
            "must have a multiple of 4 plus 1 frames, got 4. The nearest legal: 1 and 5",
        ),
        (
            {"guides": [ImageGuide(torch.zeros(3, 32, 32))]},
            r"image must have the box's size \[32, 64\], got \[32, 32\]",
        ),
        ({"regions": [Region((0, 0, 0, 32, 32, 9))]}, "area|4 numbers"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny.wan(), **change)
