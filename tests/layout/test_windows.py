# SPDX-License-Identifier: Apache-2.0
"""Windows: published values, symmetry, positivity."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from intarsia import layout

WINDOWS = [
    layout.uniform,
    layout.triangle,
    layout.cosine,
    layout.gaussian,
    partial(layout.gaussian, sigma_fraction=0.3),
    layout.quartic,
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positive_finite_and_equal_to_their_mirror_image_bit_for_bit(
    window: layout.Window, dtype: torch.dtype
) -> None:
    patch = (1, 2, 7, 64, 97)
    factors = window(patch, dtype=dtype)
    assert tuple(len(factor) for factor in factors) == patch
    for factor in factors:
        assert factor.dtype == dtype
        assert bool((factor > 0).all()) and bool(torch.isfinite(factor).all())
        assert torch.equal(factor, factor.flip(0))
        assert bool((factor[: (len(factor) + 1) // 2].diff() >= 0).all()), "it rises to its middle"


@pytest.mark.parametrize(
    ("window", "formula"),
    [
        (layout.uniform, lambda u: 1.0),
        (layout.triangle, lambda u: 1 - abs(u)),
        (layout.cosine, lambda u: math.cos(math.pi * u / 2)),
        (layout.quartic, lambda u: 15 / 16 * (1 - u * u) ** 2),
        (layout.gaussian, lambda u: math.exp(-((u / 2) ** 2) / 0.02) / math.sqrt(2 * math.pi * 0.01)),
    ],
)
def test_each_is_its_formula_at_cell_centres(window: layout.Window, formula: object) -> None:
    for n in (1, 4, 5):
        centres = [(2 * j + 1 - n) / n for j in range(n)]
        expected = torch.tensor([formula(u) for u in centres], dtype=torch.float64)  # type: ignore[operator]
        torch.testing.assert_close(window((n,), dtype=torch.float64)[0], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("n", "centre", "edge"),
    [(64, 3.977267, 2.190534e-5), (96, 3.984015, 1.926360e-5), (8, 3.281610, 2.783403e-4)],
)
def test_gaussian_values_of_mixture_of_diffusers(n: int, centre: float, edge: float) -> None:
    window = layout.gaussian((n,), dtype=torch.float64)[0]
    assert float(window[n // 2]) == pytest.approx(centre, rel=2e-7)
    assert float(window[0]) == pytest.approx(edge, rel=2e-7)


def test_the_corner_of_a_64_patch_survives_single_precision_but_not_half() -> None:
    rows, columns = layout.gaussian((64, 64))
    full = rows[:, None] * columns
    assert float(full[0, 0]) == pytest.approx(4.798e-10, rel=1e-3)
    assert bool((full > 0).all())
    assert float((full.half() == 0).float().mean()) == pytest.approx(0.02, abs=0.005)


def test_each_axis_is_measured_in_its_own_size() -> None:
    rows, columns = layout.gaussian((96, 32))
    assert torch.equal(rows, layout.gaussian((96,))[0])
    assert torch.equal(columns, layout.gaussian((32,))[0])


def test_the_default_gaussian_switches_within_six_of_64_cells() -> None:
    window = layout.gaussian((64,), dtype=torch.float64)[0]
    share = window[32:] / (window[32:] + window[:32])
    between = ((share > 0.1) & (share < 0.9)).sum()
    assert int(between) in (5, 6)


def test_half_overlapped_triangles_sum_to_one() -> None:
    total = layout.loop(24, 8, 4).total(weight=layout.triangle)
    torch.testing.assert_close(total, torch.ones(24, dtype=torch.float64))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_size_of_zero_is_refused(window: layout.Window) -> None:
    with pytest.raises(ValueError, match=r"must (have sizes of at least 1|be positive)"):
        window((4, 0))
