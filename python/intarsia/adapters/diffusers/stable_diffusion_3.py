# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 3 and 3.5: a flow transformer with a learned embedding of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from intarsia.adapters.diffusers._flow import FlowImage
from intarsia.adapters.diffusers.timesteps import with_timesteps

__all__ = ["StableDiffusion3"]


class StableDiffusion3(FlowImage):
    """`StableDiffusion3Pipeline`.

    The network crops the middle out of its positional embedding, for each patch by its own size. Patches are
    cut into tokens of `patch_size` x `patch_size` latents, so that their sizes are multiples of 16 pixels.
    Layers are not skipped in guidance (`skip_guidance_layers`).
    """

    extras: ClassVar[Mapping[str, Any]] = {"max_sequence_length": 256}
    max_shift = 1.16

    def __init__(self, pipe: Any) -> None:
        """Read the sizes from the transformer's and the VAE's configuration."""
        super().__init__(pipe)
        self.cell = (pipe.transformer.config.patch_size,) * 2
        self.channels = pipe.transformer.config.in_channels

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """`prompt_embeds` [1, L, D] of CLIP's and T5's tokens, `pooled_prompt_embeds` [1, P]."""
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            [text or ""],
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            clip_skip=None if negative else extra.get("clip_skip"),
            max_sequence_length=extra["max_sequence_length"],
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """The flow [rows, C, h, w] at `x` [rows, C, h, w]."""
        output: Tensor = self.network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=told["prompt_embeds"],
            pooled_projections=told["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return output

    def schedule(
        self,
        num_inference_steps: int,
        *,
        patch: tuple[int, ...],
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Any:
        """A scheduler of its own; one that shifts dynamically does so for the tokens of `patch`."""
        if self.pipe.scheduler.config.get("use_dynamic_shifting"):
            return self.shifted(num_inference_steps, patch, timesteps, sigmas)
        return with_timesteps(self.scheduler(), num_inference_steps, self.device, timesteps, sigmas)

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """`StableDiffusion3PipelineOutput`, or a tuple of the images."""
        from diffusers.pipelines.stable_diffusion_3 import StableDiffusion3PipelineOutput

        images: Any = latents
        if decoded is not None:
            images = self.pipe.image_processor.postprocess(decoded, output_type=output_type)
        return StableDiffusion3PipelineOutput(images=images) if return_dict else (images,)
