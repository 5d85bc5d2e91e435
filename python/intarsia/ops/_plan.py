# SPDX-License-Identifier: Apache-2.0
"""Plans: what is known about a set of regions before any value is read.

A plan belongs to the content of (offsets, canvas size, patch size, wrap) and is built once. Where no region
edge lies between two neighbouring elements of an axis they share a *cell*; all elements of a cell (a product
of one cell per axis) are covered by the same regions, listed in canonical order: by offset, ties by index.

Building needs no accelerator; `Plan.on(device)` copies the tables once per device. That first copy must not
happen while a CUDA graph is captured: call the operator once before capturing.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from intarsia.ops._check import CoverageError

__all__ = ["Coverage", "Plan", "get_plan"]

MAX_COVERING = 2**27
MAX_CELLS = 2**26
_HOST = torch.device("cpu")


class Complaint(Exception):
    """What is wrong with the regions; the caller adds the name of its function."""


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
    uncovered: tuple[int, tuple[int, ...] | None]


@dataclass(frozen=True, eq=False)
class Plan:
    """Regions of one size on one canvas.

    Attributes:
        canvas_size: lengths of the canvas axes.
        patch_size: lengths of the patch axes.
        wrap: which axes are cyclic.
        num_regions: R.
        offsets: int64 [R, n]; on wrapped axes reduced to [0, S).
        order: int64 [R], the regions sorted by offset, ties by index.
    """

    canvas_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    wrap: tuple[bool, ...]
    num_regions: int
    offsets: Tensor
    order: Tensor
    _host: Plan | None = field(default=None, repr=False)
    _copies: dict[torch.device, Plan] = field(default_factory=dict, repr=False)

    @cached_property
    def coverage(self) -> Coverage:
        """Covering lists, built when first asked for."""
        if self._host is None:
            return build_coverage(self)
        host, device = self._host.coverage, self.offsets.device
        return Coverage(
            tuple(edges.to(device) for edges in host.edges),
            tuple(cells.to(device) for cells in host.axis_cell),
            host.cell_start.to(device),
            host.cell_region.to(device),
            host.uncovered,
        )

    @property
    def edges(self) -> tuple[Tensor, ...]:
        """Per axis int64 [K_i + 1], sorted cell boundaries."""
        return self.coverage.edges

    @property
    def axis_cell(self) -> tuple[Tensor, ...]:
        """Per axis int32 [S_i], the cell of every element."""
        return self.coverage.axis_cell

    @property
    def cell_start(self) -> Tensor:
        """int64 [prod K_i + 1], where the list of each cell begins."""
        return self.coverage.cell_start

    @property
    def cell_region(self) -> Tensor:
        """int32 [nnz], the regions of each cell in canonical order."""
        return self.coverage.cell_region

    @property
    def uncovered(self) -> tuple[int, tuple[int, ...] | None]:
        """Number of canvas elements without a region, and the first of them."""
        return self.coverage.uncovered

    def on(self, device: torch.device) -> Plan:
        """The same plan with its tensors on `device`; copied once per device."""
        if device == _HOST or self._host is not None:
            return self
        copy = self._copies.get(device)
        if copy is None:
            copy = Plan(
                self.canvas_size,
                self.patch_size,
                self.wrap,
                self.num_regions,
                self.offsets.to(device),
                self.order.to(device),
                self,
            )
            copy = self._copies.setdefault(device, copy)
        return copy

    def require_coverage(self, function: str) -> None:
        """Raise CoverageError if a canvas element belongs to no region."""
        missing, first = self.uncovered
        if missing:
            raise CoverageError(
                f"{function}: offsets must cover every canvas element, {missing} of "
                f"{math.prod(self.canvas_size)} are uncovered (first at {first}). "
                "Pull the last region to the edge or use a smaller stride."
            )


def get_plan(
    function: str,
    offsets: Tensor,
    canvas_size: Sequence[int],
    patch_size: Sequence[int],
    wrap: Sequence[bool],
) -> Plan:
    """The plan for `offsets` int64 [R, n] (contiguous, on the CPU), cached by content."""
    raw = ctypes.string_at(offsets.data_ptr(), 8 * offsets.numel()) if offsets.numel() else b""
    try:
        return _cached(raw, tuple(canvas_size), tuple(patch_size), tuple(wrap))
    except Complaint as complaint:
        raise ValueError(f"{function}: {complaint}") from None


@lru_cache(maxsize=64)
def _cached(raw: bytes, canvas: tuple[int, ...], patch: tuple[int, ...], wrap: tuple[bool, ...]) -> Plan:
    ndim = len(canvas)
    if not raw:
        offsets = torch.zeros((0, ndim), dtype=torch.int64, device=_HOST)
    else:
        offsets = torch.frombuffer(bytearray(raw), dtype=torch.int64).view(-1, ndim)
    for axis in range(ndim):
        column = offsets[:, axis]
        if wrap[axis]:
            column.remainder_(canvas[axis])
            continue
        outside = (column < 0) | (column > canvas[axis] - patch[axis])
        if bad := int(outside.sum()):
            first = tuple(offsets[int(outside.nonzero()[0])].tolist())
            raise Complaint(
                f"offsets must keep patches of {patch} inside the canvas {canvas} on axis {axis}, got {bad} "
                f"outside (first {first}). Move them inside, or set wrap for that axis."
            )
    return Plan(canvas, patch, wrap, offsets.shape[0], offsets, _lexicographic(offsets))


def _lexicographic(offsets: Tensor) -> Tensor:
    order = torch.arange(offsets.shape[0], device=_HOST)
    for axis in reversed(range(offsets.shape[1])):
        order = order[torch.argsort(offsets[order, axis], stable=True)]
    return order


def build_coverage(plan: Plan) -> Coverage:
    """Covering lists in plain PyTorch."""
    edges: list[Tensor] = []
    first: list[Tensor] = []
    count: list[Tensor] = []
    offsets = plan.offsets[plan.order]
    for axis, (length, extent) in enumerate(zip(plan.canvas_size, plan.patch_size, strict=True)):
        start = offsets[:, axis].contiguous()
        stop = (start + extent) % length
        ends = torch.tensor([0, length], dtype=torch.int64, device=_HOST)
        edge = torch.unique(torch.cat([ends, start, stop]))
        begin = torch.searchsorted(edge, start)
        end = torch.searchsorted(edge, stop)
        cells = edge.numel() - 1
        edges.append(edge)
        first.append(begin)
        count.append(torch.where(end > begin, end - begin, end - begin + cells))
    shape = [edge.numel() - 1 for edge in edges]
    pairs = (
        torch.stack(count).prod(0) if plan.num_regions else torch.zeros(0, dtype=torch.int64, device=_HOST)
    )
    _guard(math.prod(shape), int(pairs.sum()))

    region = torch.repeat_interleave(torch.arange(plan.num_regions, device=_HOST), pairs)
    within = torch.arange(region.numel(), device=_HOST) - (pairs.cumsum(0) - pairs)[region]
    cell = torch.zeros_like(region)
    step = 1
    for axis in reversed(range(len(shape))):
        along = within % count[axis][region]
        within = within // count[axis][region]
        cell += (first[axis][region] + along) % shape[axis] * step
        step *= shape[axis]
    by_cell = torch.argsort(cell, stable=True)
    start_of = torch.zeros(math.prod(shape) + 1, dtype=torch.int64, device=_HOST)
    start_of[1:] = torch.bincount(cell, minlength=math.prod(shape)).cumsum(0)

    return Coverage(
        tuple(edges),
        tuple(
            torch.repeat_interleave(torch.arange(k, dtype=torch.int32, device=_HOST), e.diff())
            for k, e in zip(shape, edges, strict=True)
        ),
        start_of,
        plan.order[region[by_cell]].to(torch.int32),
        _uncovered(edges, start_of),
    )


def _guard(cells: int, covering: int) -> None:
    if cells > MAX_CELLS or covering > MAX_COVERING:
        raise Complaint(
            f"offsets must give at most {MAX_CELLS} cells and {MAX_COVERING} covering entries, got {cells} "
            f"and {covering}. Put the regions on a common grid or merge them in parts."
        )


def _uncovered(edges: Sequence[Tensor], cell_start: Tensor) -> tuple[int, tuple[int, ...] | None]:
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
