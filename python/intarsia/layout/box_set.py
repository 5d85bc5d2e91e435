# SPDX-License-Identifier: Apache-2.0
"""Boxes: regions of mixed sizes on one canvas, grouped by size inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intarsia.layout._check import check_cover, check_sizes, check_wrap, fail
from intarsia.layout.regions import Box, Layout, Weight, evaluate_weight
from intarsia.layout.windows import uniform

__all__ = ["BoxSet", "boxes"]


@dataclass(frozen=True)
class BoxSet:
    """Regions of any sizes on one canvas. Build one with `boxes`.

    Equal sizes are stored together, so that they share network batches and one merge. Arguments and
    results that speak of regions (`[R]`, lists of patches) keep the order the boxes were given in.

    Args:
        size: `(S_1..S_n)` of the canvas.
        regions: `(offset, size)` per box, each in the axis order of the canvas.
        wrap: per axis, whether the canvas closes onto itself. None: no axis does.

    Raises:
        ValueError: no box, wrong rank, or a box that does not lie on the canvas.

    Note:
        Immutable; equal and hashable by content. `groups` holds, per size in ascending order, its layout
        and the indices `[R_g]` int64 of its boxes.
    """

    size: tuple[int, ...]
    regions: tuple[Box, ...]
    wrap: tuple[bool, ...] = ()
    groups: tuple[tuple[Layout, Tensor], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        size = check_sizes("boxes", "size", self.size)
        wrap = check_wrap("boxes", self.wrap or None, len(size))
        regions = tuple((tuple(map(int, offset)), tuple(map(int, extent))) for offset, extent in self.regions)
        if not regions:
            fail("boxes", "boxes", "name at least one region", "none", "Give a list of (offset, size).")
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, (offset, extent) in enumerate(regions):
            if len(offset) != len(size) or len(extent) != len(size):
                got = f"offset {offset} and size {extent} in box {index}"
                fail(
                    "boxes", "boxes", f"have {len(size)} axes", got, "A box is (offset, size) in axis order."
                )
            by_size.setdefault(extent, []).append(index)
        groups = tuple(
            (Layout(size, extent, torch.tensor([regions[r][0] for r in rows]), wrap), torch.tensor(rows))
            for extent, rows in sorted(by_size.items())
        )
        for name, value in (("size", size), ("regions", regions), ("wrap", wrap), ("groups", groups)):
            object.__setattr__(self, name, value)

    @property
    def num_regions(self) -> int:
        """Number of regions `R`."""
        return len(self.regions)

    def boxes(self) -> tuple[Box, ...]:
        """`(offset, size)` of every region, in axis order, as tuples of integers."""
        return self.regions

    def centres(self) -> Tensor:
        """Centre of every region relative to the canvas, `[R, n]` float32 in [0, 1]."""
        centres = torch.empty(self.num_regions, len(self.size))
        for part, index in self.groups:
            centres[index] = part.centres()
        return centres

    def extract(
        self, canvas: Tensor, *, scale: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, ...]:
        """Crop every region.

        Args:
            canvas: `[B, C, *S]`, any floating dtype.
            scale: `[B]` multiplier, applied before the cast.
            dtype: dtype of the patches; None keeps the canvas's.

        Returns:
            R patches `[B, C, *s_r]` in the order of the boxes.

        Raises:
            ValueError: a canvas whose shape is not this layout's.

        Example:
            >>> [p.shape[2] for p in boxes((6,), [((0,), (4,)), ((3,), (3,))]).extract(torch.ones(1, 1, 6))]
            [4, 3]
        """
        patches: dict[int, Tensor] = {}
        for part, index in self.groups:
            patches.update(
                zip(index.tolist(), part.extract(canvas, scale=scale, dtype=dtype).unbind(1), strict=True)
            )
        return tuple(patches[r] for r in range(self.num_regions))

    def merge(
        self,
        patches: Sequence[Tensor],
        *,
        weight: Weight = uniform,
        normalize: bool = True,
        coefficient: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Sum the weighted patches on the canvas, by default divided by the sum of the weights.

        Args:
            patches: R patches `[B, C, *s_r]` in the order of the boxes.
            weight: a window, a soft map `[*S]`, or R tensors `[*s_r]` in the order of the boxes.
            normalize: divide by the total weight.
            coefficient: `[R]` signed multiplier of each region.
            dtype: dtype of the result; None keeps the patches'.

        Returns:
            `[B, C, *S]` canvas; summed in float32 (float64 for float64 patches).

        Raises:
            CoverageError: normalised and some element has no weight.
            ValueError: shapes that do not match the layout.

        Example:
            >>> two = boxes((6,), [((0,), (4,)), ((3,), (3,))])
            >>> two.merge(two.extract(torch.arange(6.0).reshape(1, 1, 6)))
            tensor([[[0., 1., 2., 3., 4., 5.]]])
        """
        if len(patches) != self.num_regions:
            required = f"be one per box ({self.num_regions})"
            fail("BoxSet", "patches", required, len(patches), "Keep the boxes' order.")
        if normalize and coefficient is not None and bool((coefficient < 0).any()):
            got, remedy = float(coefficient.min()), "Pass normalize=False for a signed sum."
            fail("BoxSet", "coefficient", "not be negative when normalised", got, remedy)
        high = torch.float64 if patches[0].dtype == torch.float64 else torch.float32
        weights = self.weights(weight, dtype=high, device=patches[0].device)
        total = torch.zeros((), dtype=high, device=patches[0].device)
        for (part, index), factors in zip(self.groups, weights, strict=True):
            stacked = torch.stack([patches[r] for r in index.tolist()], dim=1)
            chosen = None if coefficient is None else coefficient[index.to(coefficient.device)]
            total = total + part.merge(
                stacked, weight=factors, normalize=False, coefficient=chosen, dtype=high
            )
        if normalize:
            normalizer = self.total(weight=weight, coefficient=coefficient, device=patches[0].device)
            total = total / check_cover("BoxSet", normalizer).to(high)
        return total.to(dtype or patches[0].dtype)

    def weights(
        self, weight: Weight, *, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[tuple[Tensor, ...], ...]:
        """The weight of each group, in the form the ops take.

        Args:
            weight: a window, a soft map `[*S]`, or R tensors `[*s_r]` in the order of the boxes.
            dtype: float32 or float64.
            device: where the result lives.

        Returns:
            Per group, 1-D factors `[s_i]` or one tensor `[R_g|1, *s]`.

        Raises:
            ValueError: another number of tensors, or other shapes.
        """
        if callable(weight) or isinstance(weight, Tensor):
            return tuple(evaluate_weight(weight, part, dtype=dtype, device=device) for part, _ in self.groups)
        if len(weight) != self.num_regions:
            required = f"be a window, a soft map or one tensor per box ({self.num_regions})"
            fail("BoxSet", "weight", required, f"{len(weight)} tensors", "Keep the boxes' order.")
        return tuple(
            evaluate_weight(
                torch.stack([weight[r] for r in index.tolist()]), part, dtype=dtype, device=device
            )
            for part, index in self.groups
        )

    def total(
        self,
        *,
        weight: Weight = uniform,
        coefficient: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sum of the weights at every canvas element, `[*S]` in `dtype`: what `merge` divides by.

        Args:
            weight: as in `merge`.
            coefficient: `[R]` signed multiplier of each region.
            dtype: float32 or float64.
            device: where to compute it.

        Returns:
            `[*S]`; 0 where no region reaches.

        Raises:
            ValueError: a weight that does not match the boxes.
        """
        total = torch.zeros(self.size, dtype=dtype, device=device)
        weights = self.weights(weight, dtype=dtype, device=device)
        for (part, index), factors in zip(self.groups, weights, strict=True):
            chosen = None if coefficient is None else coefficient[index.to(coefficient.device)]
            total += part.total(weight=factors, coefficient=chosen, dtype=dtype, device=device)
        return total


def boxes(size: Sequence[int], boxes: Iterable[Box], *, wrap: Sequence[bool] | None = None) -> BoxSet:
    """Regions of mixed sizes, placed by hand.

    Args:
        size: `(S_1..S_n)` of the canvas, 1 to 3 axes.
        boxes: `(offset, size)` per region, each in the axis order of the canvas. Overlaps and repeated
            boxes (two prompts in one place) are legal.
        wrap: per axis, whether the canvas closes onto itself. None: no axis does.

    Returns:
        A `BoxSet` of the regions in the order given.

    Raises:
        ValueError: no box, wrong rank, sizes below 1, or a box that does not lie on the canvas.

    Example:
        >>> boxes((8, 8), [((0, 0), (8, 8)), ((2, 2), (4, 4))]).num_regions
        2
    """
    return BoxSet(tuple(size), tuple(boxes), () if wrap is None else tuple(wrap))
