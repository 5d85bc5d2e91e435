# SPDX-License-Identifier: Apache-2.0
"""`paint_pipeline`: a planned scene with a diffusers pipeline, through its composer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from intarsia.adapters.folder import FolderError
from intarsia.scene.cover import pixels_of
from intarsia.scene.errors import SceneError
from intarsia.scene.guiding import free_of, picture_of
from intarsia.scene.noise import SceneNoise
from intarsia.scene.painting import Painting, rerolls
from intarsia.scene.planning import Plan

__all__ = ["paint_pipeline"]


def _dtype(plan: Plan, device: torch.device) -> torch.dtype:
    name = plan.scene.machine.precision
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device.type == "cpu":
        return torch.float32
    return (
        torch.bfloat16
        if plan.model.pipeline in ("FluxPipeline", "StableDiffusion3Pipeline")
        else torch.float16
    )


def _load(plan: Plan, device: torch.device, dtype: torch.dtype) -> Any:
    from intarsia.adapters.pipeline import fetch, load_pipeline, with_solver

    try:
        path = plan.model.path
        if path is None and plan.model.repository is not None:
            path = fetch(*plan.model.repository)
        if path is None:
            raise FolderError("must be a folder that is there")
        pipe = load_pipeline(path, device=device, dtype=dtype)
    except FolderError as error:
        raise SceneError("model", str(error).partition(": path ")[2] or str(error)) from None
    if plan.scene.solver is not None:
        try:
            with_solver(pipe, plan.scene.solver)
        except ValueError as error:
            raise SceneError("solver", str(error).partition(": name ")[2]) from None
    return pipe


def paint_pipeline(
    plan: Plan,
    *,
    device: torch.device | str = "cpu",
    callback: Callable[..., Any] | None = None,
) -> Painting:
    """Paint a scene with Stable Diffusion, XL, 3 or Flux from a folder.

    Args:
        plan: of a scene whose model is a diffusers folder or a hub's.
        device: where to compute. Noise is always drawn on the CPU: a seed means the same noise everywhere.
        callback: called after each step with its index.

    Returns:
        The painting. What guides of strength 1 cover are their own pixels, not those that the autoencoder
        makes of them.

    Raises:
        SceneError: the folder would have to be trusted, or something does not fit.
    """
    from intarsia.adapters.diffusers.composer import Composer
    from intarsia.adapters.diffusers.guide import ImageGuide
    from intarsia.adapters.diffusers.region import Region

    scene, place = plan.scene, torch.device(device)
    dtype = _dtype(plan, place)
    composer = Composer.from_pipe(_load(plan, place, dtype))
    source = SceneNoise(scene.seed, rerolls(plan))
    regions = [
        Region(
            box=None if region.mask or region.feather else region.box,
            mask=pixels_of(scene, region) if region.mask or region.feather else None,
            prompt=region.prompt,
            negative_prompt=region.negative if region.negative is not None else scene.negative,
            guidance_scale=region.guidance,
            weight=region.weight,
        )
        for region in plan.painted
    ]
    pictures = [(*picture_of(scene, guide), free_of(plan, guide), guide.strength) for guide in scene.guides]
    guides = [
        ImageGuide((picture + 1) / 2, box, strength, mask=kept) for picture, box, kept, strength in pictures
    ]

    def step(_: Any, index: int, __: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if callback is not None:
            callback(index, None, None)
        return tensors

    found = composer(
        scene.prompt,
        negative_prompt=scene.negative if scene.prompt is not None else None,
        regions=regions,
        guides=guides,
        height=scene.canvas.height,
        width=scene.canvas.width,
        wrap=scene.wraps,
        overlap=None if scene.overlap is None else (scene.overlap[1], scene.overlap[0]),
        patch=None if scene.patch is None else plan.patch,
        window=scene.window,
        num_inference_steps=scene.steps,
        guidance_scale=scene.guidance,
        generator=torch.Generator().manual_seed(scene.seed),
        latents=source.initial(plan.size, composer.family.channels).to(place),
        output_type="pt",
        callback_on_step_end=step,
        max_batch=scene.machine.max_batch,
        progress=False,
    )
    picture = found.images[0].float().cpu() * 2 - 1
    for kept, box, free, strength in pictures:
        if strength == 1:
            part = picture[:, box[1] : box[3], box[0] : box[2]]
            picture[:, box[1] : box[3], box[0] : box[2]] = torch.where(free == 1, kept, part)
    return Painting(picture, str(dtype).removeprefix("torch."), place.type)
