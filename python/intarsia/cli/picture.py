# SPDX-License-Identifier: Apache-2.0
"""From settings to a picture: regions, their styles and places, the composite, the solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia import compose, guidance, layout, samplers, schedules
from intarsia.cli.collage import collage
from intarsia.cli.settings import ImageSettings
from intarsia.layout import Layout
from intarsia.scene.transition import shares
from intarsia.types import Denoiser

__all__ = ["Regions", "find_solver", "paint", "place"]


@dataclass(frozen=True)
class Regions:
    """Where the network works, and what it is told there.

    Attributes:
        spread: their places, each once.
        layout: the regions; one where two styles mix stands twice, once for each.
        share: `[R]` float64, the part of the style in its region; the parts of a place sum to one.
        cond: `"style" [R]` int64 and `"vertical" [R, 2]` float32.
    """

    spread: Layout
    layout: Layout
    share: Tensor
    cond: dict[str, Tensor]


def place(settings: ImageSettings, *, patch: tuple[int, int], classes: Sequence[int]) -> Regions:
    """Lay regions over the canvas and give each its style and height.

    The canvas may be larger than the picture (see `ImageSettings.canvas`), which is its upper left part.

    Args:
        settings: size, method, stride, blend and loop are read.
        patch: `(h, w)` of a region.
        classes: the styles' class indices, left to right, each with an equal part of the width. Empty: 0.

    Returns:
        The regions.
    """
    apart = settings.method == "concat"
    size = settings.canvas(patch)
    spread = layout.grid(size, patch, settings.strides(patch), (False, settings.loop))
    classes = list(classes) or [0]
    blend = 0 if apart else min(settings.blend, settings.width // len(classes))
    rows, styles, parts = [], [], []
    for index, x in enumerate(spread.offsets[:, 1].tolist()):
        centre = (x + patch[1] / 2) % size[1]
        for piece, share in shares(centre, len(classes), size[1], blend, loop=settings.loop):
            rows.append(index)
            styles.append(classes[piece])
            parts.append(share)
    which = torch.tensor(rows)
    offsets = spread.offsets[which]
    height = size[0] if settings.method == "bethe" else settings.height
    middle = (offsets[:, 0].double() + patch[0] / 2) / height
    extent = torch.full_like(middle, patch[0] / height)
    vertical = torch.stack([middle, extent], 1).float().clamp(0, 1)
    return Regions(
        spread,
        Layout(spread.size, patch, offsets, spread.wrap),
        torch.tensor(parts, dtype=torch.float64),
        {"style": torch.tensor(styles), "vertical": vertical},
    )


def find_solver(name: str) -> Any:
    """The solver of this name, with its defaults."""
    return {
        "dpmpp2m": samplers.DPMpp2M,
        "heun": samplers.Heun,
        "euler": samplers.Euler,
        "ddim": samplers.DDIM,
        "ancestral": samplers.EulerAncestral,
    }[name]()


def _compose(denoiser: Denoiser, settings: ImageSettings, regions: Regions, *, guided: bool) -> Denoiser:
    plain = denoiser
    if settings.guidance != 1 and guided:
        denoiser = guidance.CFG(denoiser, {"style": torch.zeros(1, dtype=torch.long)}, settings.guidance)
    if settings.method == "bethe":
        parts = collage(
            denoiser,
            plain,
            regions.spread,
            cond=regions.cond,
            height=regions.spread.size[0],
            layout=regions.layout,
            share=regions.share,
            max_batch=settings.max_batch,
        )
        return compose.weighted_sum(*parts)
    factor = compose.Factor(
        denoiser,
        regions.layout,
        layout.gaussian if settings.method == "gaussian" else layout.uniform,
        coefficient=regions.share,
        cond=regions.cond,
        max_batch=settings.max_batch,
    )
    return compose.average(factor)


def paint(
    denoiser: Denoiser,
    settings: ImageSettings,
    *,
    patch: tuple[int, int],
    classes: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    sigma_range: tuple[float, float] = (0.002, 80.0),
    device: torch.device | str = "cpu",
    callback: Callable[..., Any] | None = None,
) -> Tensor:
    """Make pictures.

    Args:
        denoiser: a network of patches `[rows, 3, h, w]` with cond `"style"` and `"vertical"`.
        settings: see `ImageSettings`; model, precision, device and upscale are not read here.
        patch: `(h, w)` of the regions.
        classes: the styles' class indices, left to right.
        seeds: one per picture; None makes one picture from `settings.seed`.
        sigma_range: smallest and largest noise level.
        device: where to compute. Noise is always drawn on the CPU: a seed means the same noise everywhere.
        callback: called after each step, see `samplers.sample`.

    Returns:
        `[B, 3, height, width]` float32 on the CPU, about [-1, 1].
    """
    regions = place(settings, patch=patch, classes=classes)
    composite = _compose(denoiser, settings, regions, guided=bool(classes))
    generators = [torch.Generator().manual_seed(seed) for seed in (seeds or [settings.seed])]
    noise = torch.stack([torch.randn(3, *regions.layout.size, generator=g) for g in generators])
    sigmas = schedules.karras(settings.steps, *sigma_range)
    pictures = samplers.sample(
        composite,
        noise.to(device) * sigmas[0],
        sigmas,
        find_solver(settings.solver),
        generator=generators,
        callback=callback,
        progress=False,
    )
    return pictures[..., : settings.height, : settings.width].float().cpu()
