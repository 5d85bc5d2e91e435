# SPDX-License-Identifier: Apache-2.0
"""Plans: what is known about a set of regions before any value is read.

A plan belongs to the content of (offsets, canvas size, patch size, wrap) and is built once. Where no region
edge lies between two neighbouring elements of an axis they share a *cell*; all elements of a cell (a product
of one cell per axis) are covered by the same regions, listed in canonical order: by offset, ties by index.

Building needs no accelerator; `Plan.on(device)` copies the tables once per device. That first copy must not
happen while a CUDA graph is captured: call the operator once before capturing.

The last plans used are cached. One that leaves the cache is freed when the streams that read its tables have
passed that point (`Plan.keep`). A plan used while a CUDA graph is captured is never freed, as nothing tells
when the graph is gone. It costs mainly four bytes for each pair of a cell and a region that covers it, on the
device and on the host: 0.4 MB for 1378 regions of 64 x 64 at stride 8.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._backend import load
from intarsia.ops._check import CoverageError, check_offsets
from intarsia.ops._coverage import HOST, Coverage, Sizes, build_coverage, canonical

Prepared = tuple[tuple[int, ...], "Plan"]
_ready: dict[tuple[Any, ...], Prepared] = {}
_captured: set[Plan] = set()


class lazy:  # noqa: N801
    """A cached property without a lock, which a fork in the wrong moment would leave locked in the child."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build
        self.__doc__ = build.__doc__

    def __get__(self, plan: Any, owner: type) -> Any:
        return plan.__dict__.setdefault(self.build.__name__, self.build(plan))


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

    canvas_size: Sizes
    patch_size: Sizes
    wrap: tuple[bool, ...]
    num_regions: int
    offsets: Tensor
    order: Tensor
    _host: Plan | None = field(default=None, repr=False)
    _copies: dict[torch.device, Plan] = field(default_factory=dict, repr=False)
    _readers: set[tuple[int, bool]] = field(default_factory=set, repr=False)

    @lazy
    def handle(self) -> Any:
        """The compiled module's own form of this plan, for its backends; keeps what it points to."""
        if self._host is not None:
            lists = self.edges, self.axis_cell, self.cell_start, self.cell_region
            return self._host.handle.on_device(self.offsets, self.order, *lists)
        build: Any = load("cpu")
        return build.build_plan(self.offsets, self.canvas_size, self.patch_size, self.wrap)

    @lazy
    def coverage(self) -> Coverage:
        """Covering lists, built when first asked for."""
        if self._host is not None:
            host, device = self._host.coverage, self.offsets.device
            edges = tuple([edge.to(device) for edge in host.edges])
            axis_cell = tuple([cells.to(device) for cells in host.axis_cell])
            lists = host.cell_start.to(device), host.cell_region.to(device)
            return Coverage(edges, axis_cell, *lists, host.uncovered)
        handle = self.compiled
        if handle is None:
            return build_coverage(self.offsets, self.order, self.canvas_size, self.patch_size)
        return Coverage(
            tuple([_borrow(edge, torch.int64) for edge in handle.edges]),
            tuple([_borrow(cells, torch.int32) for cells in handle.axis_cell]),
            _borrow(handle.cell_start, torch.int64),
            _borrow(handle.cell_region, torch.int32),
            handle.uncovered,
        )

    @lazy
    def uncovered(self) -> tuple[int, Sizes | None]:
        """Number of canvas elements without a region, and the first of them (None if there is none)."""
        if self._host is not None:
            return self._host.uncovered
        return self.coverage.uncovered if self.compiled is None else self.compiled.uncovered

    @property
    def compiled(self) -> Any:
        """The handle if there is one already, so that what the compiled module has worked out is used."""
        return self.__dict__.get("handle")

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

    def on(self, device: torch.device) -> Plan:
        """The same plan with its tensors on `device`; copied once per device."""
        if device == HOST or self._host is not None:
            return self
        copy = self._copies.get(device)
        if copy is None:
            sizes = self.canvas_size, self.patch_size, self.wrap, self.num_regions
            copy = Plan(*sizes, self.offsets.to(device), self.order.to(device), self)
            copy = self._copies.setdefault(device, copy)
        return copy

    def keep(self) -> None:
        """Keep the tables of a copy on a GPU for as long as the current stream may read them.

        To be called after the launch, when all tables that it reads are there. A captured graph reads them at
        every replay, so they stay for good.
        """
        device = self.offsets.device
        if device.type != "cuda":
            return
        here = torch.cuda.current_device() == device.index
        with nullcontext() if here else torch.cuda.device(device):
            if torch.cuda.is_current_stream_capturing():
                _captured.add(self)
                return
            stream = torch.cuda.current_stream(device)
        reader = (stream.cuda_stream, "coverage" in self.__dict__)
        if reader not in self._readers:
            for table in self._tables():
                table.record_stream(stream)
            self._readers.add(reader)

    def _tables(self) -> Iterator[Tensor]:
        yield from (self.offsets, self.order)
        lists = self.__dict__.get("coverage")
        if lists is not None:
            yield from (*lists.edges, *lists.axis_cell, lists.cell_start, lists.cell_region)

    def require_coverage(self, function: str) -> None:
        """Raise CoverageError if a canvas element belongs to no region."""
        missing, first = self.uncovered
        if missing:
            raise CoverageError(
                f"{function}: offsets must cover every canvas element, {missing} of "
                f"{math.prod(self.canvas_size)} are uncovered (first at {first}). "
                "Pull the last region to the edge or use a smaller stride."
            )


