# SPDX-License-Identifier: Apache-2.0
"""Gradient energy across the borders of regions, against the interior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Border", "Boxes", "SeamReport", "seam_report"]


class Boxes(Protocol):
    """What `seam_report` needs of a layout; `layout.Layout` and `layout.BoxSet` have it."""

    @property
    def size(self) -> tuple[int, ...]:
        """Canvas size `(S_1..S_n)`."""

    @property
    def wrap(self) -> tuple[bool, ...]:
        """Per axis, whether the canvas closes onto itself."""

    def boxes(self) -> Sequence[tuple[tuple[int, ...], tuple[int, ...]]]:
        """`(offset, size)` of every region."""


@dataclass(frozen=True)
class Border:
    """One line of borders.

    Attributes:
        axis: canvas axis that the border cuts.
        position: the border lies between elements `position - 1` and `position` of that axis; 0 is the
            closing seam of a wrapped axis.
        ratio: gradient energy across it, relative to the interior of the same axis.
    """

    axis: int
    position: int
    ratio: float


@dataclass(frozen=True)
class SeamReport:
    """Result of `seam_report`.

    Attributes:
        ratio: energy at the borders over energy elsewhere; 1 means that borders cannot be told from the
            rest, much more than 1 that they show, less than 1 that they are blurred.
        ratios: the same for each picture of the batch.
        border: mean squared difference across borders, over all axes that have any.
        interior: mean squared difference elsewhere along the same axes.
        borders: each line of borders, averaged over the batch.
    """

    ratio: float
    ratios: tuple[float, ...]
    border: float
    interior: float
    borders: tuple[Border, ...]


def _steps(picture: Tensor, axis: int) -> Tensor:
    """`[B, *S]` squared step from element j - 1 to j along `axis`, averaged over channels."""
    return (picture - picture.roll(1, dims=axis + 2)).square().mean(1)


def _borders(layout: Boxes, axis: int) -> Tensor:
    """`[*S]` bool: True at j where a region begins or ends between j - 1 and j along `axis`."""
    size, wrap = layout.size, layout.wrap
    found = torch.zeros(size, dtype=torch.bool)
    for offset, extent in layout.boxes():
        ranges = [torch.arange(o, o + s) % S for o, s, S in zip(offset, extent, size, strict=True)]
        ranges[axis] = torch.tensor([offset[axis], offset[axis] + extent[axis]]) % size[axis]
        found[tuple(torch.meshgrid(*ranges, indexing="ij"))] = True
    if not wrap[axis]:
        found.select(axis, 0).fill_(False)
    return found


def _ratio(border: Tensor, interior: Tensor) -> Tensor:
    """Quotient of energies `[...]`; 1 where both are 0, as in a flat picture."""
    return torch.where((border == 0) & (interior == 0), torch.ones_like(border), border / interior)


def seam_report(picture: Tensor, layout: Boxes) -> SeamReport:
    """How much the borders of regions show in a picture.

    Along every canvas axis, `e_j = mean_c (x_j - x_{j-1})^2` is split into elements where a region begins or
    ends and all others; the ratio of the two means is 1 for a picture that does not know its regions. Along a
    wrapped axis the step from the last element to the first is one of the `e_j`, so the closing seam counts
    like every other; along other axes the canvas edge is no border. Several axes are pooled in proportion
    to their number of border elements. Pictures of a batch pool their energies, so that a picture
    with little contrast does not dominate `ratio`; `ratios` keeps them apart.

    Args:
        picture: `[B, C, *S]` or `[C, *S]`, any real dtype.
        layout: where the regions lie: a `Layout`, a `BoxSet`, or anything with `size`, `wrap` and `boxes()`.
            It may be another layout than the picture was made with, to compare methods at equal places.

    Returns:
        The report.

    Raises:
        ValueError: if the picture is not of the layout's size, or no border or no interior is left.

    Note:
        Computed in float64, on the picture's device; deterministic.

    Example:
        >>> from intarsia import layout
        >>> step = torch.tensor([0.0, 0.1, 0.0, 0.1, 1.0, 1.1, 1.0, 1.1]).reshape(1, 1, 8)
        >>> round(seam_report(step, layout.chain(8, 4, 4)).ratio)
        81
    """
    size = tuple(layout.size)
    n = len(size)
    if tuple(picture.shape[-n:]) != size or picture.ndim not in (n + 1, n + 2) or picture.numel() == 0:
        raise ValueError(
            f"seam_report: picture must be [B, C, {', '.join(map(str, size))}] or without B, got "
            f"{tuple(picture.shape)}. Pass the layout of this canvas, before any upscaling."
        )
    pictures = picture.detach().double().reshape(-1, picture.shape[-n - 1], *size)
    border = torch.zeros(len(pictures), dtype=torch.float64, device=pictures.device)
    interior, weighted, count, lines = torch.zeros_like(border), torch.zeros_like(border), 0, []
    pooled = 0.0
    for axis in range(n):
        at = _borders(layout, axis).to(pictures.device)
        if not at.any():
            continue
        rest = ~at
        if not layout.wrap[axis]:
            rest.select(axis, 0).fill_(False)
        if not rest.any():
            raise ValueError(
                f"seam_report: layout must leave an interior between its borders, got one that borders every "
                f"element of axis {axis}. Use a layout with a larger stride."
            )
        energy, cells = _steps(pictures, axis), int(at.sum())
        edge, inside = energy[:, at].mean(1), energy[:, rest].mean(1)
        border, interior = border + cells * edge, interior + cells * inside
        weighted, count = weighted + cells * _ratio(edge, inside), count + cells
        pooled += cells * float(_ratio(edge.mean(), inside.mean()))
        for j in at.nonzero()[:, axis].unique().tolist():
            line = energy.select(axis + 1, j)[:, at.select(axis, j)].mean()
            lines.append(Border(axis, j, float(_ratio(line, inside.mean()))))
    if not count:
        raise ValueError(
            "seam_report: layout must have a border inside the canvas, got one region that covers it. "
            "Pass a layout of several regions."
        )
    return SeamReport(
        ratio=pooled / count,
        ratios=tuple((weighted / count).tolist()),
        border=float(border.mean()) / count,
        interior=float(interior.mean()) / count,
        borders=tuple(lines),
    )
