# SPDX-License-Identifier: Apache-2.0
"""The operators once more, region by region in float64, and problems to ask them about."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

FUZZ_CASES = int(os.environ.get("INTARSIA_FUZZ_CASES", "0"))
# For kernels that run, and for those that are interpreted; an operator's fuzz test takes one of the two.
FUZZ = settings(max_examples=FUZZ_CASES or 2000, suppress_health_check=list(HealthCheck))
FUZZ_INTERPRETED = settings(max_examples=min(FUZZ_CASES or 40, 2000), suppress_health_check=list(HealthCheck))


def extract(
    canvas: Tensor, offsets: Sequence[Sequence[int]], size: Sequence[int], scale: Tensor | None = None
) -> Tensor:
    source = canvas.double().cpu().numpy()
    if scale is not None:
        source = source * scale.double().cpu().numpy().reshape(-1, *[1] * (source.ndim - 1))
    out = np.full((source.shape[0], len(offsets), source.shape[1], *size), np.nan)
    for region, offset in enumerate(offsets):
        out[:, region] = source[(..., *elements(offset, size, source.shape[2:]))]
    return torch.from_numpy(out)


def scatter(
    patches: Tensor,
    offsets: Sequence[Sequence[int]],
    weight: Tensor | Sequence[Tensor],
    size: Sequence[int],
    normalize: bool = True,
    coefficient: Tensor | None = None,
) -> Tensor:
    source, window = patches.double().cpu().numpy(), full_window(weight).numpy()
    signs = None if coefficient is None else coefficient.double().cpu().numpy()
    merged = np.zeros((source.shape[0], source.shape[2], *size))
    total = np.zeros(tuple(size))
    for region, offset in enumerate(offsets):
        share = (1.0 if signs is None else signs[region]) * window[region % window.shape[0]]
        # A region covers no element twice, so += through an index adds every share.
        at = elements(offset, source.shape[3:], size)
        merged[(..., *at)] += share * source[:, region]
        total[at] += share
    return torch.from_numpy(merged / total if normalize else merged)


def total(
    offsets: Sequence[Sequence[int]],
    weight: Tensor | Sequence[Tensor],
    size: Sequence[int],
    coefficient: Tensor | None = None,
) -> Tensor:
    ones = torch.ones(1, len(offsets), 1, *full_window(weight).shape[1:])
    return scatter(ones, offsets, weight, size, False, coefficient)[0, 0]


def elements(offset: Sequence[int], patch: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Where a region's elements lie on the canvas, as one index array per axis."""
    axes = zip(offset, patch, size, strict=True)
    return np.ix_(*((start + np.arange(extent)) % length for start, extent, length in axes))


def gaussian(length: int, sigma_fraction: float) -> Tensor:
    u = (np.arange(length) - (length - 1) / 2) / length
    return torch.from_numpy(np.exp(-((u / sigma_fraction) ** 2) / 2) / (sigma_fraction * np.sqrt(2 * np.pi)))


def full_window(weight: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(weight, Tensor):
        return weight.double().cpu()
    window = torch.ones((), dtype=torch.float64)
    for factor in weight:
        window = window[..., None] * factor.double().cpu()
    return window[None]


@dataclass(frozen=True)
class Problem:
    """Regions on a canvas, and random tensors to go with them."""

    canvas: tuple[int, ...]
    patch: tuple[int, ...]
    offsets: list[list[int]]
    wrap: tuple[bool, ...] | None = None

    @property
    def geometry(self) -> dict[str, Any]:
        return {"offsets": self.offsets, "wrap": self.wrap}

    def tensor(self, *lead: int, patches: bool = False) -> Tensor:
        return torch.randn(*lead, *(self.patch if patches else self.canvas))

    def patches(self, batch: int = 2, channels: int = 3) -> Tensor:
        return torch.randn(batch, len(self.offsets), channels, *self.patch)

    def weight(self, kind: str) -> Tensor | tuple[Tensor, ...]:
        if kind == "factors":
            return tuple(torch.rand(extent) + 0.25 for extent in self.patch)
        return torch.rand(len(self.offsets) if kind == "windows" else 1, *self.patch) + 0.25


def starts(*axes: Sequence[int]) -> list[list[int]]:
    return [list(offset) for offset in itertools.product(*axes)]


PROBLEMS = {
    "chain": Problem((23,), (7,), [[16], [0], [5], [11], [5]]),
    "loop": Problem((19,), (6,), starts([0, 4, 8, 13, 17]), (True,)),
    "whole": Problem((8,), (8,), [[3], [-8]], (True,)),
    "grid": Problem((10, 12), (4, 5), starts([0, 3, 6], [0, 4, 7])),
    "ring": Problem((6, 16), (4, 8), starts([0, 2], [-4, 4, 12]), (False, True)),
    "boxes": Problem((8, 8), (5, 5), [[3, 3], [0, 0], [3, 0], [0, 3], [1, 2], [0, 0]]),
    "volume": Problem((4, 5, 7), (3, 3, 4), starts([0, 1], [0, 3], [0, 3, 5]), (False, True, True)),
}
WEIGHTS = ("factors", "window", "windows")
