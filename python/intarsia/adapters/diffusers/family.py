# SPDX-License-Identifier: Apache-2.0
"""Family: all that the composer has to know of one kind of diffusers pipeline."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from intarsia.adapters.diffusers.region import Region
from intarsia.layout._check import fail
from intarsia.layout.regions import Box

__all__ = ["Family", "family_of", "with_timesteps"]

_HERE = "intarsia.adapters.diffusers"
_FAMILIES = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionPanoramaPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3"),
    "FluxPipeline": ("flux", "Flux"),
    "StableAudioPipeline": ("stable_audio", "StableAudio"),
    "WanPipeline": ("wan", "Wan"),
}


class Family:
    """One kind of pipeline: what it is told, how its canvas is measured, and the way to its network.

    A new family derives from this class, says how prompts are encoded (`encode`), how its network is called
    (`predict`), what a region's place means to it (`geometry`), and how its canvas is read (`decode`,
    `encode_image`). Everything of the canvas, regions, guidance, batches, steps and noise is the composer's.

    "Pixels" are the unit of the user: pixels of a picture, frames of a video, samples of a sound. "Latents"
    are elements of the canvas `[B, C, *S]`, which a family packs into tokens inside `predict` alone.

    Attributes:
        pipe: the pipeline; a family reads it and never changes it.
        axes: names of the canvas axes, the arguments of the call that give their lengths.
        tables: names of what `encode` returns, which are also the names of the call's own arguments.
        extras: arguments that this family alone has, under diffusers' names, with their defaults.
        network: the module that predicts.
        unit: pixels of one latent, per axis.
        cell: latents that must stand together, per axis: sizes of patches and of the canvas are multiples.
        native: latents of the patch that the network was trained on, per axis.
        channels: C.
        embeds_guidance: the network is told `guidance_scale` itself, as told["guidance"] [rows] float32;
            classifier-free guidance then has the scale of `true_cfg_scale` in `extras`, or none.
    """

    axes: ClassVar[tuple[str, ...]] = ("height", "width")
    tables: ClassVar[tuple[str, ...]] = ("prompt_embeds",)
    extras: ClassVar[Mapping[str, Any]] = {}

    network: torch.nn.Module
    unit: tuple[int, ...]
    cell: tuple[int, ...]
    native: tuple[int, ...]
    channels: int
    embeds_guidance: bool = False

    def __init__(self, pipe: Any) -> None:
        """Read the pipeline's configuration."""
        self.pipe = pipe

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(iter(self.network.parameters())).dtype

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs its models, also where they are offloaded in between."""
        return torch.device(self.pipe._execution_device)

    @property
    def multiple(self) -> tuple[int, ...]:
        """Legal multiples of a region's size in pixels, per axis; its place has multiples of `unit`."""
        return tuple(unit * cell for unit, cell in zip(self.unit, self.cell, strict=True))

    def latent_size(
        self, lengths: Mapping[str, float | None], *, wrap: Sequence[bool] = ()
    ) -> tuple[int, ...]:
        """The canvas `(S_1..S_n)` in latents, from the lengths of `axes`; None is the native one.

        Args:
            lengths: what the call says for each of `axes`.
            wrap: which axes are closed; a loop may count its ends otherwise than an open canvas.
        """
        del wrap
        return tuple(
            native if lengths[axis] is None else self.latents_of(index, lengths[axis] or 0, "size")
            for index, (axis, native) in enumerate(zip(self.axes, self.native, strict=True))
        )

    def latents_of(self, axis: int, pixels: float, what: str) -> int:
        """Count the latents of `pixels` on an axis.

        Args:
            axis: index of the canvas axis.
            pixels: a whole number of the user's unit.
            what: "size" of the canvas, "extent" or "start" of a region, "overlap"; sizes and extents must be
                multiples of `multiple`, starts and overlaps of `unit`.

        Raises:
            ValueError: another number; the message names the two nearest legal ones.
        """
        step = (self.multiple if what in ("size", "extent") else self.unit)[axis]
        if pixels == int(pixels) and int(pixels) % step == 0:
            return int(pixels) // self.unit[axis]
        below = int(pixels // step) * step
        least = step if what in ("size", "extent") else 0
        legal = f"{below} and {below + step}" if below >= least else f"{least}"
        name = {"size": self.axes[axis], "overlap": "overlap", "extent": "box", "start": "box"}[what]
        kind = {"extent": f" in its {self.axes[axis]}", "start": f" where it begins on the {self.axes[axis]}"}
        required = f"be a multiple of {step}{kind.get(what, '')}"
        return fail("Composer", name, required, pixels, f"The nearest legal values are {legal}.")

    def spans(self, region: Region, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """`(start, stop)` of a region's box on every axis of the canvas, in latents; all of it without one.

        Args:
            region: its `box` counts pixels, first axis last, as Pillow does: (left, top, right, bottom).
            size: the canvas in latents.

        Raises:
            ValueError: a box of another rank, or not of legal multiples.
        """
        if region.box is None:
            return tuple((0, length) for length in size)
        rank = len(self.axes)
        if len(region.box) != 2 * rank:
            remedy = "Write box=(left, top, right, bottom)." if rank == 2 else "Starts first, then ends."
            fail("Region", "box", f"have {2 * rank} numbers", len(region.box), remedy)
        ends = [(region.box[rank - 1 - axis], region.box[2 * rank - 1 - axis]) for axis in range(rank)]
        return tuple(self.span(axis, start, stop) for axis, (start, stop) in enumerate(ends))

    def span(self, axis: int, start: float, stop: float) -> tuple[int, int]:
        """`(start, stop)` in latents of what lies between two pixels of an axis."""
        first = self.latents_of(axis, start, "start")
        return first, first + self.latents_of(axis, stop - start, "extent")

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """Encode one prompt as the pipeline does.

        Args:
            text: the prompt; None is no negative prompt at all, which some families spell as zeros.
            negative: what to keep away from.
            extra: the call's `extras`, its `clip_skip` and `wrap`, and the lengths of `axes` as it has them.

        Returns:
            One tensor [1, ...] for each name in `tables`, in the dtype and on the device of the pipeline.
        """
        raise NotImplementedError

    def geometry(
        self, boxes: Sequence[Box], size: tuple[int, ...], *, extra: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """What the place and size of each patch mean to the network: tensors [R, ...], on the CPU.

        Args:
            boxes: (offset, size) in latents, of every patch that goes through the network.
            size: the canvas in latents.
            extra: as in `encode`.
        """
        del boxes, size, extra
        return {}

    def predict(self, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Call the network.

        Args:
            x: [rows, C, *s], in the network's dtype and its scheduler's own scale.
            t: [rows], the scheduler's timesteps.
            told: one row each of `tables` and of `geometry`, and of "guidance" where that is embedded.

        Returns:
            [rows, C, *s], what the scheduler calls the model output.
        """
        raise NotImplementedError

    def schedule(
        self,
        num_inference_steps: int,
        *,
        patch: tuple[int, ...],
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Any:
        """A scheduler of its own for one run, its timesteps set; `patch` [latents] decides a time shift."""
        del patch
        return with_timesteps(self.scheduler(), num_inference_steps, self.device, timesteps, sigmas)

    def scheduler(self) -> Any:
        """A fresh scheduler of the pipeline's kind and configuration."""
        return type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)

    def decode(self, latents: Tensor, *, wrap: tuple[bool, ...], patch: tuple[int, ...]) -> Tensor:
        """Turn the finished canvas [B, C, *S] into what the pipeline's VAE makes of it, float."""
        raise NotImplementedError

    def encode_image(self, image: Tensor, *, generator: Any = None) -> Tensor:
        """Turn a picture [B, 3, H, W] within -1 and 1 into clean latents [B, C, h, w], float32."""
        raise NotImplementedError

    def output(
        self,
        decoded: Tensor | None,
        latents: Tensor,
        *,
        output_type: str,
        return_dict: bool,
        extra: Mapping[str, Any],
    ) -> Any:
        """The pipeline's own result: its output class, or the same as a tuple.

        Args:
            decoded: what `decode` returned, or None where `output_type` is "latent".
            latents: [B, C, *S], the finished canvas.
            output_type: as the pipeline has it: "pil", "np", "pt", "latent".
            return_dict: False for a tuple.
            extra: as in `encode`.
        """
        raise NotImplementedError


def with_timesteps(
    scheduler: Any,
    num_inference_steps: int,
    device: torch.device | str,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    *,
    mu: float | None = None,
) -> Any:
    """Set a scheduler's timesteps by number, by value or by noise level, and return it.

    Args:
        scheduler: changed in place.
        num_inference_steps: how many steps, where neither list is given.
        device: where the timesteps live.
        timesteps: own timesteps, where the scheduler takes them.
        sigmas: own noise levels, where the scheduler takes them.
        mu: time shift of a flow-match scheduler.

    Returns:
        The scheduler.

    Raises:
        ValueError: both lists, or one that this scheduler does not take.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> with_timesteps(DDIMScheduler(), 4, "cpu").timesteps.tolist()
        [750, 500, 250, 0]
    """
    accepts = inspect.signature(scheduler.set_timesteps).parameters
    given = {"timesteps": timesteps, "sigmas": sigmas}
    if timesteps is not None and sigmas is not None:
        fail("Composer", "timesteps", "be None where sigmas are given", "both", "Pass one of the two.")
    for name, value in given.items():
        if value is not None and name not in accepts:
            kind = type(scheduler).__name__
            fail("Composer", name, f"be None for {kind}", f"{len(value)} values", "It makes its own.")
    own = {name: value for name, value in given.items() if value is not None}
    if mu is not None:
        own["mu"] = mu  # type: ignore[assignment]
    # Own noise levels make the count redundant, but a shifted flow schedule may ask for both.
    if not own or (mu is not None and timesteps is None and sigmas is None):
        own["num_inference_steps"] = num_inference_steps  # type: ignore[assignment]
    scheduler.set_timesteps(device=device, **own)
    return scheduler


def family_of(pipe: Any) -> Family:
    """Find the family of a pipeline by the names of its classes.

    Raises:
        ValueError: a pipeline that none of the families knows.

    Returns:
        The family, bound to the pipeline.

    Example:
        >>> family_of(object())
        Traceback (most recent call last):
        ValueError: Composer: pipe must be one of StableDiffusionPipeline, ...
    """
    for kind in type(pipe).__mro__:
        if kind.__name__ in _FAMILIES:
            module, name = _FAMILIES[kind.__name__]
            family: Family = getattr(importlib.import_module(f"{_HERE}.{module}"), name)(pipe)
            return family
    remedy = "For another one use adapters.diffusers.denoiser with its network."
    return fail("Composer", "pipe", f"be one of {', '.join(_FAMILIES)}", type(pipe).__name__, remedy)
