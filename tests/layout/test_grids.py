# SPDX-License-Identifier: Apache-2.0
"""Regular layouts: where regions start, how many there are, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from intarsia import layout
from intarsia.ops import CoverageError


def starts(region: layout.Layout) -> list[int]:
    return region.offsets.flatten().tolist()


def test_a_chain_pulls_its_remainder_to_the_edge() -> None:
    assert starts(layout.chain(10, 4, 2)) == [0, 2, 4, 6]
    assert starts(layout.chain(11, 4, 2)) == [0, 2, 4, 6, 7]
    assert starts(layout.chain(4, 4, 1)) == [0]
    assert starts(layout.chain(5, 4, 4)) == [0, 1]
    assert starts(layout.chain(1, 1, 1)) == [0]


def test_a_loop_goes_once_around() -> None:
    assert starts(layout.loop(8, 4, 2)) == [0, 2, 4, 6]
    assert starts(layout.loop(8, 8, 2)) == [0, 2, 4, 6]
    assert starts(layout.loop(4, 4, 4)) == [0]
    assert layout.loop(8, 4, 2).total().tolist() == [2.0] * 8


def test_a_grid_is_row_major_and_mixes_open_and_closed_axes() -> None:
    mixed = layout.grid((5, 6), (4, 3), (2, 3), wrap=(False, True))
    assert mixed.offsets.tolist() == [[0, 0], [0, 3], [1, 0], [1, 3]]
    assert mixed.wrap == (False, True)
    solid = layout.grid((4, 4, 6), (2, 4, 3), (2, 1, 3))
    assert solid.offsets.tolist() == [[0, 0, 0], [0, 0, 3], [2, 0, 0], [2, 0, 3]]


@pytest.mark.parametrize(("pixels", "count"), [((512, 1024), 9), ((512, 2048), 25), ((1024, 1024), 81)])
def test_counts_of_the_published_views(pixels: tuple[int, int], count: int) -> None:
    size = tuple(p // 8 for p in pixels)
    assert layout.grid(size, (64, 64), (8, 8)).num_regions == count


def test_a_remainder_is_covered_where_public_code_leaves_it_bare() -> None:
    # 1000 pixels are 125 latent columns: at stride 8 the public rule stops at column 120.
    wide = layout.grid((64, 125), (64, 64), (64, 8))
    assert bool((wide.total() >= 1).all())
    assert starts(layout.chain(125, 64, 8)) == [0, 8, 16, 24, 32, 40, 48, 56, 61]


def test_the_88_regions_of_the_4k_canvas() -> None:
    # 3840 x 2160 with 640 x 480 regions, overlap 240 rows and 320 columns, in latent cells of 8 pixels.
    canvas = layout.grid((2160 // 8, 3840 // 8), (480 // 8, 640 // 8), (240 // 8, 320 // 8))
    assert canvas.num_regions == 88
    rows, columns = canvas.offsets[:, 0].unique(), canvas.offsets[:, 1].unique()
    assert (len(rows), len(columns)) == (8, 11)
    assert set((60 - rows.diff()).tolist()) == {240 // 8}
    assert set((80 - columns.diff()).tolist()) == {320 // 8}


def test_the_six_regions_of_the_smaller_published_canvas() -> None:
    canvas = layout.grid((896 // 8, 1408 // 8), (80, 80), ((640 - 384) // 8, (640 - 256) // 8))
    assert canvas.num_regions == 6
    assert canvas.offsets.tolist() == [[0, 0], [0, 48], [0, 96], [32, 0], [32, 48], [32, 96]]


def expected_count(length: int, patch: int, stride: int, wrap: bool) -> int:
    return length // stride if wrap else math.ceil((length - patch) / stride) + 1


def test_20000_random_plans_cover_every_element_without_duplicates() -> None:
    draw = torch.rand(20_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    length = 1 + (draw[:, 0] * 96).long()
    patch = 1 + (draw[:, 1] * (length + 3)).long()
    stride = 1 + (draw[:, 2] * (patch + 2)).long()
    closed = draw[:, 3] < 0.4
    length = torch.where(closed & (draw[:, 4] < 0.8), -(-length // stride) * stride, length)
    plans = torch.stack([length, patch, stride], 1).tolist()
    seen = {"open": 0, "closed": 0, "refused": 0}
    for (length, patch, stride), wrap in zip(plans, closed.tolist(), strict=True):
        build = layout.loop if wrap else layout.chain
        if patch > length or stride > patch or (wrap and length % stride):
            kind = CoverageError if patch <= length and stride > patch else ValueError
            with pytest.raises(kind):
                build(length, patch, stride)
            seen["refused"] += 1
            continue
        first = build(length, patch, stride).offsets[:, 0]
        assert len(first) == expected_count(length, patch, stride, wrap)
        assert int(first.min()) == 0 and len(first.unique()) == len(first)
        assert wrap or int(first.max()) == length - patch
        gaps = torch.cat([first, first[:1] + length]).diff() if wrap else first.diff()
        assert bool((gaps <= patch).all()), "no gap between neighbours, so every element is covered"
        seen["closed" if wrap else "open"] += 1
    assert min(seen.values()) > 4000, seen


@pytest.mark.parametrize("ndim", [2, 3])
def test_random_grids_are_products_of_their_axes(ndim: int) -> None:
    draw = torch.Generator().manual_seed(ndim)
    for _ in range(60):
        patch = torch.randint(1, 6, (ndim,), generator=draw)
        stride = [int(torch.randint(1, int(p) + 1, (1,), generator=draw)) for p in patch]
        wrap = (torch.rand(ndim, generator=draw) < 0.4).tolist()
        size = [
            int(s) * math.ceil(int(p) / int(s)) + int(s) * 2
            if w
            else int(p) + int(torch.randint(0, 6, (1,), generator=draw))
            for p, s, w in zip(patch, stride, wrap, strict=True)
        ]
        region = layout.grid(size, patch.tolist(), stride, wrap)
        axes = zip(size, patch.tolist(), stride, wrap, strict=True)
        assert region.num_regions == math.prod(expected_count(*axis) for axis in axes)
        assert len(region.offsets.unique(dim=0)) == region.num_regions
        assert bool((region.total() >= 1).all())


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: layout.chain(10, 4, 0),
            ValueError,
            r"chain: stride must be positive on every axis, got \(0,\)",
        ),
        (lambda: layout.chain(10, 4, -2), ValueError, r"chain: stride must be positive"),
        (
            lambda: layout.chain(-10, 4, 2),
            ValueError,
            r"chain: size must be positive on every axis, got \(-10,\)",
        ),
        (lambda: layout.chain(10, 0, 2), ValueError, r"chain: patch must be positive"),
        (
            lambda: layout.chain(10, 4, 5),
            CoverageError,
            r"chain: stride must be at most the patch \(4\) on axis 0, got 5",
        ),
        (
            lambda: layout.chain(3, 4, 2),
            ValueError,
            r"chain: patch must fit into the canvas on axis 0, got 4 on 3",
        ),
        (
            lambda: layout.loop(3, 4, 1),
            ValueError,
            r"loop: patch must fit into the canvas on axis 0, got 4 on 3",
        ),
        (
            lambda: layout.loop(11, 4, 2),
            ValueError,
            r"loop: size must be a multiple of the stride \(2\) .*lengths are 10 and 12",
        ),
        (lambda: layout.loop(7, 6, 5), ValueError, r"loop: size must be .* The nearest legal length is 10"),
        (
            lambda: layout.grid((8, 10), (4, 4), (2, 3), wrap=(False, True)),
            ValueError,
            r"grid: size must be a multiple of the stride \(3\) on the wrapped axis 1, got 10",
        ),
        (
            lambda: layout.grid((8, 8), (4,), (2, 2)),
            ValueError,
            r"grid: patch must have one entry per canvas axis \(2\)",
        ),
        (
            lambda: layout.grid((8, 8), (4, 4), (2,)),
            ValueError,
            r"grid: stride must have one entry per canvas axis",
        ),
        (
            lambda: layout.grid((8, 8), (4, 4), (2, 2), (True,)),
            ValueError,
            r"grid: wrap must have one entry per axis \(2\), got 1",
        ),
        (
            lambda: layout.grid((2,) * 4, (2,) * 4, (1,) * 4),
            ValueError,
            r"grid: size must have 1 to 3 axes, got 4",
        ),
        (lambda: layout.grid((), (), ()), ValueError, r"grid: size must have 1 to 3 axes, got 0"),
        (lambda: layout.chain(2**40, 2, 1), ValueError, r"chain: stride must give at most 4194304 regions"),
        (
            lambda: layout.grid((4096, 4096), (2, 2), (1, 1)),
            ValueError,
            r"grid: stride must give at most 4194304",
        ),
    ],
)
def test_what_is_refused_and_how(build: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()  # type: ignore[operator]
