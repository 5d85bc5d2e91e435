# SPDX-License-Identifier: Apache-2.0
"""What Stable Diffusion 3 and FLUX share: tokens of 2x2 latents, a shifted schedule, a VAE with an offset."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from intarsia.adapters.diffusers.family import Family
from intarsia.adapters.diffusers.stable_diffusion import StableDiffusion
from intarsia.adapters.diffusers.timesteps import with_timesteps

__all__ = ["FlowImage", "time_shift"]


def time_shift(tokens: int, config: Any, *, max_shift: float) -> float:
    """Shift a flow-match schedule by `mu`, on a line through two points in the number of image tokens.

    Args:
        tokens: of the picture that the network sees.
        config: of the scheduler; `base_image_seq_len`, `max_image_seq_len`, `base_shift` and `max_shift` are
            read where it has them.
        max_shift: the shift at the upper point where the scheduler names none.

    Returns:
        `mu`; the schedule is `exp(mu) / (exp(mu) + 1/t - 1)`.

    Source:
        Esser et al. 2024, "Scaling rectified flow transformers", section 5.3.2.

    Example:
        >>> round(time_shift(4096, {}, max_shift=1.15), 6), round(time_shift(256, {}, max_shift=1.15), 6)
        (1.15, 0.5)
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (most - least) / (high - low)
    return float(tokens * slope + (least - slope * low))


class FlowImage(StableDiffusion):
    """Pictures from a flow transformer that is told two encodings of its text.

    Position ids, the crop of a positional embedding, and the number of tokens are those of the patch: what
    the network knows from training. So is the time shift, which follows the number of tokens.
    """

    tables: ClassVar[tuple[str, ...]] = ("prompt_embeds", "pooled_prompt_embeds")
    max_shift: ClassVar[float]

    def __init__(self, pipe: Any) -> None:
        """Read the sizes from the transformer's and the VAE's configuration."""
        Family.__init__(self, pipe)
        self.network = pipe.transformer
        self.unit = (pipe.vae_scale_factor,) * 2
        self.cell = (2, 2)
        self.native = (pipe.default_sample_size,) * 2

    def tokens(self, patch: tuple[int, ...]) -> int:
        """How many tokens the network makes of a patch (h, w) in latents."""
        return (patch[0] // self.cell[0]) * (patch[1] // self.cell[1])

    def shifted(
        self,
        num_inference_steps: int,
        patch: tuple[int, ...],
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
    ) -> Any:
        """A scheduler of its own, shifted for `patch` where it can be told to."""
        scheduler = self.scheduler()
        mu = None
        if "mu" in inspect.signature(scheduler.set_timesteps).parameters:
            mu = time_shift(self.tokens(patch), scheduler.config, max_shift=self.max_shift)
        return with_timesteps(scheduler, num_inference_steps, self.device, timesteps, sigmas, mu=mu)

    def unscale(self, latents: Tensor) -> Tensor:
        """From the network's scale to the VAE's own."""
        config = self.pipe.vae.config
        return latents / config.scaling_factor + config.shift_factor

    def encode_image(self, image: Tensor, *, generator: Any = None) -> Tensor:
        """As Stable Diffusion's, less the VAE's offset."""
        config = self.pipe.vae.config
        return super().encode_image(image, generator=generator) - config.shift_factor * config.scaling_factor
