# SPDX-License-Identifier: Apache-2.0
"""Regions gathered from anywhere on the canvas, and how a Factor sees regions that are no boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from intarsia.layout._check import check_cover, fail
from intarsia.layout.regions import Weight
from intarsia.layout.windows import uniform

__all__ = ["Adapted", "Gathered", "Regions"]


@runtime_checkable
class Regions(Protocol):
    """All that a Factor needs of a layout of your own: equal regions, cut out and added back.

    Attributes:
        size: `(S_1..S_n)` of the canvas.
        patch: `(s_1..s_m)` of every region; its rank may differ from the canvas's.
        num_regions: R.
    """

    @property
    def size(self) -> tuple[int, ...]:
        """The canvas."""

    @property
    def patch(self) -> tuple[int, ...]:
        """One region."""

    @property
    def num_regions(self) -> int:
        """How many."""

    def extract(self, canvas: Tensor, /) -> Tensor:
        """Cut `[B, R, C, *s]` out of a canvas `[B, C, *S]`."""

    def merge(self, patches: Tensor, /) -> Tensor:
        """Add patches `[B, R, C, *s]` up on a canvas `[B, C, *S]`: the adjoint of `extract`."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """Regions whose elements may lie anywhere: turned, on several faces, on a canvas of another rank.

    Args:
        size: `(S_1..S_n)` of the canvas.
        index: `[R, *s]` int64: where each element of each region lies, counted along the flattened canvas.

    Raises:
        ValueError: no region, or an index outside the canvas.

    Note:
        Merging gathers, too: every canvas element adds what lies on it in the order of the regions, so
        results do not vary from run to run. Differentiable. A Factor takes it like any layout.

    Example:
        >>> turned = Gathered((2, 2), torch.tensor([[[2, 0], [3, 1]]]))
        >>> turned.extract(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))[0, 0, 0]
        tensor([[3., 1.],
                [4., 2.]])
    """

    size: tuple[int, ...]
    index: Tensor
    _sources: tuple[Tensor, ...] = field(init=False, repr=False)
    _kept: dict[torch.device, tuple[Tensor, ...]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        index = torch.as_tensor(self.index, dtype=torch.int64).detach().cpu().clone()
        count = int(torch.tensor(self.size).prod())
        if index.ndim < 2 or not index.numel():
            remedy = "Give a row of places for each region."
            fail(
                "Gathered", "index", "have shape [R, *s] with at least one region", list(index.shape), remedy
            )
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= count:
            got = low if low < 0 else high
            fail("Gathered", "index", f"lie in [0, {count - 1}]", got, "Count along the flattened canvas.")
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "_sources", _sources(index.flatten(), count))

    @property
    def patch(self) -> tuple[int, ...]:
        """Size of every region."""
        return tuple(self.index.shape[1:])

    @property
    def num_regions(self) -> int:
        """Number of regions `R`."""
        return self.index.shape[0]

    def extract(self, canvas: Tensor) -> Tensor:
        """Cut `[B, R, C, *s]` out of a canvas `[B, C, *S]`."""
        index = self._on(canvas.device)[0]
        rows = canvas.flatten(2).index_select(2, index.flatten())
        return rows.unflatten(2, (self.num_regions, -1)).transpose(1, 2).unflatten(3, self.patch)

    def merge(self, patches: Tensor) -> Tensor:
        """Add patches `[B, R, C, *s]` up on a canvas `[B, C, *S]`."""
        _, *sources = self._on(patches.device)
        flat = patches.flatten(3).transpose(1, 2).flatten(2)
        # One more element, a zero, stands where fewer regions lie than elsewhere.
        flat = torch.cat([flat, flat.new_zeros(*flat.shape[:2], 1)], dim=2)
        total = flat.index_select(2, sources[0])
        for source in sources[1:]:
            total = total + flat.index_select(2, source)
        return total.unflatten(2, self.size)

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        held = self._kept.get(device)
        if held is None:
            held = tuple(part.to(device) for part in (self.index, *self._sources))
            self._kept[device] = held
        return held


def _sources(index: Tensor, count: int) -> tuple[Tensor, ...]:
    """Per canvas element its first, second, ... place in the regions; their number where there is none."""
    order = index.argsort(stable=True)
    degree = torch.bincount(index, minlength=count)
    first = degree.cumsum(0) - degree
    none = index.numel()
    padded = torch.cat([order, torch.tensor([none])])
    deepest = max(int(degree.max()), 1)
    return tuple(
        padded[torch.where(degree > depth, first + depth, none)].contiguous() for depth in range(deepest)
    )


class Adapted:
    """A layout of six members with all that the merging of a composite asks for, in steps of their own."""

    def __init__(self, layout: Regions, times: int = 1) -> None:
        self.layout, self.times = layout, times
        self.size, self.patch = tuple(layout.size), tuple(layout.patch)
        self.num_regions = layout.num_regions * times
        self.wrap = (False,) * len(self.size)

    @property
    def groups(self) -> tuple[tuple[Adapted, Tensor], ...]:
        """One part: all regions."""
        return ((self, torch.arange(self.num_regions)),)

    @property
    def offsets(self) -> Tensor:
        """`[R, 1]`: for messages, the number of the region."""
        return torch.arange(self.num_regions).reshape(-1, 1)

    def repeated(self, times: int) -> Adapted:
        """All regions `times` times over."""
        return Adapted(self.layout, self.times * times)

    def extract(
        self,
        canvas: Tensor,
        *,
        scale: Tensor | None = None,
        copies: int | None = None,
        dtype: torch.dtype | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Patches `[B, R, C, *s]`, or `[B, K, R, C, *s]` with `copies`; `out` is not needed and not used."""
        if scale is not None:
            canvas = canvas * scale.to(canvas.dtype).reshape(-1, *(1,) * (canvas.ndim - 1))
        patches = self.layout.extract(canvas).to(dtype or canvas.dtype)
        if self.times > 1:
            patches = patches.repeat(1, self.times, *(1,) * (patches.ndim - 2))
        if copies is None:
            return patches
        return patches.unsqueeze(1).repeat(1, copies, *(1,) * (patches.ndim - 1))

    def merge(
        self,
        patches: Tensor,
        *,
        weight: Sequence[Tensor] = (),
        normalize: bool = True,
        coefficient: Tensor | None = None,
        guidance: Tensor | None = None,
        x: Tensor | None = None,
        a: float | Tensor = 0.0,
        b: float | Tensor = 1.0,
        noise: Tensor | None = None,
        c: float = 0.0,
        dtype: torch.dtype | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The weighted, guided, normalised, updated sum of `ops.scatter_average`, `[B, C, *S]`."""
        high = torch.float64 if patches.dtype == torch.float64 else torch.float32
        patches = patches.to(high)
        axes = len(self.patch)
        if guidance is not None:
            scale = guidance.to(patches).reshape(1, -1, self.num_regions, *(1,) * (axes + 1))
            last = patches[:, -1]
            patches = last + (scale * (patches[:, :-1] - last.unsqueeze(1))).sum(1)
        window = self._window(weight, coefficient, high, patches.device)
        merged = self._sum(patches * window)
        if normalize:
            total = self._sum(window.expand(1, self.num_regions, 1, *self.patch))
            merged = merged / check_cover("Factor", total)
        if x is not None:
            shape = (-1, *(1,) * (x.ndim - 1))
            a, b = (k.to(merged).reshape(shape) if isinstance(k, Tensor) else k for k in (a, b))
            merged = a * x + b * merged
            merged = merged if noise is None else merged + c * noise
        return merged.to(dtype or (patches.dtype if x is None else x.dtype))

    def total(
        self,
        *,
        weight: Weight | Sequence[Tensor] = uniform,
        coefficient: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sum of the weights at every canvas element, `[*S]`."""
        factors = weight if isinstance(weight, tuple) else self.weights(weight, dtype=dtype, device=device)[0]  # type: ignore[arg-type]
        place = torch.device(device or "cpu")
        window = self._window(factors, coefficient, dtype, place)
        return self._sum(window.expand(1, self.num_regions, 1, *self.patch))[0, 0]

    def weights(
        self, weight: Weight, *, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[tuple[Tensor, ...], ...]:
        """The weight in the form the ops take: 1-D factors, or one tensor `[R|1, *s]`."""
        if callable(weight) and not isinstance(weight, Tensor):
            return (tuple(weight(self.patch, dtype=dtype, device=device)),)
        if isinstance(weight, Tensor):
            full = weight.to(device=device, dtype=dtype)
            if tuple(full.shape) == self.size:
                full = self.layout.extract(full[None, None])[0, :, 0]
            full = full[None] if tuple(full.shape) == self.patch else full
            if full.shape[1:] != self.patch or full.shape[0] not in (1, self.layout.num_regions):
                required = f"be a window, or a tensor {list(self.patch)} or {list(self.size)}"
                fail("Factor", "weight", required, list(weight.shape), "One number for each element.")
            return ((full,),)
        return (tuple(factor.to(device=device, dtype=dtype) for factor in weight),)

    def centres(self) -> Tensor:
        """`[R, n]` centres in [0, 1] where the layout has them, else those of the canvas."""
        own = getattr(self.layout, "centres", None)
        return own() if own is not None else torch.full((self.num_regions, len(self.size)), 0.5)

    def _window(
        self, weight: Sequence[Tensor], coefficient: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        axes = len(self.patch)
        window = torch.ones((1, *(1,) * axes), dtype=dtype, device=device)
        if len(weight) == 1 and weight[0].ndim == axes + 1:
            window = weight[0].to(window)
        else:
            for axis, factor in enumerate(weight):
                window = window * factor.to(window).reshape(1, *(1,) * axis, -1, *(1,) * (axes - axis - 1))
        if coefficient is not None:
            window = window * coefficient.to(window).reshape(-1, *(1,) * axes)
        return window[None, :, None]

    def _sum(self, patches: Tensor) -> Tensor:
        own = self.layout.num_regions
        if self.times > 1:
            patches = patches.unflatten(1, (self.times, own)).sum(1)
        return self.layout.merge(patches)

    def __repr__(self) -> str:
        return repr(self.layout)
