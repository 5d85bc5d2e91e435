# SPDX-License-Identifier: Apache-2.0
"""FLUX.1: a flow transformer over packed tokens with rotary positions, told its guidance scale."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from intarsia.adapters.diffusers._flow import FlowImage

__all__ = ["Flux", "pack", "positions", "unpack"]


def pack(x: Tensor) -> Tensor:
    """Turn latents into tokens of 2x2, rows first.

    Args:
        x: [B, C, h, w], both sizes even.

    Returns:
        [B, h/2 * w/2, 4 C].

    Example:
        >>> pack(torch.arange(8.0).reshape(1, 1, 2, 4))
        tensor([[[0., 1., 4., 5.],
                 [2., 3., 6., 7.]]])
    """
    rows, channels, height, width = x.shape
    cells = x.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(rows, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Turn tokens of 2x2 back into latents.

    Args:
        tokens: [B, h/2 * w/2, 4 C].
        size: (h, w).

    Returns:
        [B, C, h, w].

    Example:
        >>> x = torch.randn(1, 4, 6, 8)
        >>> torch.equal(unpack(pack(x), (6, 8)), x)
        True
    """
    height, width = size
    cells = tokens.reshape(tokens.shape[0], height // 2, width // 2, tokens.shape[2] // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], -1, height, width)


def positions(size: Sequence[int], like: Tensor) -> Tensor:
    """Number the tokens of latents from their own corner.

    Args:
        size: (h, w) of the latents.
        like: [*], a tensor of the dtype and device wanted.

    Returns:
        [h/2 * w/2, 3], each (0, row, column).

    Example:
        >>> positions((4, 4), torch.zeros(1))[:, 1:].tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    height, width = (length // 2 for length in size)
    ids = torch.zeros(height, width, 3, dtype=like.dtype, device=like.device)
    ids[..., 1] = torch.arange(height, dtype=like.dtype, device=like.device)[:, None]
    ids[..., 2] = torch.arange(width, dtype=like.dtype, device=like.device)
    return ids.reshape(-1, 3)


class Flux(FlowImage):
    """`FluxPipeline`: FLUX.1 dev, schnell, and their kin.

    The canvas is [B, C, H, W]; patches are packed into tokens for the network's call alone, and numbered from
    their own corner. Sizes are multiples of 16 pixels.

    A model that was distilled to be told its guidance scale is told that of each region. `true_cfg_scale`
    above 1 guides besides where there is any negative prompt; regions without one keep away from the empty
    one.
    """

    extras: ClassVar[Mapping[str, Any]] = {"true_cfg_scale": 1.0, "max_sequence_length": 512}
    max_shift = 1.15

    def __init__(self, pipe: Any) -> None:
        """Read the sizes from the transformer's and the VAE's configuration."""
        super().__init__(pipe)
        self.channels = pipe.transformer.config.in_channels // 4
        self.embeds_guidance = True

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """`prompt_embeds` [1, L, D] of T5's tokens, `pooled_prompt_embeds` [1, P] of CLIP's."""
        embeds, pooled, _ = self.pipe.encode_prompt(
            [text or ""], None, device=self.device, max_sequence_length=extra["max_sequence_length"]
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """The flow [rows, C, h, w] at `x` [rows, C, h, w]."""
        size, embeds = x.shape[2:], told["prompt_embeds"]
        tokens: Tensor = self.network(
            hidden_states=pack(x),
            timestep=t.to(x.dtype) / 1000,
            guidance=told["guidance"] if self.pipe.transformer.config.guidance_embeds else None,
            pooled_projections=told["pooled_prompt_embeds"],
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, dtype=x.dtype, device=x.device),
            img_ids=positions(size, x),
            return_dict=False,
        )[0]
        return unpack(tokens, size)

    def schedule(
        self,
        num_inference_steps: int,
        *,
        patch: tuple[int, ...],
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Any:
        """A scheduler of its own, from noise level 1 to 1/N in equal steps, shifted for `patch`."""
        own = self.pipe.scheduler.config.get("use_flow_sigmas")
        if own or "sigmas" not in inspect.signature(self.pipe.scheduler.set_timesteps).parameters:
            return self.shifted(num_inference_steps, patch, timesteps, sigmas)
        if timesteps is None and sigmas is None:
            sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        return self.shifted(num_inference_steps, patch, timesteps, sigmas)

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """`FluxPipelineOutput`, or a tuple of the images; "latent" is the canvas [B, C, H, W], not packed."""
        from diffusers.pipelines.flux import FluxPipelineOutput

        images: Any = latents
        if decoded is not None:
            images = self.pipe.image_processor.postprocess(decoded, output_type=output_type)
        return FluxPipelineOutput(images=images) if return_dict else (images,)
