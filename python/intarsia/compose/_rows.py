# SPDX-License-Identifier: Apache-2.0
"""Rows: in which order regions, terms and samples go through a network, and what each is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from intarsia.types import Cond, cat_cond, index_cond, merge_cond, override_cond, same_structure


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

    def batches(self, samples: int, cond: Cond, device: torch.device) -> Iterator[tuple[int, int, Cond]]:
        """`(start, stop, cond)` of every network batch; terms share one where their conditions join."""
        count = samples * self.per_sample
        limit = self.limit or count
        run = count if len(self.overrides) == 1 else self.regions
        first, start = 0, 0
        pieces: list[Cond] = []
        while start < count:
            stop = min(start // run * run + run, first + limit)
            piece = self._cond(start, stop, cond, device)
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

    def _cond(self, start: int, stop: int, cond: Cond, device: torch.device) -> Cond:
        term = start // self.regions % len(self.overrides)
        rows = torch.arange(start, stop, device=device)
        canvas, region = rows // self.per_sample, self.index.to(device)[rows % self.regions]
        joined = merge_cond(index_cond(cond, canvas), index_cond(self.cond, region, canvas=canvas))
        return override_cond(joined, index_cond(self.overrides[term], region))
