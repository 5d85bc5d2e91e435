# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.x and 2.x: a convolutional network told one text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from intarsia.adapters.diffusers import vae
from intarsia.adapters.diffusers.family import Family

__all__ = ["StableDiffusion"]


class StableDiffusion(Family):
    """`StableDiffusionPipeline`.

    A model that was distilled to be told its guidance scale (an LCM) is told each region's own, and is not
    guided besides.

    Attributes:
        upcast: whether the VAE leaves float16 as a whole; None: if it asks for it. As in the pipelines of
            diffusers, which ask none but XL's; pieces that overflow are always done again in float32.
    """

    upcast: ClassVar[bool | None] = False

    vae_arguments = tuple(set(inspect.signature(vae.decode).parameters) - {"vae", "latents", "wrap"})

    def __init__(self, pipe: Any) -> None:
        """Read the sizes from the network's and the VAE's configuration."""
        super().__init__(pipe)
        config = pipe.unet.config
        self.network = pipe.unet
        self.unit = (pipe.vae_scale_factor,) * 2
        self.cell = (1, 1)
        self.native = _pair(config.sample_size)
        self.channels = config.in_channels
        self.embeds_guidance = config.time_cond_proj_dim is not None

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """One text, `prompt_embeds` [1, L, D]; no negative prompt is the empty one."""
        skip = None if negative else extra.get("clip_skip")
        if skip and not hasattr(self.pipe.text_encoder, "text_model"):
            return {"prompt_embeds": self._skipping(text or "", skip)}
        embeds, _ = self.pipe.encode_prompt([text or ""], self.device, 1, False, clip_skip=skip)
        return {"prompt_embeds": embeds}

    def _skipping(self, text: str, layers: int) -> Tensor:
        """As the pipeline would encode it, which looks for the last norm where transformers 5 has it not."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        words = self.pipe.maybe_convert_prompt([text], tokenizer)
        length = tokenizer.model_max_length
        told = tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        shown = told.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        states = encoder(
            told.input_ids.to(self.device),
            attention_mask=None if shown is None else shown.to(self.device),
            output_hidden_states=True,
        ).hidden_states
        embeds: Tensor = encoder.final_layer_norm(states[-(layers + 1)])
        return embeds

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """`unet(x, t, encoder_hidden_states)`."""
        output: Tensor = self.network(
            x,
            t,
            encoder_hidden_states=told["prompt_embeds"],
            timestep_cond=self.timestep_cond(x, told),
            return_dict=False,
        )[0]
        return output

    def timestep_cond(self, x: Tensor, told: Mapping[str, Tensor]) -> Tensor | None:
        """The embedded guidance scale [rows, E], where the network is told it."""
        if not self.embeds_guidance:
            return None
        width = self.pipe.unet.config.time_cond_proj_dim
        embedded: Tensor = self.pipe.get_guidance_scale_embedding(told["guidance"].cpu() - 1, width)
        return embedded.to(device=x.device, dtype=x.dtype)

    def unscale(self, latents: Tensor) -> Tensor:
        """From the network's scale to the VAE's own."""
        return latents / self.pipe.vae.config.scaling_factor

    def decode(self, latents: Tensor, *, wrap: tuple[bool, ...], patch: tuple[int, ...]) -> Tensor:
        """[B, 3, H, W], about -1 to 1, float32; whole up to the native size, larger canvases in pieces."""
        return vae.decode(self.pipe.vae, self.unscale(latents), wrap=wrap, **self._pieces())

    def encode_image(self, image: Tensor, *, generator: Any = None) -> Tensor:
        """The mean of the VAE's posterior, or a sample of it where there is a generator."""
        pieces = {**self._pieces(), "sample": generator is not None, "generator": generator}
        latents = vae.encode(self.pipe.vae, image.to(self.device), **pieces)
        return (latents * self.pipe.vae.config.scaling_factor).float()

    def _pieces(self) -> dict[str, Any]:
        """How the VAE is called: what the composer was told, or pieces of the native size."""
        quarter = tuple(length // 4 for length in self.native)
        return {"patch": self.native, "overlap": quarter, "upcast": self.upcast, **self.vae_options}

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """Images, and what the safety checker says of them where there is one."""
        from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

        unsafe = None
        image = latents
        if decoded is not None:
            image, unsafe = self.pipe.run_safety_checker(decoded, self.device, self.dtype)
        shown = [True] * image.shape[0] if unsafe is None else [not flag for flag in unsafe]
        images = self.pipe.image_processor.postprocess(image, output_type=output_type, do_denormalize=shown)
        if not return_dict:
            return images, unsafe
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=unsafe)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width
