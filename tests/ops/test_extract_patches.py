# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import oracle
import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS, Problem

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def test_a_table_made_by_hand(backend):
    canvas = torch.tensor([[0.0, 1, 2], [3, 4, 5]], device=backend.device)[None, None]
    patches = ops.extract_patches(canvas, offsets=[[0, 1], [1, 2]], size=(1, 2), wrap=(False, True))
    assert patches.tolist() == [[[[[1.0, 2.0]]], [[[5.0, 3.0]]]]]


@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_oracle(backend, dtype, name, assert_near):
    backend.keep_to(name == "ring")
    problem = PROBLEMS[name]
    canvas = problem.tensor(2, 3).to(backend.device, dtype)
    patches = ops.extract_patches(canvas, size=problem.patch, **problem.geometry)
    assert patches.dtype is dtype and patches.is_contiguous()
    assert torch.equal(patches.cpu().double(), oracle.extract(canvas, problem.offsets, problem.patch))

    scale = torch.tensor([0.5, 1.7], device=backend.device)
    scaled = ops.extract_patches(canvas, size=problem.patch, scale=scale, **problem.geometry)
    assert_near(scaled, oracle.extract(canvas, problem.offsets, problem.patch, scale), dtype)


@pytest.mark.parametrize("target", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_casts_after_the_scale(backend, dtype, target):
    problem = PROBLEMS["ring"]
    canvas = (1000 * problem.tensor(2, 3)).to(backend.device, dtype)
    exact = torch.float64 if dtype is torch.float64 else torch.float32
    scale = torch.tensor([1e-3, 2e-3], dtype=exact, device=backend.device)
    patches = ops.extract_patches(canvas, size=problem.patch, scale=scale, dtype=target, **problem.geometry)
    assert patches.dtype is target
    plain = ops.extract_patches(canvas.to(exact), size=problem.patch, **problem.geometry)
    expected = (plain * scale.view(2, 1, 1, 1, 1)).to(target)
    # Triton's interpreter cuts bfloat16 off where all others round it.
    slack = 2**-7 if backend.slow and target is torch.bfloat16 else 0
    torch.testing.assert_close(patches, expected, rtol=slack, atol=0)


def test_is_the_adjoint_of_the_unit_sum(backend):
    problem = PROBLEMS["volume"]
    canvas = problem.tensor(2, 3).double().to(backend.device)
    patches = problem.patches().double().to(backend.device)
    ones = tuple(torch.ones(extent, device=backend.device) for extent in problem.patch)
    there = ops.extract_patches(canvas, size=problem.patch, **problem.geometry)
    back = ops.scatter_average(patches, size=problem.canvas, weight=ones, normalize=False, **problem.geometry)
    torch.testing.assert_close((there * patches).sum(), (canvas * back).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offsets", [[[0, 0]], [[6, 8]], [[0, 8], [6, 0]]])
def test_regions_at_the_edges(backend, offsets):
    canvas = torch.randn(1, 2, 10, 12, device=backend.device)
    patches = ops.extract_patches(canvas, offsets=offsets, size=(4, 4))
    for region, (row, column) in enumerate(offsets):
        assert torch.equal(patches[:, region], canvas[:, :, row : row + 4, column : column + 4])


@pytest.mark.parametrize("shift", [-19, 0, 19, 38 * 10**6])
def test_any_offset_on_a_wrapped_axis(backend, shift):
    canvas = torch.randn(1, 1, 19, device=backend.device)
    offsets = torch.tensor([[17], [3]]) + shift
    patches = ops.extract_patches(canvas, offsets=offsets, size=(5,), wrap=(True,))
    assert torch.equal(patches[0, 0, 0], canvas[0, 0].roll(-17)[:5])


@pytest.mark.parametrize("batch,regions,channels", [(0, 2, 3), (2, 0, 3), (2, 2, 0), (0, 0, 0)])
def test_nothing_to_do_is_legal(backend, batch, regions, channels):
    canvas = torch.randn(batch, channels, 6, device=backend.device)
    patches = ops.extract_patches(canvas, offsets=[[1]] * regions, size=(3,))
    assert patches.shape == (batch, regions, channels, 3)


def test_offsets_of_any_kind(backend):
    canvas = torch.arange(6.0, device=backend.device).view(1, 1, 6)
    expected = [[[[1.0, 2.0]], [[4.0, 5.0]]]]
    wide = torch.tensor([[1, 9], [4, 9]])
    for offsets in ([[1], [4]], ((1,), (4,)), torch.tensor([[1], [4]], dtype=torch.int32), wide[:, :1]):
        assert ops.extract_patches(canvas, offsets=offsets, size=[2]).tolist() == expected


def test_out_is_written_and_returned(backend, dtype):
    problem = PROBLEMS["grid"]
    canvas = problem.tensor(1, 2).to(backend.device)
    out = torch.empty(1, 9, 2, 4, 5, dtype=dtype, device=backend.device)
    version = out._version
    assert ops.extract_patches(canvas, size=problem.patch, out=out, **problem.geometry) is out
    fresh = ops.extract_patches(canvas, size=problem.patch, dtype=dtype, **problem.geometry)
    assert torch.equal(out, fresh) and out._version > version


def test_a_changed_offsets_tensor_is_a_new_plan(backend):
    canvas = torch.arange(6.0, device=backend.device).view(1, 1, 6)
    offsets = torch.tensor([[0]])
    assert ops.extract_patches(canvas, offsets=offsets, size=(2,)).flatten().tolist() == [0.0, 1.0]
    offsets.numpy()[0, 0] = 3
    assert ops.extract_patches(canvas, offsets=offsets, size=(2,)).flatten().tolist() == [3.0, 4.0]


def test_one_region_may_be_the_canvas(backend):
    canvas = torch.randn(1, 1, 3, 4, device=backend.device)
    problem = Problem((3, 4), (3, 4), [[0, 0]])
    assert torch.equal(ops.extract_patches(canvas, size=problem.patch, **problem.geometry)[:, 0], canvas)
