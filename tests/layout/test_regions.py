# SPDX-License-Identifier: Apache-2.0
"""Layout and BoxSet: cropping, merging, centres, weights, order."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from intarsia import layout
from intarsia.layout import Layout
from intarsia.ops import CoverageError

MIXED = [((0, 0), (4, 4)), ((0, 3), (6, 5)), ((2, 0), (4, 4)), ((0, 0), (6, 8))]


def test_extract_crops_and_wraps() -> None:
    canvas = torch.arange(6.0).reshape(1, 1, 6)
    ring = Layout((6,), (3,), [[4], [-1]], (True,))
    assert ring.offsets.flatten().tolist() == [4, 5]
    assert ring.extract(canvas)[0, :, 0].tolist() == [[4, 5, 0], [5, 0, 1]]
    halved = ring.extract(canvas, scale=torch.tensor([0.5]), dtype=torch.float16)
    assert halved.dtype == torch.float16 and halved[0, 0, 0].tolist() == [2, 2.5, 0]


def test_merge_is_the_left_inverse_of_extract() -> None:
    region = layout.grid((7, 9), (3, 4), (2, 3))
    canvas = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    for window in (layout.uniform, layout.gaussian, torch.rand(3, 4) + 0.1, torch.rand(9, 3, 4) + 0.1):
        torch.testing.assert_close(region.merge(region.extract(canvas), weight=window), canvas)


def test_merge_without_normalising_is_the_adjoint_of_extract() -> None:
    region = layout.grid((5, 8), (3, 4), (2, 2), wrap=(False, True))
    x = torch.randn(1, 2, 5, 8, dtype=torch.float64)
    p = torch.randn(1, region.num_regions, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close((region.extract(x) * p).sum(), (x * region.merge(p, normalize=False)).sum())


def test_a_soft_map_of_the_canvas_gives_each_region_its_part() -> None:
    region, soft = layout.chain(6, 4, 2), torch.arange(1.0, 7.0)
    (weight,) = region.weights(soft, dtype=torch.float32)[0]
    assert weight.tolist() == [[1, 2, 3, 4], [3, 4, 5, 6]]
    assert region.total(weight=soft).tolist() == [1, 2, 6, 8, 5, 6]


def test_centres_are_relative_and_wrap() -> None:
    assert layout.chain(8, 4, 2).centres().flatten().tolist() == [0.25, 0.5, 0.75]
    assert layout.loop(8, 4, 2).centres().flatten().tolist() == [0.25, 0.5, 0.75, 0.0]
    tall = layout.grid((4, 8), (4, 4), (4, 4)).centres()
    assert tall.dtype == torch.float32 and tall.tolist() == [[0.5, 0.25], [0.5, 0.75]]


def test_boxes_of_a_layout_in_axis_order() -> None:
    assert layout.grid((4, 6), (4, 3), (4, 3)).boxes() == (((0, 0), (4, 3)), ((0, 3), (4, 3)))


def test_layouts_are_values() -> None:
    one, other = layout.chain(10, 4, 3), layout.chain(10, 4, 3)
    assert one == other and hash(one) == hash(other) and one != layout.chain(10, 4, 2)
    assert one != "chain"
    assert copy.deepcopy(one) == one and pickle.loads(pickle.dumps(one)) == one
    given = torch.tensor([[0], [2]])
    mine = Layout((6,), (4,), given)
    given.zero_()
    assert mine.offsets.flatten().tolist() == [0, 2], "it keeps its own copy"
    with pytest.raises(AttributeError):
        one.size = (3,)  # type: ignore[misc]
    assert repr(layout.loop(8, 4, 2)) == "Layout(size=(8,), patch=(4,), 4 regions, wrap=(True,))"
    boxed = layout.boxes((6, 8), MIXED)
    assert boxed == layout.boxes((6, 8), MIXED) and hash(boxed) == hash(layout.boxes((6, 8), MIXED))


def test_repeated_keeps_the_order_of_regions() -> None:
    twice = layout.chain(6, 4, 2).repeated(2)
    assert twice.offsets.flatten().tolist() == [0, 2, 0, 2]


def test_boxes_of_mixed_sizes_keep_the_order_given() -> None:
    boxed = layout.boxes((6, 8), MIXED)
    assert boxed.num_regions == 4
    assert [part.patch for part, _ in boxed.groups] == [(4, 4), (6, 5), (6, 8)]
    assert [index.tolist() for _, index in boxed.groups] == [[0, 2], [1], [3]]
    canvas = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    patches = boxed.extract(canvas)
    for ((top, left), (height, width)), patch in zip(MIXED, patches, strict=True):
        assert torch.equal(patch, canvas[:, :, top : top + height, left : left + width])
    torch.testing.assert_close(boxed.merge(patches, weight=layout.gaussian), canvas)
    centres = [[0.333333, 0.25], [0.5, 0.6875], [0.666667, 0.25], [0.5, 0.5]]
    torch.testing.assert_close(boxed.centres(), torch.tensor(centres))


def test_weights_and_coefficients_of_boxes_follow_the_boxes() -> None:
    boxed = layout.boxes((6,), [((0,), (4,)), ((2,), (4,)), ((3,), (3,))])
    total = boxed.total(weight=[torch.full((4,), 1.0), torch.full((4,), 10.0), torch.full((3,), 100.0)])
    assert total.tolist() == [1, 1, 11, 111, 110, 110]
    assert boxed.total(coefficient=torch.tensor([1.0, 10.0, 100.0])).tolist() == total.tolist()
    patches = [torch.ones(1, 1, 4), 2 * torch.ones(1, 1, 4), 3 * torch.ones(1, 1, 3)]
    merged = boxed.merge(patches, normalize=False, coefficient=torch.tensor([1.0, 10.0, 100.0]))
    assert merged.flatten().tolist() == [1, 1, 21, 321, 320, 320]


def test_boxes_wrap_and_may_repeat() -> None:
    boxed = layout.boxes((6,), [((4,), (4,)), ((4,), (4,)), ((0,), (6,))], wrap=(True,))
    assert boxed.extract(torch.arange(6.0).reshape(1, 1, 6))[1].flatten().tolist() == [4, 5, 0, 1]
    assert boxed.total().tolist() == [3, 3, 1, 1, 3, 3]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Layout((4,), (5,), [[0]]), r"Layout: patch must fit into the canvas \(4,\), got \(5,\)"),
        (lambda: Layout((4, 4), (4,), [[0]]), r"Layout: patch must have one size per canvas axis \(2\)"),
        (lambda: Layout((4,), (2,), [[3]]), r"Layout: offsets must lie in \[0, 2\] on axis 0, got 3"),
        (lambda: Layout((4,), (2,), [[-1]]), r"Layout: offsets must lie in \[0, 2\] on axis 0, got -1"),
        (lambda: Layout((4,), (2,), [[0, 1]]), r"Layout: offsets must have shape \[R, 1\].*got \[1, 2\]"),
        (lambda: Layout((4,), (2,), torch.zeros(0, 1)), r"Layout: offsets must .* at least one region"),
        (lambda: Layout((-4,), (2,), [[0]]), r"Layout: size must be positive on every axis, got \(-4,\)"),
        (lambda: layout.boxes((6,), []), r"boxes: boxes must name at least one region"),
        (
            lambda: layout.boxes((6,), [((0, 0), (2,))]),
            r"boxes: boxes must have 1 axes, got offset \(0, 0\).*in box 0",
        ),
        (
            lambda: layout.boxes((6,), [((4,), (3,))]),
            r"Layout: offsets must lie in \[0, 3\] on axis 0, got 4",
        ),
        (
            lambda: layout.chain(6, 4, 2).weights(torch.ones(5), dtype=torch.float32),
            r"Layout: weight must be 1-D factors",
        ),
        (
            lambda: layout.chain(6, 4, 2).merge(torch.ones(1, 2, 1, 4), weight=torch.ones(3, 4)),
            r"Layout: weight must be",
        ),
        (
            lambda: layout.boxes((6, 8), MIXED).total(weight=[torch.ones(4, 4)]),
            r"BoxSet: weight must be .* per box \(4\), got 1",
        ),
        (
            lambda: layout.boxes((6, 8), MIXED).merge([torch.ones(1, 1, 4, 4)]),
            r"BoxSet: patches must be one per box \(4\)",
        ),
        (lambda: layout.chain(6, 4, 2).repeated(0), r"repeated: times must be at least 1, got 0"),
        (lambda: layout.chain(6, 4, 2).extract(torch.ones(1, 6)), r"extract_patches: canvas must"),
    ],
)
def test_what_is_refused_and_how(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_an_uncovered_element_cannot_be_averaged() -> None:
    with pytest.raises(CoverageError, match="uncovered"):
        Layout((6,), (2,), [[0], [4]]).merge(torch.ones(1, 2, 1, 2))
    with pytest.raises(CoverageError, match=r"BoxSet: .* 1 of 6 are uncovered \(first at \(3,\), weight 0\)"):
        layout.boxes((6,), [((0,), (3,)), ((4,), (2,))]).merge([torch.ones(1, 1, 3), torch.ones(1, 1, 2)])
