# SPDX-License-Identifier: Apache-2.0
"""Factor: one denoiser on the regions of one layout, with its weight and its conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor

from intarsia.guidance import Term, flatten
from intarsia.layout import BoxSet, Layout, Regions, Weight, uniform
from intarsia.layout._check import fail
from intarsia.layout.gathered import Adapted
from intarsia.types import Cond, Denoiser, PerCanvas, check_cond, sizes_of

__all__ = ["Factor"]

_TOLERANCE = 1e-6


def name_of(thing: object) -> str:
    """A short name for messages: of a function, of a partial's function, or of the type."""
    if isinstance(thing, partial):
        given = ", ".join(f"{key}={value}" for key, value in thing.keywords.items())
        return f"{name_of(thing.func)}({given})"
    if isinstance(thing, Tensor):
        return f"tensor{list(thing.shape)}"
    return getattr(thing, "__name__", None) or type(thing).__name__


def _without_per_canvas(cond: Cond) -> Cond:
    if isinstance(cond, dict):
        return {key: _without_per_canvas(value) for key, value in cond.items()}
    if isinstance(cond, (list, tuple)):
        return [_without_per_canvas(value) for value in cond]
    return None if isinstance(cond, PerCanvas) else cond


def _coefficients(value: float | Sequence[float] | Tensor, regions: int) -> Tensor:
    if isinstance(value, Tensor) and value.requires_grad:
        remedy = "Detach it; intarsia.ops.scatter_average is differentiable in it."
        fail("Factor", "coefficient", "not require grad", "a tensor that does", remedy)
    coefficient = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().clone()
    if coefficient.ndim > 1 or (coefficient.ndim == 1 and coefficient.shape[0] != regions):
        required = f"be a number or one per region ([{regions}])"
        got = f"shape {list(coefficient.shape)}"
        fail("Factor", "coefficient", required, got, "Keep the order of layout.boxes().")
    if not bool(torch.isfinite(coefficient).all()):
        fail("Factor", "coefficient", "be finite", "NaN or infinity", "Check how it was computed.")
    return coefficient.expand(regions)


