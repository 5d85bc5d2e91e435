# SPDX-License-Identifier: Apache-2.0
"""`--method bethe`: regions at half overlap, less what they share, as DiffCollage counts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.compose import Factor
from intarsia.layout import BoxSet, Layout, counting_numbers, separators
from intarsia.layout.regions import Box
from intarsia.types import Denoiser

__all__ = ["collage", "vertical_place"]


def vertical_place(boxes: Sequence[Box], height: int) -> Tensor:
    """Centre and extent of boxes relative to a picture `height` high, `[R, 2]` float32 in [0, 1]."""
    rows = torch.tensor([[offset[0] + extent[0] / 2, extent[0]] for offset, extent in boxes])
    return (rows.double() / height).float().clamp(0, 1)


def collage(
    denoiser: Denoiser,
    separator_denoiser: Denoiser,
    spread: Layout | BoxSet,
    *,
    cond: dict[str, Tensor],
    height: int,
    layout: Layout | BoxSet | None = None,
    share: Tensor | float = 1.0,
    max_batch: int,
) -> tuple[Factor, ...]:
    """The regions of a picture, and what neighbours share, taken away as often as it counts too often.

    Separators take the null style, for they belong to no style more than to another, but know their height.

    Args:
        denoiser: of the regions.
        separator_denoiser: of what they share.
        spread: the places of the regions, each once.
        cond: of the regions.
        height: of the picture that they know their vertical place in.
        layout: the regions; those where styles mix stand there once for each style. None: `spread`.
        share: `[R]` float64, parts of the styles, which sum to one at every place.
        max_batch: regions that go through the network at once.

    Returns:
        Factors that sum to one wherever there is a region.
    """
    patches = Factor(denoiser, layout or spread, coefficient=share, cond=cond, max_batch=max_batch)
    between = separators(spread)
    if between is None:
        return (patches,)
    places = between.boxes()
    counts = counting_numbers(spread.boxes(), places, spread.size, spread.wrap)
    own = {
        "style": torch.zeros(len(places), dtype=torch.long),
        "vertical": vertical_place(places, height),
    }
    joints = Factor(separator_denoiser, between, coefficient=counts.double(), cond=own, max_batch=max_batch)
    return patches, joints
