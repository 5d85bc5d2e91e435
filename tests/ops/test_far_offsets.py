# SPDX-License-Identifier: Apache-2.0
"""Element offsets past 2^31 and 2^32, in memory that is not there until it is touched."""

from __future__ import annotations

import resource

import pytest
import torch
from intarsia import ops

compiled = pytest.mark.skipif(ops.backends()["cpu"] != "available", reason="not compiled")
FAR = (2**31 - 1, 2**31, 2**31 + 1, 2**32 + 7)


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@compiled
def test_extract_reads_far_elements():
    before = megabytes()
    canvas = torch.empty(1, 1, 2**32 + 64, dtype=torch.float16)
    for start in FAR:
        canvas[0, 0, start - 4 : start + 12] = torch.arange(16.0)
    offsets = [[start + shift] for start in FAR for shift in (-4, 0)]
    patches = ops.extract_patches(canvas, offsets=offsets, size=(8,))
    for region, (start,) in enumerate(offsets):
        assert torch.equal(patches[0, region, 0], canvas[0, 0, start : start + 8]), start
    wrapped = ops.extract_patches(canvas, offsets=[[-52], [2**33 + 128 - 57 + 1]], size=(4,), wrap=(True,))
    assert wrapped[0, 0, 0].tolist() == [9.0, 10.0, 11.0, 12.0]
    assert megabytes() - before < 200


@compiled
def test_extract_reads_far_channels_and_rows():
    canvas = torch.empty(1, 3, 2**16, 2**15 + 1, dtype=torch.float16)
    canvas[0, 2, -3:, -3:] = torch.arange(9.0).view(3, 3)
    canvas[0, 1, :3, :3] = 7.0
    patches = ops.extract_patches(canvas, offsets=[[2**16 - 3, 2**15 - 2], [0, 0]], size=(3, 3))
    assert patches[0, 0, 2].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    assert bool((patches[0, 1, 1] == 7.0).all())


@compiled
def test_scatter_reads_far_patches():
    before = megabytes()
    regions, length = 2**18 + 2, 2**13
    patches = torch.empty(1, regions, 1, length, dtype=torch.float16)
    patches[0, 0], patches[0, -2], patches[0, -1] = 1.0, 2.0, torch.arange(length) % 64
    offsets = torch.zeros(regions, 1, dtype=torch.int64)
    weight = (torch.ones(length),)
    merged = ops.scatter_average(patches, offsets=offsets, size=(length,), weight=weight, normalize=False)
    assert torch.equal(merged[0, 0].float(), torch.arange(length) % 64 + 3.0)
    assert megabytes() - before < 200


@pytest.mark.cuda
def test_a_gpu_reads_and_writes_far_elements(gpu_backend):
    if torch.cuda.get_device_properties(gpu_backend.device).total_memory < 24 << 30:
        pytest.skip("needs 24 GiB")
    size, patch = (2**16, 2**15 + 1), (16, 64)
    canvas = torch.zeros(1, 1, *size, dtype=torch.bfloat16, device=gpu_backend.device)
    canvas[0, 0, -16:, -64:] = torch.randn(patch)
    offsets = [[0, 0], [size[0] - 16, size[1] - 64]]
    patches = ops.extract_patches(canvas, offsets=offsets, size=patch)
    assert torch.equal(patches[0, 1, 0], canvas[0, 0, -16:, -64:]) and not patches[0, 0].any()
    weight = tuple(torch.ones(extent, device=gpu_backend.device) for extent in patch)
    merged = ops.scatter_average(patches, offsets=offsets, size=size, weight=weight, normalize=False)
    assert torch.equal(merged, canvas)
