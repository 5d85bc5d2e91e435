# SPDX-License-Identifier: Apache-2.0
"""Rows: in which order regions, terms and samples go through a network, and what each is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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

    def batches(self, samples: int, cond: Cond, device: torch.device) -> Iterator[tuple[int, int, Cond]]:
        """`(start, stop, cond)` of every network batch; terms share one where their conditions join."""
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


def _placed(cond: Cond, device: torch.device) -> Cond:
    """The same tree with its tensors on `device`; those that are there already are not copied."""
    if isinstance(cond, dict):
        return {key: _placed(value, device) for key, value in cond.items()}
    if isinstance(cond, (list, tuple)):
        return rebuild(cond, [_placed(value, device) for value in cond])
    if isinstance(cond, PerCanvas):
        return PerCanvas(cond.value.to(device))
    return cond.to(device) if isinstance(cond, Tensor) else cond
