# SPDX-License-Identifier: Apache-2.0
"""Guides: the picture that a part of the canvas follows, and the regions that it leaves free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intarsia.scene.cover import pixels_of
from intarsia.scene.errors import SceneError
from intarsia.scene.schema import Guide, Scene

if TYPE_CHECKING:
    from intarsia.scene.planning import Plan

__all__ = ["box_of", "free_of", "picture_of"]


def box_of(scene: Scene, guide: Guide) -> tuple[int, int, int, int]:
    """Where a guide lies.

    Args:
        scene: whose canvas it is.
        guide: one of its guides.

    Returns:
        (left, top, right, bottom) in pixels.
    """
    return guide.box or (0, 0, scene.canvas.width, scene.canvas.height)


def picture_of(scene: Scene, guide: Guide) -> tuple[Tensor, tuple[int, int, int, int]]:
    """The picture of a guide and its box.

    Args:
        scene: where its files lie.
        guide: one of its guides.

    Returns:
        `[3, h, w]` in [-1, 1], and (left, top, right, bottom) in pixels, of the same size.

    Raises:
        SceneError: a picture that cannot be read, or of another size.
    """
    from intarsia.media import MediaError, read_image

    box = box_of(scene, guide)
    key = f"guides[{scene.guides.index(guide)}].image"
    size = box[3] - box[1], box[2] - box[0]
    try:
        picture = read_image(scene.path(guide.image), max_pixels=size[0] * size[1])
    except MediaError as error:
        raise SceneError(key, str(error).partition(": path ")[2] or str(error)) from None
    if tuple(picture.shape[1:]) != size:
        got = f"{picture.shape[2]} x {picture.shape[1]}"
        raise SceneError(
            key, f"must be as large as its box, {size[1]} x {size[0]}, got {got}. Crop or resize it."
        )
    return picture, box


def free_of(plan: Plan, guide: Guide) -> Tensor:
    """What a guide holds, 1, and what it leaves free, 0: the regions that it names, whole elements at a time.

    Args:
        plan: whose regions are named.
        guide: one of its scene's guides.

    Returns:
        `[h, w]` float32 in pixels, of the size of the guide's box.
    """
    scene, unit = plan.scene, plan.model.unit
    left, top, right, bottom = box_of(scene, guide)
    free = torch.zeros(1, 1, scene.canvas.height, scene.canvas.width)
    for region in plan.regions:
        if region.name in guide.free:
            free = torch.maximum(free, (pixels_of(scene, region) > 0).float()[None, None])
    if unit > 1:
        cells = torch.nn.functional.max_pool2d(free, unit)
        free = torch.nn.functional.interpolate(cells, scale_factor=unit, mode="nearest")
    rows = torch.arange(top, bottom) % scene.canvas.height
    columns = torch.arange(left, right) % scene.canvas.width
    return 1 - free[0, 0][rows][:, columns]
