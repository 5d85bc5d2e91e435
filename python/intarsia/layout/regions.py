# SPDX-License-Identifier: Apache-2.0
"""Layout: where equally sized regions lie on a canvas, and the way there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from intarsia import ops
from intarsia.layout._check import check_sizes, check_wrap, fail
from intarsia.layout.windows import Window, uniform

__all__ = ["Box", "Layout", "Weight", "evaluate_weight"]

Box: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
Weight: TypeAlias = Window | Tensor | Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Layout:
    """Regions of one size on a canvas; the last of each axis ends at the edge, or wraps around it.

    Build one with `chain`, `loop`, `grid`; the constructor takes any offsets.

    Args:
        size: `(S_1..S_n)` of the canvas, 1 to 3 axes.
        patch: `(s_1..s_n)` of every region.
        offsets: `[R, n]` int64 (or nested integers), first element of each region. On wrapped axes any
            integer, reduced modulo the size; elsewhere the region must lie inside.
        wrap: per axis, whether the canvas closes onto itself. None: no axis does.

    Raises:
        ValueError: wrong rank, sizes below 1, a patch larger than the canvas, no region, a region
            outside the canvas.

    Note:
        Immutable; equal and hashable by content. Overlaps, gaps and repeated regions are legal here;
        `compose` refuses canvases with gaps.

    Example:
        >>> two = Layout(size=(6,), patch=(4,), offsets=[[0], [2]])
        >>> two.total()
        tensor([1., 1., 2., 2., 1., 1.], dtype=torch.float64)
    """

    size: tuple[int, ...]
    patch: tuple[int, ...]
    offsets: Tensor
    wrap: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        size = check_sizes("Layout", "size", self.size)
        patch = check_sizes("Layout", "patch", self.patch)
        wrap = check_wrap("Layout", self.wrap or None, len(size))
        if len(patch) != len(size):
            required = f"have one size per canvas axis ({len(size)})"
            fail("Layout", "patch", required, patch, "Give size and patch in the same axis order.")
        if any(s > S for s, S in zip(patch, size, strict=True)):
            remedy = "Use a larger canvas and crop the result, or a smaller patch."
            fail("Layout", "patch", f"fit into the canvas {size}", patch, remedy)
        offsets = torch.as_tensor(self.offsets, dtype=torch.int64).detach().cpu().clone()
        if offsets.ndim != 2 or offsets.shape[0] == 0 or offsets.shape[1] != len(size):
            required = f"have shape [R, {len(size)}] with at least one region"
            remedy = "Give a row per region and a column per axis."
            fail("Layout", "offsets", required, list(offsets.shape), remedy)
        for axis, closed in enumerate(wrap):
            if closed:
                offsets[:, axis] %= size[axis]
                continue
            last, low = size[axis] - patch[axis], int(offsets[:, axis].min())
            worst = low if low < 0 else int(offsets[:, axis].max())
            if not 0 <= worst <= last:
                remedy = "Pull the region to the edge, or wrap the axis."
                fail("Layout", "offsets", f"lie in [0, {last}] on axis {axis}", worst, remedy)
        for name, value in (("size", size), ("patch", patch), ("offsets", offsets), ("wrap", wrap)):
            object.__setattr__(self, name, value)

    @property
    def num_regions(self) -> int:
        """Number of regions `R`."""
        return self.offsets.shape[0]

    @property
    def groups(self) -> tuple[tuple[Layout, Tensor], ...]:
        """Equally sized parts, each with its regions' indices `[R_g]` int64: here one part, all regions."""
        return ((self, torch.arange(self.num_regions)),)

    def boxes(self) -> tuple[Box, ...]:
        """`(offset, size)` of every region, in axis order, as tuples of integers."""
        return tuple((tuple(row), self.patch) for row in self.offsets.tolist())

    def centres(self) -> Tensor:
        """Centre of every region relative to the canvas, `[R, n]` float32 in [0, 1]."""
        size = torch.tensor(self.size, dtype=torch.float64)
        centres = (self.offsets + torch.tensor(self.patch, dtype=torch.float64) / 2) / size
        return torch.where(torch.tensor(self.wrap), centres % 1, centres).float()

    def extract(
        self,
        canvas: Tensor,
        *,
        scale: Tensor | None = None,
        copies: int | None = None,
        dtype: torch.dtype | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Crop every region.

        Args:
            canvas: `[B, C, *S]`, any floating dtype.
            scale: `[B]` multiplier (a network's `c_in`), applied before the cast.
            copies: K, to crop every region K times, as guidance needs it.
            dtype: dtype of the patches; None keeps the canvas's.
            out: what is returned, to write into.

        Returns:
            `[B, R, C, *s]` patches, or `[B, K, R, C, *s]` with `copies`.

        Raises:
            ValueError: a canvas whose shape is not this layout's.

        Example:
            >>> Layout((4,), (2,), [[0], [2]]).extract(torch.arange(4.0).reshape(1, 1, 4))[0, :, 0]
            tensor([[0., 1.],
                    [2., 3.]])
        """
        return ops.extract_patches(
            canvas,
            offsets=self.offsets,
            size=self.patch,
            wrap=self.wrap,
            scale=scale,
            copies=copies,
            dtype=dtype,
            out=out,
        )

    def merge(
        self,
        patches: Tensor,
        *,
        weight: Weight = uniform,
        normalize: bool = True,
        coefficient: Tensor | None = None,
        guidance: float | Tensor | None = None,
        x: Tensor | None = None,
        a: float | Tensor = 0.0,
        b: float | Tensor = 1.0,
        noise: Tensor | None = None,
        c: float = 0.0,
        dtype: torch.dtype | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Sum the weighted patches on the canvas, by default divided by the sum of the weights.

        With `guidance` it combines several answers to every region first; with `x` it returns the update
        `a x + b D + c noise` of the merged D. Either costs no pass of its own.

        Args:
            patches: `[B, R, C, *s]`, any floating dtype; `[B, K, R, C, *s]` with `guidance`.
            weight: a window, its 1-D factors, a tensor `[*s]` or `[R|1, *s]`, or a soft map `[*S]`.
            normalize: divide by the total weight.
            coefficient: `[R]` signed multiplier of each region; not negative when normalised.
            guidance: one scale, or `[R]`, or `[K - 1, R]`; see `ops.scatter_average`.
            x: `[B, C, *S]` canvas before the update, in the dtype of the result.
            a: factor of `x`, a number or `[B]`.
            b: factor of D, a number or `[B]`.
            noise: `[B, C, *S]` in the dtype of the result.
            c: factor of `noise`.
            dtype: dtype of the result; None keeps that of `x`, or else the patches'.
            out: `[B, C, *S]` to write into.

        Returns:
            `[B, C, *S]` canvas; summed in float32 (float64 for float64 patches).

        Raises:
            CoverageError: normalised and some element is not covered.
            ValueError: shapes that do not match the layout.

        Example:
            >>> two = Layout((4,), (3,), [[0], [1]])
            >>> two.merge(two.extract(torch.arange(4.0).reshape(1, 1, 4)))
            tensor([[[0., 1., 2., 3.]]])
        """
        high = torch.float64 if patches.dtype == torch.float64 else torch.float32
        factors = evaluate_weight(weight, self, dtype=high, device=patches.device)
        return ops.scatter_average(
            patches,
            offsets=self.offsets,
            weight=factors,
            size=self.size,
            wrap=self.wrap,
            normalize=normalize,
            coefficient=coefficient,
            guidance=guidance,
            x=x,
            a=a,
            b=b,
            noise=noise,
            c=c,
            dtype=dtype,
            out=out,
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
            ValueError: a weight that does not match the layout.
        """
        factors = evaluate_weight(weight, self, dtype=dtype, device=device)
        if coefficient is not None:
            coefficient = coefficient.to(device=device, dtype=dtype)
        return ops.weight_total(self.offsets, factors, self.size, wrap=self.wrap, coefficient=coefficient)

    def weights(
        self, weight: Weight, *, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[tuple[Tensor, ...], ...]:
        """The weight of each group (here one) in the form the ops take; see `evaluate_weight`."""
        return (evaluate_weight(weight, self, dtype=dtype, device=device),)

    def repeated(self, times: int) -> Layout:
        """All regions `times` times over: several answers per region that one merge combines.

        Args:
            times: at least 1.

        Returns:
            A layout of `times * R` regions; its region `k*R + r` is this layout's region r.

        Raises:
            ValueError: `times` below 1.
        """
        if times < 1:
            fail("repeated", "times", "be at least 1", times, "Pass the number of answers.")
        if times == 1:
            return self
        return Layout(self.size, self.patch, self.offsets.repeat(times, 1), self.wrap)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.size, self.patch, self.wrap, tuple(self.offsets.flatten().tolist())

    def __repr__(self) -> str:
        closed = ", wrap=" + str(self.wrap) if any(self.wrap) else ""
        return f"Layout(size={self.size}, patch={self.patch}, {self.num_regions} regions{closed})"


def evaluate_weight(
    weight: Weight, layout: Layout, *, dtype: torch.dtype, device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """A weight in the form the ops take: 1-D factors, or one full window `[R|1, *s]`.

    Args:
        weight: a window; a tuple of n rank-1 factors; a tensor `[*s]`, `[1, *s]` or `[R, *s]`; or, where
            the patch is smaller than the canvas, a soft map `[*S]` of which each region gets its part.
        layout: the layout it is for.
        dtype: float32 or float64.
        device: where the result lives.

    Returns:
        n tensors `[s_i]`, or one tensor `[R|1, *s]`.

    Raises:
        ValueError: any other shape.

    Example:
        >>> evaluate_weight(torch.ones(2), Layout((4,), (2,), [[0]]), dtype=torch.float32)[0].shape
        torch.Size([1, 2])
    """
    if isinstance(weight, (tuple, list)) and len(weight) == 1 and weight[0].ndim == len(layout.patch) + 1:
        weight = weight[0]
    if callable(weight) and not isinstance(weight, Tensor):
        factors = tuple(weight(layout.patch, dtype=dtype, device=device))
        legal = tuple(f.shape for f in factors) == tuple((s,) for s in layout.patch)
        shown = [list(f.shape) for f in factors]
    elif isinstance(weight, Tensor):
        shape, shown = tuple(weight.shape), [list(weight.shape)]
        full = weight.to(device=device, dtype=dtype)
        if shape == layout.patch:
            full = full[None]
        elif shape == layout.size:
            full = layout.extract(full[None, None])[0, :, 0]
        factors = (full,)
        legal = full.shape[1:] == layout.patch and full.shape[0] in (1, layout.num_regions)
    else:
        factors = tuple(f.to(device=device, dtype=dtype) for f in weight)
        legal = tuple(f.shape for f in factors) == tuple((s,) for s in layout.patch)
        shown = [list(f.shape) for f in factors]
    if not legal:
        required = (
            f"be 1-D factors of sizes {layout.patch}, a tensor {list(layout.patch)} or "
            f"{[layout.num_regions, *layout.patch]}, or a soft map {list(layout.size)}"
        )
        fail("Layout", "weight", required, shown, "The windows of intarsia.layout fit, e.g. layout.gaussian.")
    return factors
