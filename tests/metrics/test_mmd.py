# SPDX-License-Identifier: Apache-2.0
"""The discrepancy against a loop over pairs, its noise floor, and what it tells apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from intarsia.metrics import mmd


def normal(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_against_a_loop_over_pairs(estimator: Any) -> None:
    x, y = normal(7, 0).double(), normal(5, 1).double() + 0.3

    def mean(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        values = [
            math.exp(-float((p - q).square().sum()) / (2 * 0.7**2))
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (same and estimator == "unbiased" and i == j)
        ]
        return sum(values) / len(values)

    want = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert mmd(x, y, bandwidth=0.7, estimator=estimator, rows=3) == pytest.approx(want, rel=1e-9)


def test_the_biased_floor_is_set_by_the_number_of_points() -> None:
    """For points of one density the biased estimate is about 2 (1 - E k) / N, far from 0."""
    floors = [mmd(normal(count, 0), normal(count, 1), bandwidth=0.1) for count in (200, 1600)]
    assert floors[0] / floors[1] == pytest.approx(8, rel=0.3)
    assert abs(mmd(normal(1600, 0), normal(1600, 1), bandwidth=0.1, estimator="unbiased")) < 0.2 * floors[1]


def test_different_densities_are_told_apart() -> None:
    same = mmd(normal(500, 0), normal(500, 1), bandwidth=1.0)
    assert mmd(normal(500, 0), 1.3 * normal(500, 1), bandwidth=1.0) > 3 * same
    assert mmd(normal(500, 0), normal(500, 1) + 0.5, bandwidth=1.0) > 10 * same


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mmd(normal(4, 0), normal(4, 0)[:, :1], bandwidth=1.0), r"got \[4, 2\] and \[4, 1\]"),
        (lambda: mmd(normal(4, 0), normal(4, 0), bandwidth=0.0), "bandwidth must be above 0, got 0.0"),
        (
            lambda: mmd(normal(4, 0), normal(4, 0), bandwidth=1.0, estimator="u"),  # type: ignore[arg-type]
            "estimator must be 'biased' or 'unbiased', got 'u'",
        ),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
