# SPDX-License-Identifier: Apache-2.0
"""Rows: in which order regions, terms and samples go through a network, and what each is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from intarsia._cond import rebuild
from intarsia.compose._constant import constant
from intarsia.types import (
    Cond,
    PerCanvas,
    cat_cond,
    index_cond,
    merge_cond,
    override_cond,
    same_structure,
)

Batch: TypeAlias = tuple[int, int, Cond]
# Bytes of conditions that are kept between calls: a few numbers for each row, not encoded prompts.
_SMALL = 1 << 20


class _Held(NamedTuple):
    """Conditions of all batches, for what they were made of; that is kept alive, so that no id is reused."""

    key: tuple[object, ...]
    leaves: list[object]
    batches: list[Batch]
    versions: list[int]


class Rows:
    """K terms of R regions per sample, in the order `(b*K + k)*R + r`.

    Args:
        index: `[R]` int64, the place of each region in the factor's own order.
        cond: the factor's condition, leading axis R of *all* its regions, 1, or `PerCanvas`.
        overrides: per term, the condition that wins over the others.
        limit: most rows of one batch, or None.
    """

    def __init__(self, index: Tensor, cond: Cond, overrides: Sequence[Cond], limit: int | None) -> None:
        self.index, self.cond, self.overrides, self.limit = index, cond, tuple(overrides), limit
        self.regions = index.shape[0]
        self.per_sample = self.regions * len(self.overrides)
        self._indices: dict[torch.device, tuple[Tensor]] = {}
        self._held: _Held | None = None

    def batches(self, samples: int, cond: Cond, device: torch.device, *, keep: bool) -> Iterator[Batch]:
        """`(start, stop, cond)` of every network batch; terms share one where their conditions join.

        With `keep`, where the run brings no condition, small ones are kept from one call to the next.
        """
        known = self._known(samples, device) if keep and cond is None else None
        if known is None:
            yield from self._made(samples, cond, device)
            return
        key, leaves = known
        held = self._held
        # A network may also have written into what it was told.
        if held is None or held.key != key or held.versions != _versions(held.batches):
            made = [*self._made(samples, cond, device)]
            held = self._held = _Held(key, leaves, made, _versions(made))
        for start, stop, told in held.batches:
            # A network may take its dict apart.
            yield start, stop, _shallow(told)

    def _known(self, samples: int, device: torch.device) -> tuple[tuple[object, ...], list[object]] | None:
        """What the conditions are made of, and the same as a key; None where they are better not kept."""
        leaves: list[object] = [*_leaves(self.cond), *(x for tree in self.overrides for x in _leaves(tree))]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(leaf.requires_grad or leaf.is_inference() for leaf in tensors):
            return None
        wide = sum(leaf[:1].numel() * leaf.element_size() for leaf in tensors if leaf.ndim)
        if wide * samples * self.per_sample > _SMALL:
            return None
        versions = (leaf._version for leaf in tensors)
        mode = torch.is_inference_mode_enabled()
        return (samples, device, mode, *map(id, leaves), *versions), leaves

    def _made(self, samples: int, cond: Cond, device: torch.device) -> Iterator[Batch]:
        count = samples * self.per_sample
        limit = self.limit or count
        run = count if len(self.overrides) == 1 else self.regions
        own = _placed(self.cond, device)
        overrides = [_placed(override, device) for override in self.overrides]
        first, start = 0, 0
        pieces: list[Cond] = []
        while start < count:
            stop = min(start // run * run + run, first + limit)
            override = overrides[start // self.regions % len(overrides)]
            piece = self._cond(start, stop, cond, own, override, device)
            if pieces and not same_structure(pieces[0], piece):
                yield first, start, cat_cond(pieces)
                first, pieces = start, []
                continue
            pieces.append(piece)
            start = stop
            if start - first == limit or start == count:
                yield first, start, cat_cond(pieces)
                first, pieces = start, []

    def locate(self, row: int) -> tuple[int, int]:
        """Sample and region (in this job's order) of a row."""
        return row // self.per_sample, row % self.regions

    def _cond(
        self, start: int, stop: int, run: Cond, own: Cond, override: Cond, device: torch.device
    ) -> Cond:
        """Conditions of rows that belong to one term: the run's and the factor's, then the term's own."""
        rows = torch.arange(start, stop, device=device)
        canvas = rows // self.per_sample
        region = self._index_on(device)[0].index_select(0, rows % self.regions)
        joined = merge_cond(index_cond(run, canvas), index_cond(own, region, canvas=canvas))
        return override_cond(joined, index_cond(override, region))

    # A tuple, because the compiler wants a lone tensor to come from one call only.
    @constant
    def _index_on(self, device: torch.device) -> tuple[Tensor]:
        held = self._indices.get(device)
        if held is None:
            held = self._indices[device] = (self.index.to(device),)
        return held


def _leaves(cond: Cond) -> Iterator[object]:
    if isinstance(cond, dict):
        for key, value in cond.items():
            yield key
            yield from _leaves(value)
    elif isinstance(cond, (list, tuple)):
        for value in cond:
            yield from _leaves(value)
    else:
        yield cond.value if isinstance(cond, PerCanvas) else cond


def _versions(batches: list[Batch]) -> list[int]:
    leaves = (leaf for _, _, told in batches for leaf in _leaves(told))
    return [leaf._version for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_inference()]


def _shallow(cond: Cond) -> Cond:
    if isinstance(cond, dict):
        return {key: _shallow(value) for key, value in cond.items()}
    return rebuild(cond, [_shallow(v) for v in cond]) if isinstance(cond, (list, tuple)) else cond


def _placed(cond: Cond, device: torch.device) -> Cond:
    """The same tree with its tensors on `device`; those that are there already are not copied."""
    if isinstance(cond, dict):
        return {key: _placed(value, device) for key, value in cond.items()}
    if isinstance(cond, (list, tuple)):
        return rebuild(cond, [_placed(value, device) for value in cond])
    if isinstance(cond, PerCanvas):
        return PerCanvas(cond.value.to(device))
    return cond.to(device) if isinstance(cond, Tensor) else cond
