# SPDX-License-Identifier: Apache-2.0
"""Separators: where the regions of a layout meet, so that a signed sum counts every element once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.layout._check import fail
from intarsia.layout.box_set import BoxSet, boxes
from intarsia.layout.regions import Box, Layout

__all__ = ["counting_numbers", "legal_sizes", "separators"]

_MOST = 4096


def separators(layout: Layout | BoxSet) -> BoxSet | None:
    """Find the intersections of a layout's regions whose counting number is not 0.

    Together with the regions, which count once, they count every element of the canvas once. For a chain
    they are the overlaps of neighbours; for `checkerboard` the cells at which corners meet; for a dense
    grid the overlaps of neighbours and the overlaps of those.

    Args:
        layout: regions that cover the canvas.

    Returns:
        The separators, ordered by size and place, or None where no regions overlap.

    Raises:
        ValueError: too many irregular regions.

    Note:
        A product of chains (any `grid`) has the product of their regions and overlaps, so it costs next to
        nothing; other layouts are closed under intersection, box by box, for up to 4,096 regions.

    Source:
        Yedidia, Freeman and Weiss 2005, "Constructing free-energy approximations and generalized belief
        propagation algorithms", section V; Zhang et al. 2023, "DiffCollage", equation 5.

    Example:
        >>> from intarsia.layout import chain
        >>> separators(chain(10, 4, 3)).boxes()
        (((3,), (1,)), ((6,), (1,)))
    """
    found = _of_product(layout) if isinstance(layout, Layout) else None
    if found is None:
        found = _of_any(layout)
    return boxes(layout.size, sorted(found, key=_order), wrap=layout.wrap) if found else None


def counting_numbers(
    factors: Sequence[Box], variables: Sequence[Box], size: Sequence[int], wrap: Sequence[bool]
) -> Tensor:
    """Count how often each variable has to be added, so that what factors share is counted once.

    `c_v = 1 - (factors that hold v) - sum of c_u over the variables u that hold v and more`.

    Args:
        factors: boxes that count once each.
        variables: boxes whose numbers are asked for, all different.
        size: the canvas.
        wrap: per axis, whether the canvas closes onto itself.

    Returns:
        `[V]` int64 in the order of the variables: 1 - degree for variables that hold no other.

    Source:
        Yedidia, Freeman and Weiss 2005, equation 51.

    Example:
        >>> counting_numbers([((0,), (4,)), ((3,), (4,))], [((3,), (1,))], (7,), (False,))
        tensor([-1])
    """
    counts = torch.zeros(len(variables), dtype=torch.int64)
    if not variables:
        return counts
    degree = _holds(_table(factors), _table(variables), size, wrap).sum(0)
    nested = _holds(_table(variables), _table(variables), size, wrap)
    nested.fill_diagonal_(False)
    # The largest first: nothing holds a box but boxes of more elements.
    volume = torch.tensor([math.prod(extent) for _, extent in variables])
    for v in volume.argsort(descending=True).tolist():
        counts[v] = 1 - degree[v] - counts[nested[:, v]].sum()
    return counts


def legal_sizes(layout: Layout, axis: int) -> tuple[int, int]:
    """The two lengths of an axis, not above and above its own, where all overlaps are equal.

    Args:
        layout: a chain or grid whose first regions have the stride that was asked for.
        axis: index of the canvas axis.

    Returns:
        Lengths in elements; equal to the axis's own and the next where it is legal already.

    Example:
        >>> from intarsia.layout import chain
        >>> legal_sizes(chain(11, 4, 3), 0)
        (10, 13)
    """
    starts = layout.offsets[:, axis].unique().tolist()
    patch, length = layout.patch[axis], layout.size[axis]
    stride = starts[1] - starts[0] if len(starts) > 1 else patch
    if layout.wrap[axis]:
        return length // stride * stride, (length // stride + 1) * stride
    below = patch + (length - patch) // stride * stride
    return below, below + stride


def _order(box: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(-extent for extent in box[1]), box[0]


def _of_product(layout: Layout) -> list[Box] | None:
    """Products of each axis's intervals and overlaps, or None where the regions are no product."""
    starts = [layout.offsets[:, axis].unique() for axis in range(len(layout.size))]
    if math.prod(len(s) for s in starts) != layout.num_regions:
        return None
    if len({tuple(row) for row in layout.offsets.tolist()}) != layout.num_regions:
        return None
    axes = [_of_axis(s.tolist(), *args) for s, args in zip(starts, _axes(layout), strict=True)]
    found = []
    for parts in itertools.product(*axes):
        if all(whole for _, _, whole in parts):
            continue
        found.append((tuple(start for start, _, _ in parts), tuple(extent for _, extent, _ in parts)))
    return found