@dataclass(frozen=True, eq=False)
class Factor:
    """One denoiser, lifted from the regions of a layout to the canvas.

    `F(x) = sum_r coef_r A_r^T [w * D(A_r x, sigma, c_r)]`, with `A_r` the crop of region r.

    Args:
        denoiser: any `D(x [B, C, *s], sigma [B], cond) -> x0`. A linear one (classifier-free guidance) is
            taken apart: all its terms go through the network in one batch and the merge combines them, so its
            scale may be one number per region, `[R]`.
        layout: where the regions lie; of your own making if it has the members of `layout.Regions`.
        weight: a window of `intarsia.layout`, or any tensor or soft map its `merge` takes.
        coefficient: signed multiplier, a number or `[R]`.
        cond: tree of tensors with leading axis R (or 1, shared), or `[B, R, ...]` in `PerCanvas`. Joined with
            the run's `cond`; a key in both is an error. Copied to the canvas's device if it lives elsewhere.
        max_batch: most rows (regions x samples x terms) the network sees at once. None: all of them.
        pad: repeat the last row so that *every* batch has exactly `max_batch` rows: one static shape for
            `torch.compile` or a CUDA graph, for at most `max_batch - 1` wasted rows a call.

    Raises:
        ValueError: a coefficient or cond that does not fit the regions, `max_batch` below 1, `pad` without
            `max_batch`, a patch size that the denoiser does not know, or guidance whose terms do not sum
            to one.

    Note:
        Rows are ordered `b*R + r`; with K terms `(b*K + k)*R + r`. The final batch may be smaller.

    Example:
        >>> from intarsia import layout
        >>> Factor(lambda x, sigma, cond=None: 0 * x, layout.chain(10, 4, 3), layout.gaussian, max_batch=2)
        Factor(<lambda>, 3 regions of (4,), weight=gaussian, max_batch=2)
    """

    denoiser: Denoiser
    layout: Layout | BoxSet | Regions
    weight: Weight = uniform
    coefficient: float | Sequence[float] | Tensor = field(default=1.0, kw_only=True)
    cond: Cond = field(default=None, kw_only=True)
    max_batch: int | None = field(default=None, kw_only=True)
    pad: bool = field(default=False, kw_only=True)
    terms: tuple[Term, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not callable(cast(object, self.denoiser)):
            got, remedy = type(self.denoiser).__name__, "Wrap a network with intarsia.denoisers."
            fail("Factor", "denoiser", "be callable as D(x, sigma, cond)", got, remedy)
        if not hasattr(self.layout, "groups"):
            if not isinstance(cast(object, self.layout), Regions):
                got = type(self.layout).__name__
                remedy = "Make one with intarsia.layout.chain, loop, grid or boxes."
                fail("Factor", "layout", "be a Layout, a BoxSet or Regions of your own", got, remedy)
            object.__setattr__(self, "layout", Adapted(self.layout))
        if self.max_batch is not None and self.max_batch < 1:
            fail("Factor", "max_batch", "be at least 1", self.max_batch, "Use None for no limit.")
        if self.pad and self.max_batch is None:
            fail("Factor", "pad", "come with max_batch", None, "Say how many rows a batch has.")
        regions = self.layout.num_regions
        check_cond("Factor", _without_per_canvas(self.cond), regions)
        object.__setattr__(self, "coefficient", _coefficients(self.coefficient, regions))
        object.__setattr__(self, "terms", flatten(self.denoiser))
        self._check_terms()

    @property
    def regions(self) -> Layout | BoxSet:
        """The layout with all that merging asks for."""
        return cast("Layout | BoxSet", self.layout)

    @property
    def coefficients(self) -> Tensor:
        """The signed multiplier of every region, `[R]` float64 on the CPU."""
        return torch.as_tensor(self.coefficient, dtype=torch.float64)

    def scale(self, coefficient: float | Tensor) -> Tensor:
        """A term's coefficient times the factor's, per region, `[R]` float64 on the CPU."""
        return torch.as_tensor(coefficient, dtype=torch.float64, device="cpu").detach() * self.coefficients

    def _check_terms(self) -> None:
        regions = self.layout.num_regions
        total = torch.zeros(regions, dtype=torch.float64)
        size = total.clone()
        for denoiser, cond, coefficient in self.terms:
            self._check_sizes(denoiser)
            scale = torch.as_tensor(coefficient, dtype=torch.float64, device="cpu").detach()
            if scale.ndim and tuple(scale.shape) != (regions,):
                required = f"have a guidance scale that is a number or one per region ([{regions}])"
                got = f"shape {list(scale.shape)}"
                fail("Factor", "denoiser", required, got, "Keep the order of layout.boxes().")
            check_cond("Factor", cond, regions)
            total, size = total + scale, size + scale.abs()
        off = (total - 1).abs()
        if not bool((off <= _TOLERANCE * size).all()):
            worst = int(off.nan_to_num(nan=torch.inf).argmax())
            got = f"{float(total[worst]):.6g} for region {worst}"
            remedy = "Add the remainder to the unconditional term."
            fail("Factor", "denoiser", "have terms whose coefficients sum to one", got, remedy)

    def _check_sizes(self, denoiser: Denoiser) -> None:
        known = sizes_of(denoiser)
        if known is None:
            return
        legal = [tuple(size) for size in known]
        for part, _ in self.regions.groups:
            if part.patch not in legal:
                required = f"use patches of a size the denoiser was trained on ({', '.join(map(str, legal))})"
                fail("Factor", "layout", required, part.patch, "Build the layout with one of these sizes.")

    def __repr__(self) -> str:
        sizes = " and ".join(str(part.patch) for part, _ in self.regions.groups)
        text = f"Factor({name_of(self.denoiser)}, {self.layout.num_regions} regions of {sizes}"
        text += f", weight={name_of(self.weight)}"
        if len(self.terms) > 1:
            text += f", {len(self.terms)} terms"
        low, high = float(self.coefficients.min()), float(self.coefficients.max())
        if not low == high == 1:
            text += f", coefficient={low:g}" + (f"..{high:g}" if high > low else "")
        return text + (f", max_batch={self.max_batch}" if self.max_batch else "") + ")"
