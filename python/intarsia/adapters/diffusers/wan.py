# SPDX-License-Identifier: Apache-2.0
"""Wan: video from text, on a canvas of frames, rows and columns, each of which may be closed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from intarsia.adapters.diffusers._pixels import image_tensor
from intarsia.adapters.diffusers._video import decode_video
from intarsia.adapters.diffusers.family import Family
from intarsia.layout._check import fail

__all__ = ["Wan"]


class Wan(Family):
    """`WanPipeline`: latents [B, C, F, H, W], video [B, 3, frames, height, width].

    The first latent is one frame, every other one four. So an open canvas has 4n + 1 frames, and a region's
    `frames=(first, last + 1)` begin at 0 or 4n + 1 and end at 4n + 1; its `box` is that of a picture. A loop
    in time has 4n frames: the first latent then shares its four with the end. Patches anywhere in time are
    told nothing of their place, and number their tokens from their own corner.

    Where the model has two networks (Wan 2.2), each takes its own noise levels, with one guidance scale.
    """

    axes: ClassVar[tuple[str, ...]] = ("num_frames", "height", "width")
    vae_arguments = ("patch", "overlap")
    extras: ClassVar[Mapping[str, Any]] = {"max_sequence_length": 512}

    def __init__(self, pipe: Any) -> None:
        """Read the sizes from the networks' configuration and the pipeline's own defaults."""
        super().__init__(pipe)
        self.network = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
        config: Any = self.network.config
        self.unit = (pipe.vae_scale_factor_temporal, *(pipe.vae_scale_factor_spatial,) * 2)
        self.cell = tuple(config.patch_size)
        self.channels = config.in_channels
        usual = inspect.signature(pipe.__call__).parameters
        self.native = (
            (usual["num_frames"].default - 1) // self.unit[0] + 1,
            *(usual[name].default // step * step // unit for name, step, unit in self._picture),
        )

    @property
    def _picture(self) -> list[tuple[str, int, int]]:
        return list(zip(self.axes, self.multiple, self.unit, strict=True))[1:]

    def latent_size(
        self, lengths: Mapping[str, float | None], *, wrap: Sequence[bool] = ()
    ) -> tuple[int, ...]:
        """The canvas in latents; a loop in time has as many frames as its latents, an open one 3 less."""
        size = super().latent_size({**lengths, "num_frames": None})
        frames, step = lengths["num_frames"], self.unit[0]
        if frames is None:
            return size
        first = 0 if wrap and wrap[0] else 1
        if frames < max(first, 1) or (frames - first) % step:
            below = int(frames - first) // step * step + first
            legal = f"{below} and {below + step}" if below > 0 else f"{below + step}"
            required = f"be a multiple of {step}" + (" plus 1" if first else " in a loop")
            fail("Composer", "num_frames", required, frames, f"The nearest legal: {legal}.")
        return ((int(frames) - first) // step + first, *size[1:])

    def latents_of(self, axis: int, pixels: float, what: str) -> int:
        """As for pictures; the length of a patch in frames may have the odd first one."""
        if axis == 0 and what in ("patch", "extent") and pixels % self.unit[0] == 1:
            return int(pixels) // self.unit[0] + 1
        return super().latents_of(axis, pixels, what)

    def describe(self, place: Sequence[int]) -> str:
        """A place in latents as (left, top) and its frame."""
        frame = max(0, (place[0] - 1) * self.unit[0] + 1)
        return f"({place[2] * self.unit[2]}, {place[1] * self.unit[1]}) at frame {frame}"

    def spans(
        self,
        box: Sequence[float] | None,
        size: Sequence[int],
        *,
        frames: tuple[int, int] | None = None,
    ) -> tuple[tuple[int, int], ...]:
        """A box of the picture (left, top, right, bottom) for some frames (first, last + 1), in latents."""
        if box is not None and len(box) != 4:
            remedy = "Write box=(left, top, right, bottom), and frames=(first, last + 1)."
            fail("Region", "box", "have 4 numbers", len(box), remedy)
        picture = tuple((0, length) for length in size[1:])
        if box is not None:
            picture = self.span(1, box[1], box[3]), self.span(2, box[0], box[2])
        if frames is None:
            return (0, size[0]), *picture
        first, last = frames
        step = self.unit[0]
        for name, value, least in (("begin", first, 0), ("end", last, 1)):
            if value % step != 1 and value != least:
                below = max(least, (value - 1) // step * step + 1)
                legal = f"{below} and {(value - 1) // step * step + step + 1}"
                required = f"{name} at a multiple of {step} plus 1" + ("" if least else ", or at 0")
                fail("Region", "frames", required, value, f"The nearest legal: {legal}.")
        if first >= last:
            fail("Region", "frames", "end after they begin", frames, "Write (first, last + 1).")
        return (-(-first // step), (last - 1) // step + 1), *picture

    def picture(
        self, where: str, image: Any, box: Sequence[float] | None, size: Sequence[int]
    ) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
        """A guide's still or first frames, [1, 3, frames, H, W] within -1 and 1, and their place."""
        video = image_tensor(where, image).movedim(0, 1)[None]
        count, step = video.shape[2], self.unit[0]
        if count % step != 1:
            legal = f"{max(0, (count - 1) // step) * step + 1} and {-(-count // step) * step + 1}"
            remedy = f"The nearest legal: {legal}."
            fail(where, "image", f"have a multiple of {step} plus 1 frames", count, remedy)
        return video, ((0, count // step + 1), *self.spans(box, size)[1:])

    def share(self, mask: Tensor, spans: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
        """How much of each latent a mask [H, W] leaves to its region, the same in all of its frames."""
        picture = super().share(mask, spans[1:], size[1:])
        inside = torch.zeros(size[0], dtype=picture.dtype)
        inside[torch.arange(*spans[0]) % size[0]] = 1
        return inside[:, None, None] * picture

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """UMT5's `prompt_embeds` [1, L, D]; no negative prompt is the empty one."""
        embeds, _ = self.pipe.encode_prompt(
            [text or ""],
            do_classifier_free_guidance=False,
            max_sequence_length=extra["max_sequence_length"],
            device=self.device,
        )
        return {"prompt_embeds": embeds.to(self.dtype)}

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """The flow [rows, C, f, h, w] at `x` [rows, C, f, h, w]."""
        network, config = self.network, self.pipe.config
        if config.get("boundary_ratio") is not None:
            # All rows of one call are at one level.
            high = t[0] >= config.boundary_ratio * self.pipe.scheduler.config.num_train_timesteps
            network = self.pipe.transformer if high else self.pipe.transformer_2
        if config.get("expand_timesteps"):
            # This kind is told the time of every token.
            cells = zip(x.shape[2:], self.cell, strict=True)
            t = t[:, None].expand(-1, math.prod(length // cell for length, cell in cells))
        output: Tensor = network(
            hidden_states=x, timestep=t, encoder_hidden_states=told["prompt_embeds"], return_dict=False
        )[0]
        return output

    def decode(self, latents: Tensor, *, wrap: tuple[bool, ...], patch: tuple[int, ...]) -> Tensor:
        """[B, 3, frames, height, width], about -1 to 1, in pieces of `patch` rows and columns, or its own."""
        vae = self.pipe.vae
        latents = latents.to(device=self.device, dtype=vae.dtype)
        mean, inverse = self._statistics(latents)
        piece = _pair(self.vae_options.get("patch", patch[1:]))
        overlap = _pair(self.vae_options.get("overlap", [length // 4 for length in piece]))
        clean = latents / inverse + mean
        return decode_video(vae, clean, unit=self.unit, patch=piece, overlap=overlap, wrap=wrap)

    def encode_image(self, image: Tensor, *, generator: Any = None) -> Tensor:
        """Turn a video [B, 3, frames, H, W] into clean latents [B, C, f, h, w]."""
        vae = self.pipe.vae
        posterior = vae.encode(image.to(device=self.device, dtype=vae.dtype)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        mean, inverse = self._statistics(latents)
        return ((latents - mean) * inverse).float()

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and inverse deviation of the VAE's latents, [1, C, 1, 1, 1]."""
        config = self.pipe.vae.config
        mean = torch.tensor(config.latents_mean).reshape(1, -1, 1, 1, 1)
        inverse = 1 / torch.tensor(config.latents_std).reshape(1, -1, 1, 1, 1)
        return mean.to(like), inverse.to(like)

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """`WanPipelineOutput`, or a tuple of the videos."""
        from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

        frames: Any = latents
        if decoded is not None:
            frames = self.pipe.video_processor.postprocess_video(decoded, output_type=output_type)
        return WanPipelineOutput(frames=frames) if return_dict else (frames,)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows, columns
