# SPDX-License-Identifier: Apache-2.0
"""Counting numbers: every element once, whatever the layout; checkerboards; products and closures agree."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia import layout
from intarsia.layout import BoxSet, Layout, counting_numbers, separators

CASES = settings(derandomize=True, deadline=None, max_examples=150, print_blob=True)


def total(regions: Layout | BoxSet) -> torch.Tensor:
    """How often each element is counted by the regions and their separators."""
    between = separators(regions)
    whole = regions.total()
    if between is None:
        return whole
    counts = counting_numbers(regions.boxes(), between.boxes(), regions.size, regions.wrap)
    assert bool((counts != 0).all())
    return whole + between.total(coefficient=counts.double())


def test_chain_by_hand() -> None:
    chain = layout.chain(16, 6, 5)
    between = separators(chain)
    assert between is not None
    assert between.boxes() == (((5,), (1,)), ((10,), (1,)))
    assert counting_numbers(chain.boxes(), between.boxes(), (16,), (False,)).tolist() == [-1, -1]


def test_loop_by_hand_has_its_closing_seam() -> None:
    between = separators(layout.loop(12, 6, 4))
    assert between is not None
    assert between.boxes() == (((0,), (2,)), ((4,), (2,)), ((8,), (2,)))


def test_two_regions_around_a_loop_meet_twice() -> None:
    between = separators(layout.loop(8, 6, 4))
    assert between is not None
    assert between.boxes() == (((0,), (2,)), ((4,), (2,)))


def test_a_chain_whose_regions_overlap_by_more_than_half_takes_neighbours_only() -> None:
    chain = layout.chain(12, 6, 2)
    between = separators(chain)
    assert between is not None
    assert {extent for _, extent in between.boxes()} == {(4,)}
    assert bool((total(chain) == 1).all())


def test_dense_grid_is_kikuchi() -> None:
    grid = layout.grid((8, 8), (4, 4), (2, 2))
    between = separators(grid)
    assert between is not None
    counts = counting_numbers(grid.boxes(), between.boxes(), (8, 8), (False, False))
    by_size = {
        extent: set(counts[torch.tensor([box[1] == extent for box in between.boxes()])].tolist())
        for extent in {box[1] for box in between.boxes()}
    }
    assert by_size == {(4, 2): {-1}, (2, 4): {-1}, (2, 2): {1}}
    assert between.num_regions == 6 + 6 + 4


@pytest.mark.parametrize("wrap", [(False, False), (True, False), (True, True)])
def test_checkerboard(wrap: tuple[bool, bool]) -> None:
    board = layout.checkerboard((16, 24), (8, 4), wrap)
    degrees = board.total()
    assert int(degrees.max()) == 2 and int(degrees.min()) >= 1
    between = separators(board)
    assert between is not None
    assert {extent for _, extent in between.boxes()} == {(4, 2)}
    counts = counting_numbers(board.boxes(), between.boxes(), board.size, board.wrap)
    assert set(counts.tolist()) == {-1}
    # Patches meet in single cells, and every inner cell is such a meeting.
    if all(wrap):
        assert between.num_regions == 4 * 12
    assert bool((total(board) == 1).all())


@pytest.mark.parametrize(
    ("size", "patch", "message"),
    [
        ((12, 16), (8, 8), r"size must be a multiple of the patch \(8\) on axis 0, got 12.*are 8 and 16"),
        ((16, 16), (8, 7), "patch must be even on axis 1, got 7"),
        ((16,), (8,), "size must have two axes"),
    ],
)
def test_checkerboard_refusals(size: tuple[int, ...], patch: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout.checkerboard(size, patch)


@st.composite
def grids(draw: st.DrawFn) -> Layout:
    ndim = draw(st.integers(1, 3))
    size, patch, stride, wrap = [], [], [], []
    for _ in range(ndim):
        p = draw(st.integers(2, 6))
        s = draw(st.integers((p + 1) // 2, p))
        closed = draw(st.booleans())
        n = draw(st.integers(2 if closed else 1, 3))
        size.append(max(s * n, p + s) // s * s if closed else p + s * (n - 1) + draw(st.integers(0, s - 1)))
        patch.append(p)
        stride.append(s)
        wrap.append(closed)
    for axis, closed in enumerate(wrap):
        if closed and size[axis] < patch[axis]:
            size[axis] = -(-patch[axis] // stride[axis]) * stride[axis]
    return layout.grid(size, patch, stride, wrap)


@CASES
@given(grids())
def test_every_element_of_a_grid_counts_once(grid: Layout) -> None:
    assert bool((total(grid) == 1).all())


@CASES
@given(grids(), st.randoms(use_true_random=False))
def test_products_agree_with_the_closure(grid: Layout, random: object) -> None:
    """The same regions as boxes, which takes the general way; regions that are no product count once, too."""
    boxes = layout.boxes(grid.size, grid.boxes(), wrap=grid.wrap)
    first, second = separators(grid), separators(boxes)
    if first is None or second is None:
        assert first is second
        return
    axes = zip(grid.wrap, grid.size, grid.patch, strict=True)
    # Around a short loop regions meet on both sides, and the closure has boxes that the product does not.
    if all(not closed or length >= 2 * extent for closed, length, extent in axes):
        assert first.boxes() == second.boxes()
    assert bool((total(boxes) == 1).all())


def test_irregular_regions_are_closed_under_intersection() -> None:
    three = layout.boxes((10, 10), [((0, 0), (6, 10)), ((4, 0), (6, 6)), ((4, 4), (6, 6))])
    assert bool((total(three) == 1).all())
    between = separators(three)
    assert between is not None
    # The three overlap pairwise, and all of them in [4..6, 4..6].
    assert ((4, 4), (2, 2)) in between.boxes()


def test_regions_apart_have_no_separators() -> None:
    assert separators(layout.chain(8, 4, 4)) is None


def test_legal_sizes() -> None:
    assert layout.legal_sizes(layout.grid((11, 9), (4, 4), (3, 2)), 0) == (10, 13)
    assert layout.legal_sizes(layout.grid((11, 9), (4, 4), (3, 2)), 1) == (8, 10)
    assert layout.legal_sizes(layout.loop(12, 4, 3), 0) == (12, 15)
