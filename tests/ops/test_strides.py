# SPDX-License-Identifier: Apache-2.0
"""Any memory layout gives the bits of the contiguous one; what surrounds a slice is never read."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops
from oracle import PROBLEMS

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def transposed(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def every_second(x):
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def channels_last(x):
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def shifted(x):
    pool = torch.full((x.numel() + 7,), float("nan"), dtype=x.dtype)
    return pool[3:-4].view(x.shape).copy_(x)


def sliced(x):
    frame = torch.full([extent + 3 for extent in x.shape], float("nan"), dtype=x.dtype)
    inner = frame[tuple(slice(1, extent + 1) for extent in x.shape)]
    return inner.copy_(x)


def flipped_axes(x):
    return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))


LAYOUTS = [transposed, every_second, channels_last, shifted, sliced, flipped_axes]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", ["grid", "volume"])
def test_equal_bits(backend, dtype, layout, name):
    backend.keep_to(dtype is torch.bfloat16 and name == "grid")
    problem, device = PROBLEMS[name], backend.device
    canvas, patches = problem.tensor(2, 3).to(dtype), problem.patches().to(dtype)
    weight, coefficient = problem.weight("windows"), torch.rand(len(problem.offsets))
    scale = torch.rand(2)

    def both(change):
        cut = ops.extract_patches(
            change(canvas).to(device),
            size=problem.patch,
            scale=change(scale[None, None])[0, 0].to(device),
            **problem.geometry,
        )
        merged = ops.scatter_average(
            change(patches).to(device),
            weight=change(weight[None])[0].to(device),
            coefficient=change(coefficient[None, None])[0, 0].to(device),
            size=problem.canvas,
            **problem.geometry,
        )
        return cut, merged

    for ours, expected in zip(both(layout), both(lambda x: x), strict=True):
        assert torch.equal(ours, expected) and bool(expected.isfinite().all())


def test_expanded_inputs(backend):
    problem, device = PROBLEMS["grid"], backend.device
    canvas = torch.randn(1, 1, *problem.canvas, device=device).expand(3, 2, -1, -1)
    assert torch.equal(
        ops.extract_patches(canvas, size=problem.patch, **problem.geometry),
        ops.extract_patches(canvas.contiguous(), size=problem.patch, **problem.geometry),
    )
    patches = torch.randn(1, 1, 1, *problem.patch, device=device).expand(2, 9, 3, -1, -1)
    one = torch.ones((), device=device)
    weight, coefficient = (one.expand(4), one.expand(5)), one.expand(9)
    arguments = {"size": problem.canvas, **problem.geometry}
    expanded = ops.scatter_average(patches, weight=weight, coefficient=coefficient, **arguments)
    dense = (torch.ones(4, device=device), torch.ones(5, device=device))
    assert torch.equal(expanded, ops.scatter_average(patches.contiguous(), weight=dense, **arguments))


def test_axes_of_one_element(backend):
    canvas = torch.randn(1, 1, 1, 5, 1, device=backend.device)
    patches = ops.extract_patches(canvas, offsets=[[0, 1, 0]], size=(1, 3, 1), wrap=(True, False, True))
    assert torch.equal(patches[:, 0], canvas[:, :, :, 1:4])
    ones = tuple(torch.ones(extent, device=backend.device) for extent in (1, 3, 1))
    merged = ops.scatter_average(
        patches, offsets=[[0, 1, 0]], size=(1, 5, 1), weight=ones, normalize=False, wrap=(True, False, True)
    )
    assert torch.equal(merged[:, :, :, 1:4], canvas[:, :, :, 1:4]) and not merged[:, :, :, ::4].any()


def test_offsets_of_any_strides(backend):
    canvas = torch.randn(1, 1, 6, 6, device=backend.device)
    columns = torch.tensor([[0, 2], [1, 3]])
    for offsets in (columns.t(), columns.flip(0).flip(0), columns.repeat(1, 2)[:, ::2]):
        expected = ops.extract_patches(canvas, offsets=offsets.tolist(), size=(2, 3))
        assert torch.equal(ops.extract_patches(canvas, offsets=offsets, size=(2, 3)), expected)
