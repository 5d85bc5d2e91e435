# SPDX-License-Identifier: Apache-2.0
"""Stable Audio Open: sound of any length, told where in the piece each patch begins and how long it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from intarsia.adapters.diffusers._finite import Finite
from intarsia.adapters.diffusers._stretches import in_stretches, reach
from intarsia.adapters.diffusers.family import Family
from intarsia.layout._check import fail
from intarsia.layout.regions import Box

__all__ = ["StableAudio"]


class StableAudio(Family):
    """`StableAudioPipeline`: latents [B, C, L], sound [B, channels, samples].

    The user's unit is the second: `audio_end_in_s` is the length of the canvas, a region's box is (start,
    stop) in seconds and takes every latent that it touches, `overlap` is rounded to whole latents. Any number
    is legal. What is shorter than the network's native length is denoised at that length and cut, as the
    pipeline does; what is longer is covered by patches.

    The network is told where a patch begins and how long the whole piece is, as for the crops that it was
    trained on: `seconds_start` is where the patch begins, `seconds_total` is `audio_end_in_s`. A loop has
    neither beginning nor end: all of its patches are told that they lie in the middle of a piece three times
    their length, and its length is rounded to whole latents and never cut.
    """

    axes: ClassVar[tuple[str, ...]] = ("audio_end_in_s",)
    tables: ClassVar[tuple[str, ...]] = ("prompt_embeds", "attention_mask")
    vae_arguments = ("patch",)
    extras: ClassVar[Mapping[str, Any]] = {"audio_start_in_s": 0.0}

    def __init__(self, pipe: Any) -> None:
        """Read the sizes from the transformer's and the VAE's configuration."""
        super().__init__(pipe)
        self.network = pipe.transformer
        self.unit = (pipe.vae.hop_length,)
        self.cell = (1,)
        self.native = (pipe.transformer.config.sample_size,)
        self.channels = pipe.transformer.config.in_channels
        self.seconds = pipe.vae.hop_length / pipe.vae.config.sampling_rate
        self._rotary: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def latent_size(
        self, lengths: Mapping[str, float | None], *, wrap: Sequence[bool] = ()
    ) -> tuple[int, ...]:
        """The canvas in latents: at least the native length, but for a loop."""
        end = lengths["audio_end_in_s"]
        if end is None:
            return self.native
        if not (math.isfinite(end) and end > 0):
            remedy = "It is the length of the sound in seconds."
            fail("Composer", "audio_end_in_s", "be finite and above 0", end, remedy)
        if any(wrap):
            return (max(1, round(end / self.seconds)),)
        return (max(self.native[0], self.latents_of(0, end, "size")),)

    def latents_of(self, axis: int, pixels: float, what: str) -> int:
        """Count the latents of so many seconds: starts down, ends up, overlaps to the nearest."""
        count = round(pixels / self.seconds, 6)
        if what in ("start", "origin"):
            return math.floor(count)
        return round(count) if what == "overlap" else math.ceil(count)

    def picture(
        self, where: str, image: Any, box: Sequence[float] | None, size: Sequence[int]
    ) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
        """A guide's sound [B, channels, samples] cut to the whole latents that it fills, and their place."""
        config, unit = self.pipe.vae.config, self.unit[0]
        sound = torch.as_tensor(image).float()
        sound = sound[None] if sound.ndim == 2 else sound
        if sound.ndim != 3 or sound.shape[1] not in (1, config.audio_channels):
            remedy = f"Resample it to {config.sampling_rate} Hz and pass [channels, samples]."
            fail(where, "image", f"be a sound of {config.audio_channels} channels", list(sound.shape), remedy)
        start, stop = box or (0.0, size[0] * self.seconds)
        begin, rate = round(start * config.sampling_rate), config.sampling_rate
        end = begin + min(sound.shape[2], round((stop - start) * rate))
        first, last = -(-begin // unit), end // unit
        if first >= last:
            remedy = "The network cannot be told of less."
            fail(
                where, "image", f"fill one latent ({unit} samples) or more", f"{end - begin} samples", remedy
            )
        sound = sound[:, :, first * unit - begin : last * unit - begin]
        return sound.expand(-1, config.audio_channels, -1), ((first, last),)

    def describe(self, place: Sequence[int]) -> str:
        """A place of the canvas in seconds."""
        return f"{place[0] * self.seconds:.2f} s"

    def span(self, axis: int, start: float, stop: float) -> tuple[int, int]:
        """All latents that lie between two times, also in part."""
        return self.latents_of(axis, start, "start"), self.latents_of(axis, stop, "stop")

    def share(self, mask: Tensor, spans: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
        """As for pictures; a mask [samples] that ends within its last latents goes on as it ends."""
        length = (spans[0][1] - spans[0][0]) * self.unit[0]
        missing = length - mask.shape[-1]
        # What is shorter than the network's native length is cut again where the mask ends.
        if 0 < missing and (missing < 2 * self.unit[0] or spans[0] == (0, size[0])):
            mask = torch.cat([mask, mask[..., -1:].expand(*mask.shape[:-1], missing)], dim=-1)
        return super().share(mask, spans, size)

    def given(self, embeds: Mapping[str, Tensor | None], *, prefix: str) -> dict[str, Tensor] | None:
        """What the user has encoded; without a mask, all of it counts."""
        own = embeds.get(f"{prefix}prompt_embeds")
        if own is None:
            return None
        mask = embeds.get(f"{prefix}attention_mask")
        if mask is None:
            mask = torch.ones(own.shape[:2], dtype=torch.int64, device=own.device)
        own = self._project(own.to(self.device), mask.to(self.device))
        return super().given({f"{prefix}prompt_embeds": own, f"{prefix}attention_mask": mask}, prefix=prefix)

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """Projected `prompt_embeds` [1, L, D] and `attention_mask` [1, L]; no negative prompt has none."""
        tokenizer = self.pipe.tokenizer
        tokens = tokenizer(
            [text or ""],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        mask = tokens.attention_mask
        embeds = self.pipe.text_encoder(tokens.input_ids, attention_mask=mask)[0]
        mask = mask * 0 if negative and text is None else mask
        return {"prompt_embeds": self._project(embeds, mask), "attention_mask": mask}

    def _project(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """T5's tokens [1, L, E] as the network wants them, [1, L, D]; those without a mask are zeros."""
        text: Tensor = self.pipe.projection_model(text_hidden_states=embeds).text_hidden_states
        return text * mask[..., None].to(text)

    def geometry(
        self, boxes: Sequence[Box], size: tuple[int, ...], *, extra: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Where each patch begins in the piece and how long that is, as the network is told, [R, 1, D]."""
        start = float(extra["audio_start_in_s"])
        end = extra["audio_end_in_s"]
        total = size[0] * self.seconds if end is None else float(end)
        if any(extra["wrap"]):
            own = [extent[0] * self.seconds for _, extent in boxes]
            begins, totals = own, [3 * length for length in own]
        else:
            begins, totals = [start + at[0] * self.seconds for at, _ in boxes], [total] * len(boxes)
        # Once per run: an offloaded projection would otherwise travel in every step.
        told = self.pipe.projection_model(
            start_seconds=torch.tensor(begins, device=self.device),
            end_seconds=torch.tensor(totals, device=self.device),
        )
        return {
            "seconds_start": told.seconds_start_hidden_states.cpu(),
            "seconds_total": told.seconds_end_hidden_states.cpu(),
        }

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """The network's output [rows, C, l] at `x` [rows, C, l]."""
        first, last = told["seconds_start"], told["seconds_total"]
        # No prompt at all is told no times either, but for the global ones.
        shown = told["attention_mask"].any(1)[:, None, None].to(first)
        output: Tensor = self.network(
            x,
            t,
            encoder_hidden_states=torch.cat([told["prompt_embeds"], first * shown, last * shown], dim=1),
            global_hidden_states=torch.cat([first, last], dim=2),
            rotary_embedding=self._positions(x),
            return_dict=False,
        )[0]
        return output

    def _positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary table of a patch [rows, C, l] and the one token before it."""
        key = x.shape[2], x.device
        if key not in self._rotary:
            from diffusers.models.embeddings import get_1d_rotary_pos_embed

            cos, sin = get_1d_rotary_pos_embed(
                self.pipe.rotary_embed_dim, key[0] + 1, use_real=True, repeat_interleave_real=False
            )
            self._rotary[key] = cos.to(x.device), sin.to(x.device)
        return self._rotary[key]

    def decode(self, latents: Tensor, *, wrap: tuple[bool, ...], patch: tuple[int, ...]) -> Tensor:
        """[B, channels, samples], in stretches of the native length; exactly what the whole would give."""
        vae = self.pipe.vae
        decode = Finite("decode", vae, lambda z: vae.decode(z).sample)
        sound = in_stretches(
            decode,
            latents.to(vae.dtype),
            stretch=self.vae_options.get("patch", max(patch[0], self.native[0])),
            context=reach(vae),
            wrap=wrap[0],
        )
        decode.report()
        return sound

    def encode_image(self, image: Tensor, *, generator: Any = None) -> Tensor:
        """Turn a sound [B, channels, samples] into clean latents [B, C, l]: their mean, in stretches.

        With a generator they are a sample of the whole.
        """
        vae = self.pipe.vae
        sound = image.to(device=self.device, dtype=vae.dtype)
        if generator is not None:
            drawn: Tensor = vae.encode(sound).latent_dist.sample(generator)
            return drawn.float()
        return in_stretches(
            lambda part: vae.encode(part).latent_dist.mode(),
            sound,
            given=self.unit[0],
            stretch=self.vae_options.get("patch", self.native[0]),
            context=reach(vae),
            wrap=False,
        ).float()

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """`AudioPipelineOutput`, or a tuple of the sounds: "pt" [B, channels, samples], or "np"."""
        from diffusers.pipelines.pipeline_utils import AudioPipelineOutput

        audio: Any = latents
        if decoded is not None:
            rate, end = self.pipe.vae.config.sampling_rate, extra["audio_end_in_s"]
            cut = slice(None)
            if not any(extra["wrap"]):
                cut = slice(int(extra["audio_start_in_s"] * rate), None if end is None else int(end * rate))
            audio = decoded[:, :, cut]
            if output_type == "np":
                audio = audio.cpu().float().numpy()
        return AudioPipelineOutput(audios=audio) if return_dict else (audio,)
