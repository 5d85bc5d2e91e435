# SPDX-License-Identifier: Apache-2.0
"""Covering lists: made by hand, element by element, and by both builders."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from intarsia.ops import _coverage, _plan, use_backend
from kernel_cases import Case, geometries
from oracle import FUZZ_CASES


def plan_by(builder, case, monkeypatch):
    monkeypatch.setenv("INTARSIA_BACKEND", "reference" if builder == "torch" else "cpu")
    _plan._cached.cache_clear()
    plan = case.plan
    plan.coverage  # noqa: B018
    _plan._cached.cache_clear()
    assert (plan.compiled is None) == (builder == "torch")
    return plan


@pytest.fixture(params=["torch", "compiled"])
def builder(request):
    if request.param == "compiled" and _plan._compiled_builder() is None:
        pytest.skip("not compiled")
    return request.param


def test_lists_made_by_hand(builder, monkeypatch):
    plan = plan_by(builder, Case("", (10,), (4,), [[6], [0], [4], [4]], (False,)), monkeypatch)
    assert plan.order.tolist() == [1, 2, 3, 0]
    assert plan.edges[0].tolist() == [0, 4, 6, 8, 10]
    assert plan.axis_cell[0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert plan.cell_start.tolist() == [0, 1, 3, 6, 7]
    assert plan.cell_region.tolist() == [1, 2, 3, 2, 3, 0, 0]
    assert plan.uncovered == (0, None)


def test_lists_across_a_seam_made_by_hand(builder, monkeypatch):
    plan = plan_by(builder, Case("", (6,), (3,), [[-1], [8]], (True,)), monkeypatch)
    assert plan.offsets.tolist() == [[5], [2]] and plan.order.tolist() == [1, 0]
    assert plan.edges[0].tolist() == [0, 2, 5, 6]
    assert plan.cell_region.tolist() == [0, 1, 0]


def test_the_first_uncovered_element(builder, monkeypatch):
    case = Case("", (4, 5), (2, 3), [[0, 0], [2, 2], [0, 2]], (False, False))
    plan = plan_by(builder, case, monkeypatch)
    assert plan.uncovered == (4, (2, 0))


def check_by_element(plan, case):
    missing = []
    cells = [edge.numel() - 1 for edge in plan.edges]
    for x in itertools.product(*map(range, case.canvas)):
        cell = 0
        for axis, at in enumerate(x):
            cell = cell * cells[axis] + int(plan.axis_cell[axis][at])
        listed = plan.cell_region[plan.cell_start[cell] : plan.cell_start[cell + 1]].tolist()
        covering = [
            region
            for region in plan.order.tolist()
            if all(
                (a - o) % s < p
                for a, o, s, p in zip(x, case.offsets[region], case.canvas, case.patch, strict=True)
            )
        ]
        assert listed == covering
        if not covering:
            missing.append(x)
    assert plan.uncovered == (len(missing), missing[0] if missing else None)
    keys = [(*plan.offsets[region].tolist(), region) for region in plan.order.tolist()]
    assert keys == sorted(keys)


@settings(max_examples=max(40, FUZZ_CASES))
@given(case=geometries())
def test_both_builders_are_right_and_equal(case):
    torch_offsets = torch.tensor(case.offsets).reshape(-1, len(case.canvas))
    offsets, order = _coverage.canonical(torch_offsets, case.canvas, case.patch, case.wrap)
    lists = _coverage.build_coverage(offsets, order, case.canvas, case.patch)
    plan = _plan.Plan(case.canvas, case.patch, case.wrap, len(case.offsets), offsets, order)
    plan.__dict__.update(coverage=lists)
    check_by_element(plan, case)

    compiled = case.plan
    if compiled.compiled is None:
        pytest.skip("not compiled")
    assert torch.equal(compiled.offsets, offsets) and torch.equal(compiled.order, order)
    for ours, theirs in zip(compiled.edges + compiled.axis_cell, lists.edges + lists.axis_cell, strict=True):
        assert torch.equal(ours, theirs) and ours.dtype is theirs.dtype
    assert torch.equal(compiled.cell_start, lists.cell_start)
    assert torch.equal(compiled.cell_region, lists.cell_region) and compiled.uncovered == lists.uncovered


@pytest.mark.parametrize(
    "limit,message",
    [
        ("MAX_CELLS", "offsets must cut the canvas into at most 3 cells"),
        ("MAX_COVERING", "offsets must make at most 3 pairs of a cell and a region"),
    ],
)
def test_plans_are_bounded(monkeypatch, limit, message):
    monkeypatch.setattr(_coverage, limit, 3)
    offsets = torch.tensor([[0], [2], [4]])
    with pytest.raises(ValueError, match=message):
        _coverage.build_coverage(offsets, torch.arange(3), (9,), (5,))


def test_a_plan_that_is_too_large_is_refused_before_memory_is_taken():
    rows = torch.arange(2**14)
    offsets = torch.stack([rows, rows], 1)
    with use_backend("reference"), pytest.raises(ValueError, match="weight_total: offsets must .* at most"):
        _plan.get_plan("weight_total", offsets, (2**14, 2**14), (1, 1), (False, False), merging=True)
