# SPDX-License-Identifier: Apache-2.0
"""`paint`: a planned scene with a model of pixels, composed, sampled, guided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia import compose, guidance, models, samplers, schedules
from intarsia.conditioning import ImageGuide
from intarsia.models import EDMDenoiser
from intarsia.scene.content import Content, contents
from intarsia.scene.cover import cover_of
from intarsia.scene.guiding import free_of, picture_of
from intarsia.scene.noise import SceneNoise
from intarsia.scene.planning import Plan

__all__ = ["Painting", "paint", "rerolls"]

_SOLVERS: dict[str, Callable[[], Any]] = {
    "dpmpp2m": samplers.DPMpp2M,
    "heun": samplers.Heun,
    "euler": samplers.Euler,
    "ddim": samplers.DDIM,
    "ancestral": samplers.EulerAncestral,
}


@dataclass(frozen=True, eq=False)
class Painting:
    """A finished picture and what it was made with.

    Attributes:
        picture: `[3, H, W]` float32 on the CPU, about [-1, 1].
        precision: of the network.
        device: where it ran.
    """

    picture: Tensor
    precision: str
    device: str


def _guides(plan: Plan, noise: Tensor) -> list[ImageGuide]:
    scene, found = plan.scene, []
    for guide in scene.guides:
        picture, (left, top, right, bottom) = picture_of(scene, guide)
        place = (top, left), (bottom - top, right - left)
        kept = free_of(plan, guide) if guide.free else None
        found.append(
            ImageGuide(picture[None], place, guide.strength, noise=noise, wrap=scene.wraps, weight=kept)
        )
    return found


def _factor(plan: Plan, denoiser: EDMDenoiser, content: Content) -> compose.Factor:
    height = plan.scene.canvas.height
    rows = torch.tensor([[place[0] + size[0] / 2, size[0]] for place, size in content.layout.boxes()])
    leaf: Any = denoiser
    if content.terms == 2:
        leaf = guidance.CFG(denoiser, {"style": torch.zeros(1, dtype=torch.long)}, content.scale)
    return compose.Factor(
        leaf,
        content.layout,
        content.weight,
        coefficient=content.coefficient,
        cond={
            "style": torch.tensor([denoiser.styles.get(name, 0) for name in content.styles]),
            "vertical": (rows / height).float().clamp(0, 1),
        },
        max_batch=plan.scene.machine.max_batch,
    )


def paint(
    plan: Plan,
    *,
    device: torch.device | str = "cpu",
    callback: Callable[..., Any] | None = None,
) -> Painting:
    """Paint a scene with a bundled model, or one of `intarsia train`.

    Args:
        plan: of a scene whose model is one of pixels.
        device: where to compute. Noise is always drawn on the CPU: a seed means the same noise everywhere.
        callback: called after each step, before the guides; see `samplers.sample`.

    Returns:
        The painting.

    Raises:
        SceneError: a guide's picture does not fit.
        ValueError: the model's file is damaged.

    Note:
        Canvas noise: a region with another seed has other noise, and the rest of the canvas the same.
    """
    scene = plan.scene
    precision = scene.machine.precision
    denoiser = models.load(
        str(plan.model.path or plan.model.name),
        device=device,
        dtype=None if precision == "auto" else getattr(torch, precision),
    )
    source = SceneNoise(scene.seed, rerolls(plan))
    noise = source.initial(plan.size, plan.model.channels)
    sigmas = schedules.karras(scene.steps, denoiser.sigma_min, denoiser.sigma_max)
    composite = compose.average(*(_factor(plan, denoiser, content) for content in contents(plan)))
    watchers = [callback] if callback else []
    picture = samplers.sample(
        composite,
        noise.to(device) * sigmas[0],
        sigmas,
        _SOLVERS[scene.solver or "dpmpp2m"](),
        generator=source,
        callback=[*watchers, *_guides(plan, noise)],
        progress=False,
    )
    used = str(denoiser.compute_dtype).removeprefix("torch.")
    return Painting(picture[0].float().cpu(), used, torch.device(device).type)


def rerolls(plan: Plan) -> list[tuple[Tensor, int]]:
    """The regions that have noise of their own.

    Args:
        plan: whose regions may have seeds.

    Returns:
        `(part [*S] in [0, 1], seed)` per such region, in elements of the canvas.
    """
    return [
        (cover_of(plan.scene, region, unit=plan.model.unit), region.seed)
        for region in plan.regions
        if region.seed is not None
    ]
