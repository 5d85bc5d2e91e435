# SPDX-License-Identifier: Apache-2.0
"""Family: all that the composer has to know of one kind of diffusers pipeline."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from intarsia.adapters.diffusers._pixels import average, image_tensor
from intarsia.adapters.diffusers.timesteps import with_timesteps
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
        vae_arguments: names that `vae_options` may hold.
        vae_options: what the composer was told of the VAE's use.
    """

    axes: ClassVar[tuple[str, ...]] = ("height", "width")
    tables: ClassVar[tuple[str, ...]] = ("prompt_embeds",)
    extras: ClassVar[Mapping[str, Any]] = {}
    vae_arguments: ClassVar[tuple[str, ...]] = ()

    network: torch.nn.Module
    unit: tuple[int, ...]
    cell: tuple[int, ...]
    native: tuple[int, ...]
    channels: int
    embeds_guidance: bool = False

    def __init__(self, pipe: Any) -> None:
        """Read the pipeline's configuration."""
        self.pipe = pipe
        self.vae_options: dict[str, Any] = {}
        self._device: torch.device | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; some of its weights may be held in more."""
        own: torch.dtype = getattr(self.network, "dtype", None) or next(self.network.parameters()).dtype
        return own

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs its models, also where they are offloaded in between."""
        return self._device or torch.device(self.pipe._execution_device)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """For one run, ask the pipeline only once for its device: it looks through all of its modules."""
        self._device = self.device
        try:
            yield
        finally:
            self._device = None
            self.pipe.maybe_free_model_hooks()

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
            what: "size" of the canvas, "patch", "extent" or "start" of a region, "overlap" or "origin"; the
                first three must be multiples of `multiple`, the others of `unit`.

        Raises:
            ValueError: another number; the message names the two nearest legal ones.
        """
        whole = what in ("size", "patch", "extent")
        step = (self.multiple if whole else self.unit)[axis]
        if pixels == int(pixels) and int(pixels) % step == 0 and (pixels > 0 or not whole):
            return int(pixels) // self.unit[axis]
        below = int(pixels // step) * step
        legal = f"values are {below} and {below + step}" if below >= step or not whole else f"value is {step}"
        name = {"size": self.axes[axis], "extent": "box", "start": "box"}.get(what, what)
        place = {"extent": " in its", "start": " where it begins on the"}.get(what)
        required = f"be a multiple of {step}" + (f"{place} {self.axes[axis]}" if place else "")
        return fail("Composer", name, required, pixels, f"The nearest legal {legal}.")

    def spread(self, value: float) -> tuple[float | None, ...]:
        """One number of pixels for every axis that it can speak of; None leaves an axis its default."""
        return tuple(value if axis != "num_frames" else None for axis in self.axes)

    def describe(self, place: Sequence[int]) -> str:
        """A place of the canvas in latents, as the user would write it: (left, top)."""
        pixels = [count * unit for count, unit in zip(place, self.unit, strict=True)]
        return f"({', '.join(str(value) for value in reversed(pixels))})"

    def cfg_scale(self, guidance_scale: float, extra: Mapping[str, Any]) -> float:
        """The scale of classifier-free guidance where the user asks for `guidance_scale`; 1 is none."""
        if not self.embeds_guidance:
            return guidance_scale
        return float(extra.get("true_cfg_scale", 1.0)) if extra["negated"] else 1.0

    def spans(
        self,
        box: Sequence[float] | None,
        size: Sequence[int],
        *,
        frames: tuple[int, int] | None = None,
    ) -> tuple[tuple[int, int], ...]:
        """`(start, stop)` of a box on every axis of the canvas, in latents; all of it without one.

        Args:
            box: pixels, first axis last, as Pillow has them: (left, top, right, bottom).
            size: the canvas in latents.
            frames: (first, last + 1), for families with an axis of time besides the picture's.

        Raises:
            ValueError: a box of another rank, or not of legal multiples.
        """
        if frames is not None:
            kind = type(self.pipe).__name__
            fail("Region", "frames", f"be None for {kind}", frames, "It has no axis of frames.")
        if box is None:
            return tuple((0, length) for length in size)
        rank = len(self.axes)
        if len(box) != 2 * rank:
            remedy = "Write box=(left, top, right, bottom)." if rank == 2 else "Starts first, then ends."
            fail("Region", "box", f"have {2 * rank} numbers", len(box), remedy)
        ends = [(box[rank - 1 - axis], box[2 * rank - 1 - axis]) for axis in range(rank)]
        return tuple(self.span(axis, start, stop) for axis, (start, stop) in enumerate(ends))

    def share(self, mask: Tensor, spans: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
        """How much of each latent a mask leaves to its region, [*S] float64: the mean over its pixels.

        Args:
            mask: float64 within 0 and 1, of the canvas's or of the region's size in pixels.
            spans: where the region lies, (start, stop) in latents per axis.
            size: the canvas in latents; both may leave out first axes that a mask does not have.

        Raises:
            ValueError: a mask of another size.
        """
        units = self.unit[-len(size) :]
        whole = [length * unit for length, unit in zip(size, units, strict=True)]
        boxed = [(stop - start) * unit for (start, stop), unit in zip(spans, units, strict=True)]
        if list(mask.shape) == whole:
            return average(mask, units)
        if list(mask.shape) != boxed:
            remedy = "Nothing is resized: draw the mask in the pixels of the canvas."
            fail("Region", "mask", f"have the canvas's size {whole}", list(mask.shape), remedy)
        placed = torch.zeros(tuple(size), dtype=torch.float64)
        index = torch.meshgrid(
            *(torch.arange(a, b) % s for (a, b), s in zip(spans, size, strict=True)), indexing="ij"
        )
        placed[index] = average(mask, units)
        return placed

    def picture(
        self, where: str, image: Any, box: Sequence[float] | None, size: Sequence[int]
    ) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
        """A guide's picture [B, 3, *pixels] within -1 and 1, and its place, (start, stop) in latents."""
        return image_tensor(where, image), self.spans(box, size)

    def span(self, axis: int, start: float, stop: float) -> tuple[int, int]:
        """`(start, stop)` in latents of what lies between two pixels of an axis."""
        first = self.latents_of(axis, start, "start")
        return first, first + self.latents_of(axis, stop - start, "extent")

    def encode(self, text: str | None, *, negative: bool, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        """Encode one prompt as the pipeline does.

        Args:
            text: the prompt; None is no negative prompt at all, which some families spell as zeros.
            negative: what to keep away from.
            extra: the call's `extras`, its `clip_skip` and `wrap`, the lengths of `axes` as it has them, and
                "negated", whether it or a region names anything to keep away from.

        Returns:
            One tensor [1, ...] for each name in `tables`, in the dtype and on the device of the pipeline.
        """
        raise NotImplementedError

    def given(self, embeds: Mapping[str, Tensor | None], *, prefix: str) -> dict[str, Tensor] | None:
        """Take what the user has encoded: one tensor [N, ...] for each of `tables`, or None without any.

        Args:
            embeds: the arguments of a call or a region by their names, such as "negative_prompt_embeds".
            prefix: "" or "negative_".

        Raises:
            ValueError: one of them without the others, or different numbers of rows.
        """
        found = {name: embeds.get(f"{prefix}{name}") for name in self.tables}
        if all(value is None for value in found.values()):
            return None
        whole = {name: value for name, value in found.items() if value is not None}
        missing = [f"{prefix}{name}" for name in self.tables if name not in whole]
        if missing:
            got = ", ".join(f"{prefix}{name}" for name in whole)
            remedy = "This pipeline's encode_prompt returns all of them."
            fail("Composer", " and ".join(missing), "be given, too", f"only {got}", remedy)
        if len({value.shape[0] for value in whole.values()}) > 1:
            got = " and ".join(str(list(value.shape)) for value in whole.values())
            fail(
                "Composer",
                f"{prefix}prompt_embeds",
                "have as many rows as the others",
                got,
                "One per prompt.",
            )
        return {name: value.detach() for name, value in whole.items()}

    def geometry(
        self, boxes: Sequence[Box], size: tuple[int, ...], *, extra: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """What the place and size of each patch mean to the network: tensors [R, ...], on the CPU.

        A name with "negative_" before it replaces that name where the network is told the negative prompt.

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
        """A copy of the pipeline's scheduler, for `with_timesteps` to change; the first one never notices."""
        twin = copy.copy(self.pipe.scheduler)
        for name, value in vars(twin).items():
            if type(value) in (list, dict, set):
                setattr(twin, name, copy.copy(value))
        return twin

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
