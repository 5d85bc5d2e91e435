# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion XL: two texts' encodings, a pooled one, and where in its picture a patch lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from intarsia.adapters.diffusers.stable_diffusion import StableDiffusion
from intarsia.layout.regions import Box

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`.

    The network is told the size of the picture that a patch was cut from, where it was cut, and how large it
    should look. By default every patch is told that it is a whole picture of its own size, as in training;
    a patch that is told of a 4K original loses its composition. `extras` change that:

    - `place_in_canvas=True`: the original is the canvas, cut where the patch lies.
    - `original_size`, `crops_coords_top_left`, `target_size` (height, width): the same for every patch, as
      in diffusers, and their `negative_` twins for the negative prompt.
    """

    upcast: ClassVar[bool | None] = None
    tables: ClassVar[tuple[str, ...]] = ("prompt_embeds", "pooled_prompt_embeds")
    extras: ClassVar[Mapping[str, Any]] = {
        "place_in_canvas": False,
        "original_size": None,
        "crops_coords_top_left": None,
        "target_size": None,
        "negative_original_size": None,
        "negative_crops_coords_top_left": None,
        "negative_target_size": None,
    }

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """`prompt_embeds` [1, L, D] and `pooled_prompt_embeds` [1, P]; zeros where the model wants them."""
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt=text or "",
            device=self.device,
            do_classifier_free_guidance=False,
            clip_skip=None if negative else extra.get("clip_skip"),
        )
        if negative and text is None and self.pipe.config.force_zeros_for_empty_prompt:
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def geometry(
        self, boxes: Sequence[Box], size: tuple[int, ...], *, extra: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """`time_ids` [R, 6]: original size, top left corner of the crop, target size, in pixels."""
        told = {"time_ids": self._time_ids(boxes, size, extra, "")}
        if any(extra[name] is not None for name in self.extras if name.startswith("negative_")):
            told["negative_time_ids"] = self._time_ids(boxes, size, extra, "negative_")
        return told

    def _time_ids(
        self, boxes: Sequence[Box], size: tuple[int, ...], extra: Mapping[str, Any], prefix: str
    ) -> Tensor:
        rows = []
        whole = self._pixels(size)
        for offset, extent in boxes:
            own = self._pixels(extent)
            placed = bool(extra["place_in_canvas"])
            at = tuple(o % s for o, s in zip(offset, size, strict=True))
            original = extra[f"{prefix}original_size"] or (whole if placed else own)
            corner = extra[f"{prefix}crops_coords_top_left"] or (self._pixels(at) if placed else (0, 0))
            target = extra[f"{prefix}target_size"] or own
            rows.append([*original, *corner, *target])
        return torch.tensor(rows, dtype=torch.float32)

    def _pixels(self, latents: Sequence[int]) -> tuple[int, ...]:
        return tuple(count * unit for count, unit in zip(latents, self.unit, strict=True))

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """`unet(x, t, encoder_hidden_states, added_cond_kwargs)`."""
        output: Tensor = self.network(
            x,
            t,
            encoder_hidden_states=told["prompt_embeds"],
            timestep_cond=self.timestep_cond(x, told),
            added_cond_kwargs={"text_embeds": told["pooled_prompt_embeds"], "time_ids": told["time_ids"]},
            return_dict=False,
        )[0]
        return output

    def unscale(self, latents: Tensor) -> Tensor:
        """From the network's scale to the VAE's own, by its mean and deviation where it has them."""
        config = self.pipe.vae.config
        if getattr(config, "latents_mean", None) is None or getattr(config, "latents_std", None) is None:
            return latents / config.scaling_factor
        mean, std = (
            torch.tensor(values).reshape(1, -1, 1, 1).to(latents)
            for values in (config.latents_mean, config.latents_std)
        )
        return latents * std / config.scaling_factor + mean

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """Images, with the pipeline's watermark where it has one."""
        from diffusers.pipelines.stable_diffusion_xl import StableDiffusionXLPipelineOutput

        images: Any = latents
        if decoded is not None:
            watermark = self.pipe.watermark
            image = decoded if watermark is None else watermark.apply_watermark(decoded)
            images = self.pipe.image_processor.postprocess(image, output_type=output_type)
        return StableDiffusionXLPipelineOutput(images=images) if return_dict else (images,)