def prepare(
    function: str,
    offsets: Tensor,
    signature: tuple[Any, ...],
    check: Callable[[], Prepared],
    device: torch.device,
) -> Prepared:
    """Result of `check`, remembered for the content of `offsets` and a `signature` of all it looks at.

    Args:
        function: name of the operator, for errors.
        offsets: int64 [R, n] on the CPU, which is checked.
        signature: every shape, dtype, device and size that the checks depend on.
        check: makes the checks and returns the shape of the result with the plan.
        device: where the plan is needed.
    """
    key = (content(function, offsets), offsets.shape, device, function, signature)
    ready = _ready.get(key)
    if ready is None:
        shape, plan = check()
        if len(_ready) >= 128:
            _ready.clear()
        ready = _ready[key] = (shape, plan.on(device))
    return ready


def get_plan(
    function: str,
    offsets: Tensor,
    canvas_size: Sequence[int],
    patch_size: Sequence[int],
    wrap: Sequence[bool],
    *,
    merging: bool = False,
) -> Plan:
    """The plan for `offsets` int64 [R, n] on the CPU; cached by content.

    With `merging` what depends on the covering lists is found out here, so that errors name the function.
    """
    raw = content(function, offsets)
    try:
        plan = _cached(raw, tuple(canvas_size), tuple(patch_size), tuple(wrap))
        if merging:
            plan.uncovered  # noqa: B018
        return plan
    except ValueError as error:
        remedy = "" if str(error).endswith(".") else ". Move them inside, or set wrap for that axis."
        raise ValueError(f"{function}: {error}{remedy}") from None


def content(function: str, offsets: Tensor) -> bytes:
    """The bytes of `offsets` in row-major order, which NumPy need not be there for."""
    check_offsets(function, offsets)
    # Named, so that a copy lives until it has been read.
    dense = offsets.contiguous()
    return ctypes.string_at(dense.data_ptr(), 8 * dense.numel()) if dense.numel() else b""


@lru_cache(maxsize=64)
def _cached(raw: bytes, canvas: Sizes, patch: Sizes, wrap: tuple[bool, ...]) -> Plan:
    given = torch.zeros(0, dtype=torch.int64, device=HOST)
    if raw:
        given = torch.frombuffer(bytearray(raw), dtype=torch.int64)
    given = given.view(-1, len(canvas))
    build = _compiled_builder()
    if build is None:
        return Plan(canvas, patch, wrap, given.shape[0], *canonical(given, canvas, patch, wrap))
    handle = build(given, canvas, patch, wrap)
    offsets = _borrow(handle.offsets, torch.int64).view(-1, len(canvas))
    plan = Plan(canvas, patch, wrap, given.shape[0], offsets, _borrow(handle.order, torch.int64))
    plan.__dict__["handle"] = handle
    return plan


def _borrow(array: Any, dtype: torch.dtype) -> Tensor:
    if len(array) == 0:
        return torch.zeros(0, dtype=dtype, device=HOST)
    return torch.frombuffer(array, dtype=dtype)


def _compiled_builder() -> Callable[..., Any] | None:
    if os.environ.get("INTARSIA_BACKEND") == "reference":
        return None
    return getattr(load("cpu"), "build_plan", None)
