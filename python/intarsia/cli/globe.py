# SPDX-License-Identifier: Apache-2.0
"""Where a network of upright pictures looks on a sphere, and what it is told there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia import compose, layout
from intarsia.layout.cubemap import Part
from intarsia.layout.gathered import Gathered
from intarsia.types import Denoiser

__all__ = ["Globe", "blended", "cube", "upright"]

_UP, _DOWN = 4, 5
_SKY, _GROUND = (0.1, 0.2), (0.9, 0.2)


@dataclass(frozen=True)
class Globe:
    """Regions on six faces `[6, H, H]`, upright everywhere.

    Attributes:
        layout: the regions.
        vertical: `[R, 2]` float32, vertical centre and extent relative to the scene between sky and ground.
    """

    layout: Gathered
    vertical: Tensor


def upright(face: int, patch: int) -> Globe:
    """Lay regions over a sphere so that up is up in each: no landscape lies on its side.

    Around the horizon they stand as in a strip that closes. Over each edge of the upper face they reach from
    the horizon's face beneath, likewise below; within the upper and the lower face they stand towards the
    edge that is nearest.

    Args:
        face: H, elements along an edge, at least `patch`; a multiple of half a patch.
        patch: of the regions.

    Returns:
        The regions, which cover all faces.
    """
    places = torch.arange(6 * face * face).reshape(6, face, face)
    half = patch // 2
    rows, vertical = [], []

    def add(sheet: Tensor, top: int, left: int, told: tuple[float, float]) -> None:
        rows.append(sheet[top : top + patch, left : left + patch])
        vertical.append(told)

    horizon = torch.cat([places[k] for k in range(4)], 1)
    around = torch.cat([horizon, horizon[:, :patch]], 1)
    for top in range(0, face - patch + 1, half):
        for left in range(0, 4 * face, half):
            add(around, top, left, ((top + half) / face, patch / face))
    for k in range(4):
        # Turned so that their edge with face k is the lower one of the sky, the upper one of the ground.
        above, below = torch.rot90(places[_UP], -k), torch.rot90(places[_DOWN], k)
        sky, ground = torch.cat([above, places[k]]), torch.cat([places[k], below])
        for left in range(0, face - patch + 1, half):
            add(sky, face - half, left, _SKY)
            add(ground, face - half, left, _GROUND)
            add(sky, face - patch, left, _SKY)
            add(ground, face, left, _GROUND)
    for top in range(half, face - patch - half + 1, half):
        for left in range(half, face - patch - half + 1, half):
            add(places[_UP], top, left, _SKY)
            add(places[_DOWN], top, left, _GROUND)
    return Globe(Gathered((6, face, face), torch.stack(rows)), torch.tensor(vertical))


def blended(denoiser: Denoiser, globe: Globe, style: int, max_batch: int) -> Denoiser:
    """The average of what the regions of a globe say, by Gaussian windows.

    Args:
        denoiser: a network of patches with cond `"style"` and `"vertical"`.
        globe: the regions.
        style: index of the style.
        max_batch: regions that go through the network at once.

    Returns:
        A denoiser of `[B, 3, 6, H, H]`.
    """
    count = globe.layout.num_regions
    cond = {"style": torch.full((count,), style), "vertical": globe.vertical}
    return compose.average(
        compose.Factor(denoiser, globe.layout, layout.gaussian, cond=cond, max_batch=max_batch)
    )


def cube(denoiser: Denoiser, face: int, patch: int, style: int, max_batch: int) -> Denoiser:
    """The three crossing rings of DiffCollage: for styles without an up, such as stars or gravel.

    Args:
        denoiser: a network of patches with cond `"style"` and `"vertical"`.
        face: H, elements along an edge.
        patch: of the regions.
        style: index of the style of the rings; what they share takes the null style.
        max_batch: regions that go through the network at once.

    Returns:
        A denoiser of `[B, 3, 6, H, H]`.
    """

    def told(part: Part) -> dict[str, Tensor]:
        count = part.layout.num_regions
        middle = 0.5 - 0.5 * part.directions[:, 1].clamp(-1, 1)
        extent = torch.full_like(middle, min(1.0, part.layout.patch[0] / (2 * face)))
        return {
            "style": torch.full((count,), style if part.kind == "ring" else 0),
            "vertical": torch.stack([middle.clamp(extent / 2, 1 - extent / 2), extent], 1),
        }

    rings = layout.cubemap(face, patch=patch, stride=patch // 2, symmetric=False)
    return compose.bethe(denoiser, rings, cond=told, max_batch=max_batch)
