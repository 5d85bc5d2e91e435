# SPDX-License-Identifier: Apache-2.0
"""Regular layouts: chains, loops and grids of overlapping regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from intarsia.layout._check import check_sizes, check_wrap, fail
from intarsia.layout.regions import Layout
from intarsia.ops import CoverageError

__all__ = ["chain", "checkerboard", "grid", "loop"]

_MAX_REGIONS = 2**22


def _axis_starts(where: str, axis: int, length: int, patch: int, stride: int, wrap: bool) -> torch.Tensor:
    if patch > length:
        remedy = "Use a larger canvas and crop the result, or a smaller patch."
        fail(where, "patch", f"fit into the canvas on axis {axis}", f"{patch} on {length}", remedy)
    if stride > patch:
        raise CoverageError(
            f"{where}: stride must be at most the patch ({patch}) on axis {axis}, got {stride}. "
            f"{stride - patch} elements after every region would stay uncovered; use a smaller stride."
        )
    if wrap and length % stride:
        below, above = length // stride * stride, (length // stride + 1) * stride
        legal = f"lengths are {below} and {above}" if below >= patch else f"length is {above}"
        required = f"be a multiple of the stride ({stride}) on the wrapped axis {axis}"
        fail(where, "size", required, length, f"The nearest legal {legal}; or change the stride.")
    count = length // stride if wrap else -(-(length - patch) // stride) + 1
    _check_count(where, count)
    starts = torch.arange(count, dtype=torch.int64) * stride
    return starts if wrap else starts.clamp(max=length - patch)


def _check_count(where: str, count: int) -> None:
    if count > _MAX_REGIONS:
        fail(where, "stride", f"give at most {_MAX_REGIONS} regions", count, "Use a larger stride.")


def _regular(
    where: str, size: Sequence[int], patch: Sequence[int], stride: Sequence[int], wrap: Sequence[bool] | None
) -> Layout:
    sizes = check_sizes(where, "size", size)
    patches, strides = check_sizes(where, "patch", patch), check_sizes(where, "stride", stride)
    wraps = check_wrap(where, wrap, len(sizes))
    for name, values in (("patch", patches), ("stride", strides)):
        if len(values) != len(sizes):
            required = f"have one entry per canvas axis ({len(sizes)})"
            fail(where, name, required, values, "Give size, patch and stride in the same axis order.")
    starts = [
        _axis_starts(where, axis, *args)
        for axis, args in enumerate(zip(sizes, patches, strides, wraps, strict=True))
    ]
    _check_count(where, math.prod(len(s) for s in starts))
    mesh = torch.meshgrid(*starts, indexing="ij")
    return Layout(sizes, patches, torch.stack([m.flatten() for m in mesh], dim=1), wraps)


def chain(length: int, patch: int, stride: int) -> Layout:
    """Regions in a row on an open 1-D canvas.

    `R = ceil((length - patch)/stride) + 1`, `offset_r = min(r*stride, length - patch)`: where the stride
    leaves a remainder, the last region moves to the edge.

    Args:
        length: elements of the canvas.
        patch: elements of a region.
        stride: step between regions, 1 to `patch`.

    Returns:
        A 1-D layout that covers every element; no two regions are equal.

    Raises:
        CoverageError: a stride larger than the patch.
        ValueError: sizes below 1, or a patch larger than the canvas.

    Example:
        >>> chain(10, 4, 4).offsets.flatten().tolist()
        [0, 4, 6]
    """
    return _regular("chain", (length,), (patch,), (stride,), None)


def loop(length: int, patch: int, stride: int) -> Layout:
    """Regions around a closed 1-D canvas: the end continues at the start.

    `R = length/stride`, `offset_r = r*stride`.

    Args:
        length: elements of the canvas, a multiple of the stride.
        patch: elements of a region, at most `length`.
        stride: step between regions, 1 to `patch`.

    Returns:
        A wrapped 1-D layout; every element is covered equally often if `stride` divides `patch`.

    Raises:
        CoverageError: a stride larger than the patch.
        ValueError: a length that the stride does not divide (the nearest legal ones are named), sizes
            below 1, or a patch larger than the canvas.

    Note:
        Regions are not spread unevenly to make any length fit: then the seams of a loop would differ.

    Example:
        >>> loop(8, 4, 2).offsets.flatten().tolist()
        [0, 2, 4, 6]
    """
    return _regular("loop", (length,), (patch,), (stride,), (True,))


def grid(
    size: Sequence[int], patch: Sequence[int], stride: Sequence[int], wrap: Sequence[bool] | None = None
) -> Layout:
    """The product of a `chain` or `loop` per axis, rows first.

    Args:
        size: `(S_1..S_n)` of the canvas, 1 to 3 axes.
        patch: `(s_1..s_n)` of a region.
        stride: step between regions per axis, 1 to the patch.
        wrap: per axis, whether the canvas closes onto itself. None: no axis does.

    Returns:
        A layout of `prod_i R_i` regions in row-major order that covers every element.

    Raises:
        CoverageError: a stride larger than the patch.
        ValueError: wrong rank, sizes below 1, a patch larger than the canvas, or a wrapped axis that
            the stride does not divide (the nearest legal lengths are named).

    Source:
        Bar-Tal et al. 2023, MultiDiffusion: crops at a fixed stride; there a remainder stays uncovered.

    Example:
        >>> grid((64, 512), (64, 64), (64, 16), wrap=(False, True)).num_regions
        32
    """
    return _regular("grid", size, patch, stride, wrap)


def checkerboard(size: Sequence[int], patch: Sequence[int], wrap: Sequence[bool] | None = None) -> Layout:
    """Regions that meet at their corners only: every cell of half a patch lies in two of them at most.

    On cells of `patch / 2` a region of 2 x 2 cells begins at cell (i, j) wherever i + j is even. An inner
    cell lies in exactly two regions: `compose.bethe` adds two patches and takes one quarter patch away.

    Args:
        size: `(S_1, S_2)` of the canvas; every axis an even number of cells.
        patch: `(s_1, s_2)` of a region, even.
        wrap: per axis, whether the canvas closes onto itself. None: no axis does.

    Returns:
        A 2-D layout that covers every element.

    Raises:
        ValueError: another rank than two, an odd patch, or a canvas that is no even number of cells, whose
            corners would stay uncovered (the nearest legal lengths are named).

    Source:
        Zhang et al. 2023, "DiffCollage", figure 3 and appendix B.

    Example:
        >>> checkerboard((8, 8), (4, 4)).offsets.tolist()
        [[0, 0], [0, 4], [2, 2], [4, 0], [4, 4]]
    """
    where = "checkerboard"
    sizes, patches = check_sizes(where, "size", size), check_sizes(where, "patch", patch)
    wraps = check_wrap(where, wrap, len(sizes))
    if len(sizes) != 2 or len(patches) != 2:
        remedy = "Chains and loops are its like in one dimension."
        fail(where, "size", "have two axes, as patch", f"{sizes} and {patches}", remedy)
    for axis, (length, extent) in enumerate(zip(sizes, patches, strict=True)):
        if extent % 2:
            fail(where, "patch", f"be even on axis {axis}", extent, "Corners meet in halves of a patch.")
        if length % extent:
            below, above = length // extent * extent, (length // extent + 1) * extent
            legal = f"lengths are {below} and {above}" if below else f"length is {above}"
            required = f"be a multiple of the patch ({extent}) on axis {axis}"
            fail(where, "size", required, length, f"The nearest legal {legal}.")
    half = [extent // 2 for extent in patches]
    counts = [
        length // h - (0 if closed else 1) for length, h, closed in zip(sizes, half, wraps, strict=True)
    ]
    _check_count(where, math.prod(counts) // 2 + 1)
    mesh = torch.meshgrid(*(torch.arange(count) for count in counts), indexing="ij")
    cells = torch.stack([m.flatten() for m in mesh], dim=1)
    return Layout(sizes, patches, cells[cells.sum(1) % 2 == 0] * torch.tensor(half), wraps)