def _axes(layout: Layout) -> list[tuple[int, int, bool]]:
    return list(zip(layout.patch, layout.size, layout.wrap, strict=True))


def _of_axis(starts: list[int], patch: int, length: int, wrap: bool) -> list[tuple[int, int, bool]]:
    """(start, extent, whether it is a region) of the intervals and of the overlaps of neighbours."""
    parts = [(start, patch, True) for start in starts]
    following = starts[1:] + ([starts[0] + length] if wrap and patch < length else [])
    for start, after in zip(starts, following, strict=False):
        if after < start + patch:
            parts.append((after % length, start + patch - after, False))
    return parts


def _table(boxes_: Sequence[Box]) -> tuple[Tensor, Tensor]:
    return torch.tensor([offset for offset, _ in boxes_]), torch.tensor([extent for _, extent in boxes_])


def _holds(
    outer: tuple[Tensor, Tensor], inner: tuple[Tensor, Tensor], size: Sequence[int], wrap: Sequence[bool]
) -> Tensor:
    """`[O, I]` bool: whether the inner box lies in the outer one."""
    result = torch.ones(len(outer[0]), len(inner[0]), dtype=torch.bool)
    for axis, (length, closed) in enumerate(zip(size, wrap, strict=True)):
        apart = inner[0][None, :, axis] - outer[0][:, None, axis]
        if closed:
            apart = apart % length
        inside = (apart >= 0) & (apart + inner[1][None, :, axis] <= outer[1][:, None, axis])
        result &= inside | (outer[1][:, None, axis] == length)
    return result


def _of_any(layout: Layout | BoxSet) -> list[Box]:
    """The closure of the regions under intersection, less the regions, where it counts."""
    regions = list(layout.boxes())
    if len(regions) > _MOST:
        remedy = "Use layout.grid, or name the variables with compose.factor_graph."
        fail("separators", "layout", f"have at most {_MOST} irregular regions", len(regions), remedy)
    given = {(tuple(o % s for o, s in zip(box[0], layout.size, strict=True)), box[1]) for box in regions}
    known, fresh = set(given), set(given)
    while fresh:
        made = {
            box
            for one, other in _touching(sorted(fresh), sorted(known), layout)
            for box in _intersections(one, other, layout)
        }
        fresh = made - known
        known |= fresh
    variables = sorted(known - given, key=_order)
    counts = counting_numbers(regions, variables, layout.size, layout.wrap).tolist()
    return [box for box, count in zip(variables, counts, strict=True) if count]


def _touching(first: list[Box], second: list[Box], layout: Layout | BoxSet) -> list[tuple[Box, Box]]:
    (o, e), (p, f) = _table(first), _table(second)
    near = torch.ones(len(first), len(second), dtype=torch.bool)
    for axis, (length, closed) in enumerate(zip(layout.size, layout.wrap, strict=True)):
        apart = p[None, :, axis] - o[:, None, axis]
        if closed:
            near &= (apart % length < e[:, None, axis]) | (-apart % length < f[None, :, axis])
        else:
            near &= (apart < e[:, None, axis]) & (-apart < f[None, :, axis])
    pairs: list[tuple[int, int]] = near.nonzero().tolist()
    return [(first[i], second[j]) for i, j in pairs if first[i] != second[j]]


def _intersections(one: Box, other: Box, layout: Layout | BoxSet) -> list[Box]:
    """The boxes in which two boxes meet: more than one where they meet around a closed axis."""
    axes = [
        _meet(a, m, b, n, length, closed)
        for a, m, b, n, length, closed in zip(*one, *other, layout.size, layout.wrap, strict=True)
    ]
    return [
        (tuple(start for start, _ in parts), tuple(extent for _, extent in parts))
        for parts in itertools.product(*axes)
    ]


def _meet(a: int, m: int, b: int, n: int, length: int, closed: bool) -> list[tuple[int, int]]:
    shifts = (-length, 0, length) if closed else (0,)
    if closed and m == length:
        return [(b % length, n)]
    if closed and n == length:
        return [(a % length, m)]
    found = []
    for shift in shifts:
        start, stop = max(a, b + shift), min(a + m, b + shift + n)
        if start < stop:
            found.append((start % length if closed else start, stop - start))
    return found
