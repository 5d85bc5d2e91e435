# SPDX-License-Identifier: Apache-2.0
"""`--method bethe`: regions at half overlap, less what they share, as DiffCollage counts them."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.compose import Composite, Factor, weighted_sum
from intarsia.layout import Layout, counting_numbers, separators
from intarsia.layout.regions import Box
from intarsia.types import Denoiser

__all__ = ["collage", "vertical_place"]


def vertical_place(boxes: tuple[Box, ...], height: int) -> Tensor:
    """Centre and extent of boxes relative to a picture `height` high, `[R, 2]` float32 in [0, 1]."""
    rows = torch.tensor([[offset[0] + extent[0] / 2, extent[0]] for offset, extent in boxes])
    return (rows.double() / height).float().clamp(0, 1)


def collage(
    denoiser: Denoiser,
    separator_denoiser: Denoiser,
    spread: Layout,
    *,
    layout: Layout,
    share: Tensor,
    cond: dict[str, Tensor],
    max_batch: int,
) -> Composite:
    """Sum the regions of a picture, and take away what neighbours share as often as it counts too often.

    Separators take the null style, for they belong to no style more than to another, but know their height.

    Args:
        denoiser: of the regions.
        separator_denoiser: of what they share.
        spread: the places of the regions, each once.
        layout: the regions; those where styles mix stand there once for each style.
        share: `[R]` float64, parts of the styles, which sum to one at every place.
        cond: of the regions.
        max_batch: regions that go through the network at once.

    Returns:
        The composite.
    """
    patches = Factor(denoiser, layout, coefficient=share, cond=cond, max_batch=max_batch)
    between = separators(spread)
    if between is None:
        return weighted_sum(patches)
    places = between.boxes()
    counts = counting_numbers(spread.boxes(), places, spread.size, spread.wrap)
    own = {
        "style": torch.zeros(len(places), dtype=torch.long),
        "vertical": vertical_place(places, spread.size[0]),
    }
    joints = Factor(separator_denoiser, between, coefficient=counts.double(), cond=own, max_batch=max_batch)
    return weighted_sum(patches, joints)
