# SPDX-License-Identifier: Apache-2.0
"""Plan: which patches go through the network, and how much each counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia import layout
from intarsia.layout import BoxSet, Layout, Weight, Window
from intarsia.layout._check import fail
from intarsia.layout.regions import Box
from intarsia.ops import CoverageError

__all__ = ["Part", "Plan", "plan", "starts", "window_of"]

_LEAST = 1e-6
_WINDOWS: dict[str, Window] = {
    name: getattr(layout, name) for name in ("gaussian", "uniform", "triangle", "cosine", "quartic")
}


@dataclass(frozen=True, eq=False)
class Part:
    """A region in latents.

    Attributes:
        spans: (start, stop) on every axis; the stop may lie beyond the end of a closed axis.
        share: [*S], 0 to 1, the part of each latent that a mask leaves it, or None for the whole box.
        weight: how much it counts.
    """

    spans: tuple[tuple[int, int], ...]
    share: Tensor | None = None
    weight: float = 1.0

    @property
    def box(self) -> Box:
        """(offset, size)."""
        return tuple(start for start, _ in self.spans), tuple(stop - start for start, stop in self.spans)

    def cover(self, size: Sequence[int]) -> Tensor:
        """How much of each latent is its own, [*S] float64."""
        inside = torch.ones((), dtype=torch.float64)
        for axis, ((start, stop), length) in enumerate(zip(self.spans, size, strict=True)):
            along = torch.zeros(length, dtype=torch.float64)
            along[torch.arange(start, stop) % length] = 1
            inside = inside * along.reshape(-1, *(1,) * (len(size) - 1 - axis))
        inside = inside.expand(tuple(size))
        return inside.clone() if self.share is None else inside * self.share.to(inside)


@dataclass(frozen=True, eq=False)
class Plan:
    """Every patch of one run, in the order in which the network's factor has them.

    Attributes:
        size: the canvas `(S_1..S_n)` in latents.
        wrap: which axes are closed.
        layout: where the patches lie, R of them.
        weight: their weights, as a Factor takes them.
        coefficient: [R] float64, the weight of the region that each belongs to.
        owner: [R] int64, the index of that region as the user gave it; -1 is the call's own prompt.
        parts: the regions in latents.
        patch: the grid's patch.
    """

    size: tuple[int, ...]
    wrap: tuple[bool, ...]
    patch: tuple[int, ...]
    layout: BoxSet
    weight: Weight
    coefficient: Tensor
    owner: Tensor
    parts: tuple[Part, ...]

    @property
    def num_patches(self) -> int:
        """R, how many patches go through the network in each step, guidance aside."""
        return self.layout.num_regions

    def calls(self, rows_per_patch: int, max_batch: int | None) -> int:
        """Network calls of one step and image: every size of patch is batched on its own."""
        limit = max_batch or math.inf
        return sum(math.ceil(len(index) * rows_per_patch / limit) or 1 for _, index in self.layout.groups)


def window_of(window: str | Window) -> Window:
    """Find a window by its name.

    Returns:
        The window; a callable is one already.

    Raises:
        ValueError: a name that is not known.

    Example:
        >>> window_of("uniform").__name__
        'uniform'
    """
    if callable(window):
        return window
    if window not in _WINDOWS:
        remedy = (
            "Or pass any window of intarsia.layout, such as functools.partial(gaussian, sigma_fraction=0.2)."
        )
        fail("Composer", "window", f"be one of {', '.join(_WINDOWS)}", repr(window), remedy)
    return _WINDOWS[window]


def starts(length: int, patch: int, stride: int, *, wrap: bool) -> list[int]:
    """Where the patches of one axis begin.

    On an open axis every `stride`, the last one moved to the end. On a closed axis every `stride` where that
    divides the length, and otherwise as evenly as whole latents allow, never further apart.

    Returns:
        The first latent of each patch, rising.

    Example:
        >>> starts(10, 4, 4, wrap=False), starts(10, 4, 4, wrap=True)
        ([0, 4, 6], [0, 3, 6])
    """
    if not wrap:
        count = max(0, -(-(length - patch) // stride)) + 1
        return [min(index * stride, length - patch) for index in range(count)]
    count = -(-length // stride)
    return [index * length // count for index in range(count)]


def plan(
    size: Sequence[int],
    parts: Sequence[Part],
    *,
    patch: Sequence[int],
    stride: Sequence[int],
    wrap: Sequence[bool],
    window: Window,
    background: bool,
    describe: Callable[[tuple[int, ...]], str] = str,
) -> Plan:
    """Lay out the patches of a run.

    A part whose box fits into `patch` is one patch of its own size. Larger ones and those with a share are
    covered by the patches of the grid that touch them, with the window times their share. What the parts
    leave of 1 belongs to the background, on the same grid; patches without any weight are left out.

    Args:
        size: the canvas in latents.
        parts: the regions.
        patch: the largest patch, per axis.
        stride: the grid's steps, 1 to the patch; on a closed axis shorter than a patch, the same part of it.
        wrap: per axis, whether the canvas closes onto itself.
        window: how much each latent of a patch counts.
        background: whether the call has a prompt for what no region covers.
        describe: names a place of the canvas for the user, from its latents.

    Returns:
        The plan.

    Raises:
        CoverageError: something stays uncovered, and there is no background.
        ValueError: a part that does not lie on the canvas.

    Example:
        >>> left = Part(((0, 8), (0, 8)))
        >>> whole = plan((8, 16), [left], patch=(8, 8), stride=(8, 8), wrap=(False, False),
        ...              window=layout.uniform, background=True)
        >>> whole.layout.boxes(), whole.owner.tolist()
        ((((0, 0), (8, 8)), ((0, 8), (8, 8))), [0, -1])
    """
    shape, closed = tuple(size), tuple(wrap)
    whole = tuple(min(p, s) for p, s in zip(patch, shape, strict=True))
    axes = [
        starts(s, p, max(1, step * p // q) if w else min(step, p), wrap=w)
        for s, p, q, step, w in zip(shape, whole, patch, stride, closed, strict=True)
    ]
    grid = Layout(shape, whole, torch.tensor(list(itertools.product(*axes))), closed)
    boxes: list[Box] = []
    maps: list[Tensor | None] = []
    owners: list[int] = []

    def add(owner: int, cover: Tensor) -> None:
        """The patches of the grid that `cover` [*S] touches; a map where it does not fill them."""
        crops = grid.extract(cover[None, None])[0, :, 0]
        for offset, crop in zip(grid.offsets.tolist(), crops, strict=True):
            if bool((crop > 0).any()):
                boxes.append((tuple(offset), whole))
                maps.append(None if bool((crop == 1).all()) else crop)
                owners.append(owner)

    taken = torch.zeros(shape, dtype=torch.float64)
    for number, part in enumerate(parts):
        _check_spans(number, part, shape, closed, describe)
        if part.weight == 0:
            continue
        cover = part.cover(shape)
        taken += part.weight * cover
        if part.share is None and all(e <= p for e, p in zip(part.box[1], whole, strict=True)):
            boxes.append(part.box)
            maps.append(None)
            owners.append(number)
        else:
            add(number, cover)
    rest = (1 - taken).clamp(min=0)
    rest[rest < _LEAST] = 0
    if background:
        add(-1, rest)
    elif bool((taken <= 0).any()):
        _refuse_gaps(taken, describe)
    places = BoxSet(shape, tuple(boxes), closed)
    weight = _weights(window, boxes, maps)
    strength = torch.tensor([parts[o].weight if o >= 0 else 1.0 for o in owners], dtype=torch.float64)
    if bool((places.total() <= 1).all()):
        # Where no patches meet nothing is averaged, and a network's answer comes back to the last bit.
        weight, strength = layout.uniform, torch.ones_like(strength)
    return Plan(shape, closed, whole, places, weight, strength, torch.tensor(owners), tuple(parts))


def _weights(window: Window, boxes: list[Box], maps: list[Tensor | None]) -> Weight:
    if all(share is None for share in maps):
        return window
    full: dict[tuple[int, ...], Tensor] = {}
    weights = []
    for (_, extent), share in zip(boxes, maps, strict=True):
        if extent not in full:
            product = torch.ones((), dtype=torch.float64)
            for factor in window(extent, dtype=torch.float64):
                product = product[..., None] * factor
            full[extent] = product
        weights.append(full[extent] if share is None else full[extent] * share)
    return weights


def _check_spans(
    number: int,
    part: Part,
    size: tuple[int, ...],
    wrap: tuple[bool, ...],
    describe: Callable[[tuple[int, ...]], str],
) -> None:
    for (start, stop), length, closed in zip(part.spans, size, wrap, strict=True):
        if (0 <= start and stop <= length) or (closed and stop - start <= length):
            continue
        got = f"{describe(part.box[0])} to {describe(tuple(stop for _, stop in part.spans))}"
        remedy = f"The canvas ends at {describe(size)}; a closed axis lets a box reach across its seam."
        fail("Composer", f"regions[{number}].box", "lie on the canvas", got, remedy)


def _refuse_gaps(taken: Tensor, describe: Callable[[tuple[int, ...]], str]) -> None:
    bare = taken <= 0
    first = tuple(int(i) for i in bare.nonzero()[0])
    raise CoverageError(
        f"Composer: regions must cover the whole canvas where prompt is None, {int(bare.sum())} of "
        f"{taken.numel()} latents are uncovered (first at {describe(first)}). Give prompt= for the rest, or "
        "move the regions."
    )
