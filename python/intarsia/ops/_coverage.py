# SPDX-License-Identifier: Apache-2.0
"""Covering lists in plain PyTorch: the twin of kernels/common/plan.h, used where that is not compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_COVERING = 2**27
MAX_CELLS = 2**26
HOST = torch.device("cpu")

Sizes = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Coverage:
    """Which regions cover which cell.

    Attributes:
        edges: per axis int64 [K_i + 1], sorted cell boundaries from 0 to the canvas length.
        axis_cell: per axis int32 [S_i], the cell of every element.
        cell_start: int64 [prod K_i + 1], where the list of each cell, in row-major order, begins.
        cell_region: int32 [nnz], the regions of each cell in canonical order.
        uncovered: number of canvas elements without a region, and the first of them (None if there is none).
    """

    edges: tuple[Tensor, ...]
    axis_cell: tuple[Tensor, ...]
    cell_start: Tensor
    cell_region: Tensor
    uncovered: tuple[int, Sizes | None]


def canonical(offsets: Tensor, canvas: Sizes, patch: Sizes, wrap: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """Offsets reduced on wrapped axes, and the regions in their order: by offset, ties by index.

    Args:
        offsets: int64 [R, n] on the CPU.
        canvas: lengths of the canvas axes.
        patch: lengths of the patch axes.
        wrap: which axes are cyclic.

    Raises:
        ValueError: If a region leaves an axis that does not wrap.
    """
    offsets = offsets.clone()
    for axis, length in enumerate(canvas):
        column = offsets[:, axis]
        if wrap[axis]:
            column.remainder_(length)
            continue
        outside = (column < 0) | (column > length - patch[axis])
        if bool(outside.any()):
            region = int(outside.nonzero()[0])
            start = int(column[region])
            raise ValueError(
                f"offsets must keep every region inside the canvas, region {region} spans {start} to "
                f"{start + patch[axis]} on axis {axis} of {length}"
            )
    order = torch.arange(offsets.shape[0], device=HOST)
    for axis in reversed(range(len(canvas))):
        order = order[torch.argsort(offsets[order, axis], stable=True)]
    return offsets, order


def build_coverage(offsets: Tensor, order: Tensor, canvas: Sizes, patch: Sizes) -> Coverage:
    """Covering lists of canonical offsets.

    Args:
        offsets: int64 [R, n], reduced on wrapped axes.
        order: int64 [R], the regions in canonical order.
        canvas: lengths of the canvas axes.
        patch: lengths of the patch axes.

    Raises:
        ValueError: If there are too many cells or entries.
    """
    edges: list[Tensor] = []
    first: list[Tensor] = []
    count: list[Tensor] = []
    for axis, (length, extent) in enumerate(zip(canvas, patch, strict=True)):
        start = offsets[order, axis].contiguous()
        stop = (start + extent) % length
        ends = torch.tensor([0, length], dtype=torch.int64, device=HOST)
        edge = torch.unique(torch.cat([ends, start, stop]))
        begin = torch.searchsorted(edge, start)
        end = torch.searchsorted(edge, stop)
        edges.append(edge)
        first.append(begin)
        count.append(torch.where(end > begin, end - begin, end - begin + edge.numel() - 1))
    shape = [edge.numel() - 1 for edge in edges]
    pairs = torch.stack(count).prod(0)
    _guard(math.prod(shape), int(pairs.sum()))

    rank = torch.repeat_interleave(torch.arange(order.numel(), device=HOST), pairs)
    within = torch.arange(rank.numel(), device=HOST) - (pairs.cumsum(0) - pairs)[rank]
    cell = torch.zeros_like(rank)
    step = 1
    for axis in reversed(range(len(shape))):
        along = within % count[axis][rank]
        within = within // count[axis][rank]
        cell += (first[axis][rank] + along) % shape[axis] * step
        step *= shape[axis]
    by_cell = torch.argsort(cell, stable=True)
    cell_start = torch.zeros(math.prod(shape) + 1, dtype=torch.int64, device=HOST)
    cell_start[1:] = torch.bincount(cell, minlength=math.prod(shape)).cumsum(0)
    axis_cell = [
        torch.repeat_interleave(torch.arange(cells, dtype=torch.int32, device=HOST), edge.diff())
        for cells, edge in zip(shape, edges, strict=True)
    ]
    cell_region = order[rank[by_cell]].to(torch.int32)
    return Coverage(tuple(edges), tuple(axis_cell), cell_start, cell_region, _uncovered(edges, cell_start))


def _guard(cells: int, covering: int) -> None:
    if cells > MAX_CELLS:
        raise ValueError(
            f"offsets must cut the canvas into at most {MAX_CELLS} cells, got more. "
            "Put the regions on a regular grid or split the canvas."
        )
    if covering > MAX_COVERING:
        raise ValueError(
            f"offsets must make at most {MAX_COVERING} pairs of a cell and a region, got more. "
            "Use fewer regions, a larger stride or a smaller canvas."
        )


def _uncovered(edges: Sequence[Tensor], cell_start: Tensor) -> tuple[int, Sizes | None]:
    empty = cell_start.diff() == 0
    if not bool(empty.any()):
        return 0, None
    sizes = edges[0].diff()
    for edge in edges[1:]:
        sizes = (sizes[:, None] * edge.diff()).flatten()
    cell = int(empty.nonzero()[0])
    corner = []
    for edge in reversed(edges):
        cell, along = divmod(cell, edge.numel() - 1)
        corner.append(int(edge[along]))
    return int(sizes[empty].sum()), tuple(reversed(corner))
