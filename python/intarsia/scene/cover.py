# SPDX-License-Identifier: Apache-2.0
"""How much of each element of a canvas belongs to a region: boxes, faded boxes, masks."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.scene.errors import SceneError
from intarsia.scene.schema import Region, Scene

__all__ = ["cover_of", "pixels_of"]


def pixels_of(scene: Scene, region: Region) -> Tensor:
    """The part of every pixel that is the region's.

    Args:
        scene: its canvas, and where its files lie.
        region: with a box, faded or not, or a mask.

    Returns:
        `[H, W]` float32 in [0, 1].

    Raises:
        SceneError: a mask that cannot be read, or has another size than the canvas.
    """
    size = scene.canvas.height, scene.canvas.width
    if region.mask is not None:
        return _mask(scene, region, size)
    assert region.box is not None
    left, top, right, bottom = region.box
    ramps = [
        _ramp(low, high, length, region.feather, closed=closed)
        for low, high, length, closed in zip((top, left), (bottom, right), size, scene.wraps, strict=True)
    ]
    return ramps[0][:, None] * ramps[1][None, :]


def _ramp(low: int, high: int, length: int, feather: int, *, closed: bool) -> Tensor:
    """1 inside, falling to 0 over `feather` from both ends, but not at an end of the canvas."""
    place = torch.arange(high - low, dtype=torch.float64) + 0.5
    inside = torch.ones_like(place)
    if feather:
        if closed or low > 0:
            inside *= 0.5 - 0.5 * torch.cos(torch.pi * (place / feather).clamp(max=1))
        if closed or high < length:
            inside *= 0.5 - 0.5 * torch.cos(torch.pi * (place.flip(0) / feather).clamp(max=1))
    along = torch.zeros(length)
    along[torch.arange(low, high) % length] = inside.float()
    return along


def _mask(scene: Scene, region: Region, size: tuple[int, int]) -> Tensor:
    from intarsia.media import MediaError, read_image

    key = f"{region.name}.mask"
    assert region.mask is not None
    try:
        mask = read_image(scene.path(region.mask), max_pixels=size[0] * size[1])
    except MediaError as error:
        raise SceneError(key, str(error).partition(": path ")[2] or str(error)) from None
    if tuple(mask.shape[1:]) != size:
        raise SceneError(key, f"must be as large as the canvas, got {mask.shape[2]} x {mask.shape[1]}.")
    return mask.mean(0).add(1).div(2).clamp(0, 1)


def cover_of(scene: Scene, region: Region, *, unit: int) -> Tensor:
    """The part of every element of the canvas that is the region's.

    Args:
        scene: its canvas, and where its files lie.
        region: with a box or a mask.
        unit: pixels of an element, per axis; what an element has is the mean over its pixels.

    Returns:
        `[*S]` float32 in [0, 1].
    """
    pixels = pixels_of(scene, region)
    if unit == 1:
        return pixels
    return torch.nn.functional.avg_pool2d(pixels[None, None], unit)[0, 0]
