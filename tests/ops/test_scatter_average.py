# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import oracle
import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS, WEIGHTS

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def on(device, weight):
    return (
        weight.to(device)
        if isinstance(weight, torch.Tensor)
        else tuple(factor.to(device) for factor in weight)
    )


def test_a_table_made_by_hand(backend):
    patches = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], device=backend.device).view(1, 2, 1, 3)
    window = torch.tensor([1.0, 2.0, 1.0], device=backend.device)
    arguments = {"offsets": [[2], [0]], "size": (5,), "weight": (window,)}
    mean = ops.scatter_average(patches, **arguments)
    assert mean.flatten().tolist() == [10.0, 20.0, 15.5, 2.0, 3.0]
    total = ops.scatter_average(patches, normalize=False, **arguments)
    assert total.flatten().tolist() == [10.0, 40.0, 31.0, 4.0, 3.0]
    signed = ops.scatter_average(
        patches, normalize=False, coefficient=torch.tensor([-1.0, 0.5], device=backend.device), **arguments
    )
    assert signed.flatten().tolist() == [5.0, 20.0, 14.0, -4.0, -3.0]


def test_a_corner_where_four_regions_meet(backend):
    patches = (
        torch.tensor([1.0, 2.0, 4.0, 8.0], device=backend.device).view(1, 4, 1, 1, 1).expand(1, 4, 1, 2, 2)
    )
    ones = torch.ones(1, 2, 2, device=backend.device)
    offsets = [[0, 0], [0, 1], [1, 0], [1, 1]]
    mean = ops.scatter_average(patches, offsets=offsets, size=(3, 3), weight=ones)
    assert mean[0, 0].tolist() == [[1.0, 1.5, 2.0], [2.5, 3.75, 5.0], [4.0, 6.0, 8.0]]


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_oracle(backend, dtype, name, kind, assert_near):
    backend.keep_to(name == "ring" and kind == "factors")
    problem = PROBLEMS[name]
    patches = problem.patches().to(backend.device, dtype)
    weight = on(backend.device, problem.weight(kind))
    positive = torch.rand(len(problem.offsets), device=backend.device) + 0.1
    for normalize, coefficient in ((True, None), (True, positive), (False, positive - 0.6)):
        options = {"normalize": normalize, "coefficient": coefficient}
        merged = ops.scatter_average(
            patches, weight=weight, size=problem.canvas, **options, **problem.geometry
        )
        assert merged.dtype is dtype and merged.is_contiguous()
        expected = oracle.scatter(patches, problem.offsets, weight, problem.canvas, **options)
        # Signed sums of up to six terms that cancel.
        assert_near(merged / 4, expected / 4, dtype)


