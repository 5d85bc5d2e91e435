# SPDX-License-Identifier: Apache-2.0
"""Stable Audio: seconds, loops, and a decoder that takes a long sound in stretches."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny
import torch
from intarsia.adapters.diffusers import Composer, ImageGuide, Region
from intarsia.adapters.diffusers._stretches import in_stretches, reach
from intarsia.types import NonFiniteError
from torch import Tensor

LATENT = 16 / 400  # seconds of one latent


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def run(pipe: Any, prompt: str | None = "rain on a roof", **told: Any) -> Tensor:
    told = {"num_inference_steps": 2, **told}
    if "latents" not in told:
        told["generator"] = seeded()
    sound: Tensor = Composer.from_pipe(pipe)(prompt, **told).audios
    return sound


def times(pipe: Any) -> list[tuple[float, float]]:
    """What the network will be told of time: (seconds_start, seconds_total) of every row."""
    told: list[tuple[float, float]] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if "start_seconds" in kwargs:
            pairs = zip(kwargs["start_seconds"].tolist(), kwargs["end_seconds"].tolist(), strict=True)
            told.extend((round(first, 4), round(last, 4)) for first, last in pairs)

    pipe.projection_model.register_forward_pre_hook(note, with_kwargs=True)
    return told


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.28, 3.0, 3.33])
def test_a_sound_has_the_length_asked_for(seconds: float) -> None:
    sound = run(tiny.stable_audio(), audio_end_in_s=seconds)
    assert sound.shape == (1, 2, int(seconds * 400)) and sound.isfinite().all()


def test_the_start_is_cut_off_as_in_diffusers() -> None:
    pipe = tiny.stable_audio()
    call = {"audio_end_in_s": 1.0, "num_inference_steps": 2, "guidance_scale": 1.0}
    expected = pipe("rain", audio_start_in_s=0.25, generator=torch.Generator().manual_seed(3), **call).audios
    actual = run(pipe, "rain", extra={"audio_start_in_s": 0.25}, max_batch=1, **call)
    assert actual.shape[2] == 300 and torch.equal(actual, expected)


def test_patches_know_where_in_the_piece_they_begin() -> None:
    pipe = tiny.stable_audio()
    told = times(pipe)
    run(pipe, audio_end_in_s=2.56, overlap=0.64, num_inference_steps=1, guidance_scale=1.0)
    assert told == [(0.0, 2.56), (0.64, 2.56), (1.28, 2.56)]


def test_patches_of_a_loop_lie_in_the_middle_and_all_alike() -> None:
    pipe = tiny.stable_audio()
    told = times(pipe)
    run(pipe, audio_end_in_s=2.56, wrap=True, num_inference_steps=1, guidance_scale=1.0)
    assert told == [(1.28, 3.84)] * 4


@pytest.mark.parametrize("seconds", [2.56, 0.64])
def test_a_loop_has_no_seam(seconds: float) -> None:
    pipe = tiny.stable_audio()
    latents = round(seconds / LATENT)
    noise = torch.randn(1, 4, latents, generator=torch.Generator().manual_seed(5))
    told = {"audio_end_in_s": seconds, "wrap": True}
    turn = min(16, latents // 2)
    still, turned = run(pipe, latents=noise, **told), run(pipe, latents=noise.roll(turn, 2), **told)
    assert still.shape == (1, 2, latents * 16)
    torch.testing.assert_close(turned, still.roll(turn * 16, 2), rtol=1e-4, atol=1e-5)
    opened = run(pipe, latents=noise, audio_end_in_s=seconds) if seconds > 1.28 else None
    assert opened is None or not torch.allclose(opened, still, atol=1e-3)


def test_a_loop_is_rounded_to_whole_latents_and_never_cut() -> None:
    pipe = tiny.stable_audio()
    assert run(pipe, audio_end_in_s=2.57, wrap=True).shape[2] == 1024
    assert run(pipe, audio_end_in_s=2.59, wrap=True).shape[2] == 1040


def test_regions_take_every_latent_they_touch() -> None:
    family = Composer.from_pipe(tiny.stable_audio()).family
    assert family.spans((0.0, 1.0), (64,)) == ((0, 25),)
    assert family.spans((1.0, 2.02), (64,)) == ((25, 51),)
    assert family.spans((0.39, 0.41), (64,)) == ((9, 11),)
    assert family.describe((25,)) == "1.00 s"
    sound = run(tiny.stable_audio(), regions=[Region((0.5, 1.5), prompt="thunder")], audio_end_in_s=2.56)
    silent = run(tiny.stable_audio(), audio_end_in_s=2.56)
    assert not torch.allclose(sound, silent, atol=1e-4)


def test_masks_count_samples_and_may_end_within_a_latent() -> None:
    family = Composer.from_pipe(tiny.stable_audio()).family
    mask = torch.zeros(1000, dtype=torch.float64)
    mask[8:16], mask[990:] = 1, 1
    share = family.share(mask, ((0, 64),), (64,))
    assert share.shape == (64,) and share[0] == 0.5 and not share[1:61].any()
    assert share[61] == 0.125 and (share[62:] == 1).all()
    boxed = family.share(torch.ones(100, dtype=torch.float64), ((10, 17),), (64,))
    assert boxed.nonzero().flatten().tolist() == list(range(10, 17)) and boxed.max() == 1
    with pytest.raises(ValueError, match="mask must have the canvas's size"):
        family.share(torch.ones(50, dtype=torch.float64), ((10, 17),), (64,))
    half = torch.zeros(1000)
    half[:500] = 1
    told = {"audio_end_in_s": 2.5, "num_inference_steps": 1}
    sound = run(tiny.stable_audio(), regions=[Region(mask=half, prompt="thunder")], **told)
    assert sound.shape[2] == 1000 and not torch.equal(sound, run(tiny.stable_audio(), **told))


def test_embeddings_from_outside() -> None:
    pipe = tiny.stable_audio()
    embeds = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(1))
    other = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(2))
    told: dict[str, Any] = {"prompt_embeds": embeds, "negative_prompt_embeds": other}
    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    expected = pipe(None, generator=torch.Generator().manual_seed(3), **told, **call).audios
    torch.testing.assert_close(run(pipe, None, **told, **call), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratios", [[2, 2, 4], [2, 4, 4], [4, 2]])
def test_the_decoder_reaches_no_further_than_computed(ratios: list[int]) -> None:
    with tiny.seeded(1):
        vae = diffusers.AutoencoderOobleck(
            encoder_hidden_size=4,
            downsampling_ratios=ratios,
            channel_multiples=[1] * len(ratios),
            decoder_channels=4,
            decoder_input_channels=2,
        ).double()
    z = torch.randn(1, 2, 120, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = vae.decode(z).sample
        z[:, :, 60] += 10
        moved = (vae.decode(z).sample - whole).abs().amax((0, 1)).reshape(120, -1).amax(1).nonzero()
    assert 60 - reach(vae) <= int(moved.min()) and int(moved.max()) <= 60 + reach(vae)
    assert int(moved.max()) >= 60 + reach(vae) - 2


@pytest.mark.parametrize("stretch", [7, 32, 100])
def test_stretches_are_the_whole_and_never_longer_than_said(stretch: int) -> None:
    vae = tiny.stable_audio().vae.double()
    z = torch.randn(2, 4, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []

    def decode(part: Tensor) -> Tensor:
        seen.append(part.shape[2])
        sound: Tensor = vae.decode(part).sample
        return sound

    with torch.no_grad():
        whole = vae.decode(z).sample
        parts = in_stretches(decode, z, stretch=stretch, context=reach(vae), wrap=False)
        assert max(seen) <= stretch + 2 * reach(vae)
        torch.testing.assert_close(parts, whole)
        ring = in_stretches(decode, z, stretch=stretch, context=reach(vae), wrap=True)
        laps = vae.decode(z.repeat(1, 1, 3)).sample[:, :, 1600:3200]
        torch.testing.assert_close(ring, laps)


def test_the_length_of_a_stretch_makes_no_difference() -> None:
    pipe = tiny.stable_audio()
    told = {"audio_end_in_s": 3.0, "num_inference_steps": 1}
    short = Composer.from_pipe(pipe, vae={"patch": 9})("rain", **told, generator=seeded())
    torch.testing.assert_close(short.audios, run(pipe, "rain", **told))


def test_a_stretch_that_overflows_is_decoded_again_in_float32() -> None:
    pipe = tiny.stable_audio()
    composer = Composer.from_pipe(pipe, vae={"patch": 20})
    latents = torch.randn(1, 4, 64, generator=seeded())
    with torch.no_grad():
        expected = composer.family.decode(latents, wrap=(False,), patch=(32,))
    pipe.vae.to(torch.bfloat16)
    weights = {name: weight.data_ptr() for name, weight in pipe.vae.named_parameters()}
    calls: list[torch.dtype] = []

    def overflow(_: Any, args: Any, sound: Tensor) -> Tensor:
        calls.append(sound.dtype)
        return sound / 0 if len(calls) == 2 else sound

    hook = pipe.vae.decoder.register_forward_hook(overflow)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="decode: piece 1 came out with NaN"):
        sound = composer.family.decode(latents, wrap=(False,), patch=(32,))
    assert calls == [torch.bfloat16, torch.bfloat16, torch.float32, *[torch.bfloat16] * 2]
    assert weights == {name: weight.data_ptr() for name, weight in pipe.vae.named_parameters()}
    assert (sound - expected).abs().max() < 0.1 * expected.abs().max()
    hook.remove()
    latents[0, 0, 30] = float("nan")
    with torch.no_grad(), pytest.raises(NonFiniteError, match="in piece 0, from input that already had some"):
        composer.family.decode(latents, wrap=(False,), patch=(32,))


def test_a_recording_goes_on() -> None:
    pipe = tiny.stable_audio()
    recording = torch.rand(2, 420, generator=torch.Generator().manual_seed(4)) - 0.5
    with torch.no_grad():
        clean = pipe.vae.encode(recording[None, :, :416]).latent_dist.mode()
    guide = ImageGuide(recording, (0.0, 2.0), strength=1.0)
    told = {"num_inference_steps": 2, "output_type": "latent", "audio_end_in_s": 2.56, "guides": [guide]}
    x = run(pipe, **told)
    torch.testing.assert_close(x[:, :, :26], clean)
    assert x.shape == (1, 4, 64) and x[:, :, 26:].std() > 0
    later = ImageGuide(recording[:1], (0.5, 1.5), strength=1.0)
    x = run(pipe, **{**told, "guides": [later]})
    with torch.no_grad():
        clean = pipe.vae.encode(recording[None, :1, 8:392].expand(1, 2, -1)).latent_dist.mode()
    torch.testing.assert_close(x[:, :, 13:37], clean)


def test_a_long_recording_is_encoded_in_stretches() -> None:
    pipe = tiny.stable_audio()
    pipe.vae.double()
    sound = torch.rand(1, 2, 100 * 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    seen: list[int] = []
    pipe.vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    with torch.no_grad():
        whole = pipe.vae.encode(sound).latent_dist.mode()
        parts = Composer.from_pipe(pipe).family.encode_image(sound)
    assert max(seen[1:]) <= (32 + 2 * reach(pipe.vae)) * 16 < seen[0]
    torch.testing.assert_close(parts, whole.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_end_in_s": -1.0}, "audio_end_in_s must be finite and above 0, got -1.0"),
        ({"audio_end_in_s": float("nan")}, "audio_end_in_s must be finite"),
        ({"height": 64}, "height must be None for StableAudioPipeline"),
        ({"regions": [Region((0, 0, 1, 1), prompt="a")]}, "box must have 2 numbers, got 4"),
        (
            {"guides": [ImageGuide(torch.zeros(3, 400), (0, 1))]},
            r"image must be a sound of 2 channels, got \[1, 3, 400\]. Resample it to 400 Hz",
        ),
        ({"guides": [ImageGuide(torch.zeros(2, 9), (0, 1))]}, "image must fill one latent"),
        (
            {"audio_end_in_s": 2.56, "regions": [Region((2.0, 3.0), prompt="a")]},
            "must lie on the canvas, got 2.00 s to 3.00 s. The canvas ends at 2.56 s",
        ),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny.stable_audio(), **change)
