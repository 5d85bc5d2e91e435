# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import oracle
import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS, WEIGHTS
from test_scatter_average import on

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def test_a_table_made_by_hand(backend):
    window = torch.tensor([1.0, 2.0, 1.0], device=backend.device)
    total = ops.weight_total([[2], [0], [2]], (window,), (6,))
    assert total.tolist() == [1.0, 2.0, 3.0, 4.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_oracle(backend, name, kind, dtype, assert_near):
    backend.keep_to(name == "ring" and kind == "factors")
    problem = PROBLEMS[name]
    weight = problem.weight(kind)
    weight = weight.to(dtype) if kind != "factors" else tuple(factor.to(dtype) for factor in weight)
    signed = torch.randn(len(problem.offsets), dtype=dtype)
    for coefficient in (None, signed):
        there = None if coefficient is None else coefficient.to(backend.device)
        total = ops.weight_total(
            problem.offsets, on(backend.device, weight), problem.canvas, wrap=problem.wrap, coefficient=there
        )
        assert total.dtype is dtype and total.shape == problem.canvas
        assert_near(total / 4, oracle.total(problem.offsets, weight, problem.canvas, coefficient) / 4, dtype)


def test_is_what_an_average_divides_by(backend):
    problem = PROBLEMS["boxes"]
    patches = problem.patches().to(backend.device)
    weight = on(backend.device, problem.weight("windows"))
    arguments = {"weight": weight, "size": problem.canvas, **problem.geometry}
    total = ops.weight_total(problem.offsets, weight, problem.canvas)
    mean = ops.scatter_average(patches, **arguments)
    merged = ops.scatter_average(patches, normalize=False, **arguments)
    torch.testing.assert_close(mean * total, merged, rtol=1e-6, atol=1e-6)


def test_no_regions_give_zero(backend):
    total = ops.weight_total([], (torch.ones(2, device=backend.device),), (4,))
    assert total.tolist() == [0.0] * 4