@pytest.mark.parametrize("target", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_casts_once_at_the_end(backend, dtype, target, assert_near):
    problem = PROBLEMS["grid"]
    patches = problem.patches().to(backend.device, dtype)
    weight = on(backend.device, problem.weight("factors"))
    merged = ops.scatter_average(
        patches, weight=weight, size=problem.canvas, dtype=target, **problem.geometry
    )
    assert merged.dtype is target
    exact = torch.float64 if dtype is torch.float64 else torch.float32
    coarser = max(target, exact, key=lambda kind: torch.finfo(kind).eps)
    assert_near(merged / 4, oracle.scatter(patches, problem.offsets, weight, problem.canvas) / 4, coarser)


@pytest.mark.parametrize("overlaps", [4, 16, 64, 256])
def test_accuracy_does_not_fall_with_the_overlaps(backend, dtype, overlaps, assert_near):
    backend.keep_to(overlaps == 4)
    length = 32
    offsets = [[i] for i in range(overlaps)]
    patches = torch.randn(1, overlaps, 1, length).to(backend.device, dtype)
    window = torch.rand(length).add(0.25).to(backend.device)
    size = (length + overlaps - 1,)
    merged = ops.scatter_average(patches, offsets=offsets, weight=(window,), size=size)
    exact = oracle.scatter(patches, offsets, (window,), size)
    assert_near(merged, exact, dtype)

    if dtype in (torch.float16, torch.bfloat16):
        sums, total = torch.zeros(size), torch.zeros(size)
        for region, (start,) in enumerate(offsets):
            sums[start : start + length] += window.cpu() * patches[0, region, 0].float().cpu()
            total[start : start + length] += window.cpu()
        theirs = ((sums / total).to(dtype).double() - exact[0, 0]).abs().max()
        # Triton's interpreter cuts bfloat16 off where all others round it.
        slack = 4 if backend.slow and dtype is torch.bfloat16 else 2
        assert (merged.cpu().double() - exact).abs().max() <= slack * theirs


def test_the_mean_of_equal_values_is_that_value(backend):
    problem = PROBLEMS["boxes"]
    patches = torch.full((1, len(problem.offsets), 1, *problem.patch), 0.7, device=backend.device)
    mean = ops.scatter_average(
        patches, weight=on(backend.device, problem.weight("windows")), size=problem.canvas, **problem.geometry
    )
    torch.testing.assert_close(mean, torch.full_like(mean, 0.7), rtol=3e-7, atol=0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_bad_value_stays_in_its_region(backend, poison):
    problem = PROBLEMS["ring"]
    patches = problem.patches()
    patches[0, 2, 1] = poison
    merged = ops.scatter_average(
        patches.to(backend.device),
        weight=on(backend.device, problem.weight("window")),
        size=problem.canvas,
        **problem.geometry,
    )
    region = torch.zeros(1, len(problem.offsets), 1, *problem.patch)
    region[:, 2] = 1
    touched = (
        oracle.scatter(region, problem.offsets, torch.ones(1, *problem.patch), problem.canvas, False)[0, 0]
        > 0
    )
    bad = ~merged.cpu().isfinite()
    assert torch.equal(bad[0, 1], touched) and not bad[1].any() and not bad[0, 0].any()


def test_elements_of_no_region_become_zero_in_a_sum(backend):
    patches = torch.ones(1, 1, 1, 2, device=backend.device)
    merged = ops.scatter_average(
        patches, offsets=[[2]], weight=(torch.ones(2, device=backend.device),), size=(5,), normalize=False
    )
    assert merged.flatten().tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("batch,channels", [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_do_is_legal(backend, batch, channels):
    patches = torch.ones(batch, 1, channels, 4, device=backend.device)
    weight = (torch.ones(4, device=backend.device),)
    assert ops.scatter_average(patches, offsets=[[0]], weight=weight, size=(4,)).shape == (batch, channels, 4)


def test_no_regions_leave_a_canvas_uncovered_or_zero(backend):
    patches = torch.ones(1, 0, 1, 4, device=backend.device)
    weight = (torch.ones(4, device=backend.device),)
    with pytest.raises(ops.CoverageError, match="6 of 6 are uncovered"):
        ops.scatter_average(patches, offsets=[], weight=weight, size=(6,))
    assert not ops.scatter_average(patches, offsets=[], weight=weight, size=(6,), normalize=False).any()


def test_out_is_written_and_returned(backend, dtype):
    problem = PROBLEMS["loop"]
    patches = problem.patches(1, 2).to(backend.device)
    weight = on(backend.device, problem.weight("factors"))
    out = torch.empty(1, 2, 19, dtype=dtype, device=backend.device)
    version = out._version
    result = ops.scatter_average(patches, weight=weight, size=problem.canvas, out=out, **problem.geometry)
    assert result is out and out._version > version
    fresh = ops.scatter_average(patches, weight=weight, size=problem.canvas, dtype=dtype, **problem.geometry)
    assert torch.equal(out, fresh)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_any_floating_dtype(backend, dtype, assert_near):
    problem = PROBLEMS["grid"]
    weight = on(backend.device, tuple(factor.to(dtype) for factor in problem.weight("factors")))
    patches = problem.patches().to(backend.device)
    merged = ops.scatter_average(patches, weight=weight, size=problem.canvas, **problem.geometry)
    assert_near(
        merged / 4, oracle.scatter(patches, problem.offsets, weight, problem.canvas) / 4, torch.float32
    )
