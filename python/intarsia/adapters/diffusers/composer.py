# SPDX-License-Identifier: Apache-2.0
"""Composer: a diffusers pipeline whose canvas has regions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia import samplers
from intarsia.adapters.diffusers._model import Network, compose, guide_scales, usual_batch, watch
from intarsia.adapters.diffusers._noise import initial_noise, reroll, seeds_of
from intarsia.adapters.diffusers._pixels import mask_tensor
from intarsia.adapters.diffusers._prompts import Prompts, indices
from intarsia.adapters.diffusers._steps import OnStep, in_regions
from intarsia.adapters.diffusers.family import Family, family_of
from intarsia.adapters.diffusers.guide import ImageGuide
from intarsia.adapters.diffusers.plan import Part, Plan, plan, window_of
from intarsia.adapters.diffusers.region import Region
from intarsia.layout import Window
from intarsia.layout._check import fail

__all__ = ["Composer"]

StepCallback = Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor] | None]


class Composer:
    """A diffusers pipeline on a canvas of any size, with regions, guides and closed edges.

    Made by `Composer.from_pipe(pipe)`, and called like the pipeline. One canvas, one scheduler, one draw of
    noise per step: only the network's answers are computed patch by patch and added. The pipeline itself is
    read and called, never changed, so it can still be used by itself; one composer serves one run at a time.

    Attributes:
        family: what it knows of this kind of pipeline.

    Source:
        Jimenez 2023, "Mixture of Diffusers"; Bar-Tal et al. 2023, "MultiDiffusion".
    """

    def __init__(self, family: Family) -> None:
        """Keep the family; `from_pipe` finds it."""
        self.family = family
        self._interrupt = False

    @classmethod
    def from_pipe(cls, pipe: Any, *, vae: Mapping[str, Any] | None = None) -> Composer:
        """Make a composer of a pipeline.

        Args:
            pipe: of Stable Diffusion 1, 2, XL or 3, Flux, Stable Audio or Wan.
            vae: how canvases beyond the native size are decoded. For images: arguments of
                `intarsia.adapters.diffusers.vae.decode` (patch, overlap, exact, max_batch, offload, ...); for
                videos patch and overlap of their pictures, for sounds patch, in latents.

        Raises:
            ValueError: another pipeline, or an argument that its VAE does not have.
        """
        family = family_of(pipe)
        unknown = sorted(set(vae or {}) - set(family.vae_arguments))
        if unknown:
            remedy = f"Known are: {', '.join(family.vae_arguments)}."
            fail("Composer", "vae", "hold what this VAE takes", ", ".join(unknown), remedy)
        family.vae_options = dict(vae or {})
        return cls(family)

    @property
    def pipe(self) -> Any:
        """The pipeline."""
        return self.family.pipe

    def interrupt(self) -> None:
        """End the run at the next call of the network; the canvas so far is decoded and returned."""
        self._interrupt = True

    def plan(
        self,
        regions: Sequence[Region] = (),
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        audio_end_in_s: float | None = None,
        wrap: bool | Sequence[bool] = False,
        overlap: float | Sequence[float] | None = None,
        patch: float | Sequence[float] | None = None,
        window: str | Window = "gaussian",
        background: bool = True,
    ) -> Plan:
        """Say which patches a call with these arguments sends through the network, without a run.

        Args:
            regions: as for the call.
            height: as for the call.
            width: as for the call.
            num_frames: as for the call.
            audio_end_in_s: as for the call.
            wrap: as for the call.
            overlap: as for the call.
            patch: as for the call.
            window: as for the call.
            background: whether the call has a prompt of its own.

        Returns:
            The plan, in latents.

        Raises:
            ValueError: as for the call.
            CoverageError: as for the call.
        """
        family = self.family
        lengths = {
            "height": height,
            "width": width,
            "num_frames": num_frames,
            "audio_end_in_s": audio_end_in_s,
        }
        for name, value in lengths.items():
            if value is not None and name not in family.axes:
                kind = type(self.pipe).__name__
                fail("Composer", name, f"be None for {kind}", value, f"It has {', '.join(family.axes)}.")
        closed = self._wrap(wrap)
        size = family.latent_size(lengths, wrap=closed)
        parts = [self._part(number, region, size) for number, region in enumerate(regions)]
        largest = self._each("patch", patch, family.native)
        shared = self._each("overlap", overlap, tuple(length // 2 for length in largest))
        for axis, (length, count) in enumerate(zip(largest, shared, strict=True)):
            if not 0 <= count < length:
                limit, got = (value * family.unit[axis] for value in (length, count))
                fail("Composer", "overlap", f"be below the patch ({limit})", got, "Half of it is usual.")
        return plan(
            size,
            parts,
            patch=largest,
            stride=[length - count for length, count in zip(largest, shared, strict=True)],
            wrap=closed,
            window=window_of(window),
            background=background,
            describe=family.describe,
        )

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        regions: Sequence[Region] = (),
        guides: Sequence[ImageGuide] = (),
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        audio_end_in_s: float | None = None,
        wrap: bool | Sequence[bool] = False,
        overlap: float | Sequence[float] | None = None,
        patch: float | Sequence[float] | None = None,
        window: str | Window = "gaussian",
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        eta: float = 0.0,
        clip_skip: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        origin: Sequence[int] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        extra: Mapping[str, Any] | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_batch: int | None = None,
        pad: bool = False,
        progress: bool | None = None,
    ) -> Any:
        """Run the pipeline on a canvas with regions. Arguments that diffusers has mean the same here.

        Args:
            prompt: what everything is told that no region covers: one, or one for each image.
            negative_prompt: what to keep away from: one, or one for each prompt.
            regions: parts with prompts of their own. Their weights add where they overlap, and the prompt
                has what they leave of 1. None of them need cover anything if there is a prompt.
            guides: pictures that parts of the canvas follow for the first steps.
            height: of the canvas in pixels; None is what the network was trained on.
            width: of the canvas in pixels.
            num_frames: of a video.
            audio_end_in_s: of a sound.
            wrap: whether the canvas closes onto itself: True along its last axis (a 360 degree panorama, a
                loop of sound), or one bool per axis (height, width).
            overlap: pixels that neighbouring patches share, at least: one number, or one per axis. None is
                half a patch. On a closed axis whose length the steps do not divide, patches lie as evenly as
                latents allow.
            patch: pixels of the largest patch, a number or one per axis (height, width). None is the
                network's native size. A region's box up to this size is one call of its own size; larger
                ones are covered by a grid of such patches. Nothing is resized.
            window: how much each element of a patch counts: "gaussian" (Mixture of Diffusers), "uniform"
                (MultiDiffusion), "triangle", "cosine", "quartic", or any window of `intarsia.layout`.
            num_inference_steps: None is the pipeline's default.
            timesteps: own timesteps, where the scheduler takes them.
            sigmas: own noise levels, where the scheduler takes them.
            guidance_scale: None is the pipeline's default; 1 and below is no guidance.
            guidance_rescale: how far the guided canvas's contrast is pulled back to the unguided one's.
            eta: for DDIM.
            clip_skip: layers of CLIP to skip, for positive prompts.
            num_images_per_prompt: images of each prompt, neighbours in the batch.
            generator: one, or one for each image.
            seed: instead of a generator, one for each image: noise that belongs to places. A larger canvas
                of the same seed and `origin` keeps the noise of the smaller one.
            origin: (left, top) in pixels of the canvas in the picture that `seed` speaks of.
            latents: [B, C, *S], standard normal noise to start from, instead of drawing it.
            prompt_embeds: [N, L, D], instead of `prompt`.
            negative_prompt_embeds: [N, L, D], instead of `negative_prompt`.
            pooled_prompt_embeds: [N, P], with `prompt_embeds`, where the pipeline has them.
            negative_pooled_prompt_embeds: [N, P], with `negative_prompt_embeds`.
            extra: arguments that this pipeline alone has: `composer.family.extras` lists them.
            output_type: "pil", "np", "pt", or "latent" for the canvas itself; None is the pipeline's default.
            return_dict: False for a tuple.
            callback_on_step_end: `f(composer, step, timestep, {"latents": ...})`, may return other latents.
            callback_on_step_end_tensor_inputs: "latents" is what there is.
            max_batch: most rows (patches, guidance and images together) of one network call. None is 8 of
                64 x 64 latents, and fewer of larger ones.
            pad: fill up the last batch of every size, so that `torch.compile` sees one shape.
            progress: True shows a bar, False none, None one where stderr is a terminal.

        Returns:
            The pipeline's own output object (`.images`), or a tuple.

        Raises:
            ValueError: an argument does not fit; the message says which, and what to do.
            CoverageError: there is no prompt, and the regions leave something uncovered.
            NonFiniteRegionError: the network returned NaN or infinity; `step` and `region` say where (-1 is
                the call's own prompt).

        Note:
            Canvas, weights and sums are float32 whatever the network computes in. The picture does not
            depend on `max_batch` further than the network does.
        """
        family, parts = self.family, list(regions)
        self._interrupt = False
        given = inspect.signature(type(self.pipe).__call__).parameters
        scale = given["guidance_scale"].default if guidance_scale is None else guidance_scale
        steps = given["num_inference_steps"].default if num_inference_steps is None else num_inference_steps
        kind = given["output_type"].default if output_type is None else output_type
        whole = self.plan(
            parts,
            height=height,
            width=width,
            num_frames=num_frames,
            audio_end_in_s=audio_end_in_s,
            wrap=wrap,
            overlap=overlap,
            patch=patch,
            window=window,
            background=prompt is not None or prompt_embeds is not None,
        )
        lengths = {
            "height": height,
            "width": width,
            "num_frames": num_frames,
            "audio_end_in_s": audio_end_in_s,
        }
        against = [negative_prompt, negative_prompt_embeds]
        against += [text for r in parts for text in (r.negative_prompt, r.negative_prompt_embeds)]
        call_alone = {"clip_skip": clip_skip, "wrap": whole.wrap, **lengths}
        call_alone["negated"] = any(text is not None for text in against)
        extras = self._extras(extra, call_alone)
        place = self._origin(origin, seed, generator)
        with family.settled(), torch.no_grad():
            told, scales = guide_scales(family, parts, whole, scale, extras)
            prompts = Prompts(family, extras, bool((scales > 1).any()))
            embeds = {
                "prompt_embeds": prompt_embeds,
                "negative_prompt_embeds": negative_prompt_embeds,
                "pooled_prompt_embeds": pooled_prompt_embeds,
                "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
            }
            call = prompts.call(prompt, negative_prompt, embeds)
            pairs = [prompts.region(number, region, call) for number, region in enumerate(parts)]
            images = num_images_per_prompt * (1 if call is None else len(call))
            shape = (images, family.channels, *whole.size)
            noise = initial_noise(
                shape,
                latents=latents,
                seed=seed,
                origin=place,
                generator=generator,
                dtype=family.dtype,
                device=family.device,
            )
            noise = reroll(noise, parts, whole.parts, origin=place)
            scheduler = family.schedule(steps, patch=whole.patch, timesteps=timesteps, sigmas=sigmas)
            bad = watch(whole, family.device)
            network = Network(family, prompts.tables(family.device), lambda: self._interrupt, bad)
            geometry = family.geometry(whole.layout.boxes(), whole.size, extra=extras)
            composite = compose(
                network,
                whole,
                indices(pairs, whole.owner, call, images),
                {**geometry, **told},
                scales,
                max_batch=max_batch or usual_batch(whole.patch),
                pad=pad,
                rescale=guidance_rescale,
            )
            solver = samplers.FromDiffusers(scheduler, eta=eta)
            bound = [g.bind(family, n, noise, whole.wrap, None) for n, g in enumerate(guides)]
            on_step = OnStep(self, scheduler, callback_on_step_end, tuple(callback_on_step_end_tensor_inputs))
            with in_regions(family, whole, bad):
                x = samplers.sample(
                    composite,
                    solver.initial(noise),
                    None,
                    solver,
                    generator=list(generator) if isinstance(generator, Sequence) else generator,
                    noise="generator" if seed is None else "canvas",
                    seed=None if seed is None else seeds_of(seed),
                    offset=None if seed is None else place,
                    callback=[*bound, *on_step.callbacks],
                    progress=self._progress(progress),
                )
            decoded = None
            if kind != "latent":
                decoded = family.decode(x, wrap=whole.wrap, patch=whole.patch)
            return family.output(decoded, x, output_type=kind, return_dict=return_dict, extra=extras)

    def _part(self, number: int, region: Region, size: tuple[int, ...]) -> Part:
        spans = self.family.spans(region.box, size, frames=region.frames)
        if region.mask is None:
            return Part(spans, None, region.weight)
        mask = mask_tensor(f"regions[{number}]", region.mask)
        return Part(spans, self.family.share(mask, spans, size), region.weight)

    def _wrap(self, wrap: bool | Sequence[bool]) -> tuple[bool, ...]:
        rank = len(self.family.axes)
        if isinstance(wrap, bool):
            return (*(False,) * (rank - 1), wrap)
        if len(wrap) != rank:
            remedy = f"In the order {', '.join(self.family.axes)}; True alone closes the last."
            fail("Composer", "wrap", f"have {rank} entries", len(wrap), remedy)
        return tuple(bool(closed) for closed in wrap)

    def _each(
        self, name: str, value: float | Sequence[float] | None, default: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Latents of pixels given as one number or one per axis; the default where there is none."""
        family = self.family
        rank = len(family.axes)
        values = family.spread(value) if isinstance(value, int | float) else tuple(value or (None,) * rank)
        if len(values) != rank:
            remedy = f"The order is {', '.join(family.axes)}."
            fail("Composer", name, f"be a number or {rank} of them", len(values), remedy)
        return tuple(
            default[axis] if pixels is None else family.latents_of(axis, pixels, name)
            for axis, pixels in enumerate(values)
        )

    def _origin(self, origin: Sequence[int] | None, seed: object, generator: object) -> tuple[int, ...]:
        """Where the canvas lies in the noise of its seed, in latents."""
        rank = len(self.family.axes)
        if seed is not None and generator is not None:
            remedy = "A seed has noise that belongs to places; a generator draws it in order."
            fail("Composer", "generator", "be None where there is a seed", type(generator).__name__, remedy)
        if origin is None:
            return (0,) * rank
        if seed is None:
            fail("Composer", "origin", "be None where there is no seed", origin, "Pass seed= with it.")
        if len(origin) != rank:
            fail("Composer", "origin", f"have {rank} coordinates", len(origin), "Write origin=(left, top).")
        return tuple(self.family.latents_of(axis, origin[rank - 1 - axis], "origin") for axis in range(rank))

    def _extras(self, extra: Mapping[str, Any] | None, call: Mapping[str, Any]) -> dict[str, Any]:
        known = self.family.extras
        unknown = sorted(set(extra or {}) - set(known))
        if unknown:
            kind, remedy = type(self.pipe).__name__, f"Known are: {', '.join(known) or 'none'}."
            fail("Composer", "extra", f"hold arguments of {kind} alone", ", ".join(unknown), remedy)
        return {**known, **(extra or {}), **call}

    def _progress(self, progress: bool | None) -> bool | None:
        config = getattr(self.pipe, "_progress_bar_config", None) or {}
        return False if progress is None and config.get("disable") else progress
