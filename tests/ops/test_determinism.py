# SPDX-License-Identifier: Apache-2.0
"""The same bits for every thread count, run, Python thread and order of the regions."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from calls import CALLS, Call, equal
from intarsia import ops
from oracle import Problem, starts

LATENT = Problem((270, 300), (64, 64), starts([*range(0, 200, 32), 206], range(-32, 268, 25)), (False, True))


def problem(backend, dtype=torch.float32):
    some = Problem((20, 24), (8, 8), starts([0, 4, 8, 12], range(0, 24, 4)), (False, True))
    chosen = some if backend.slow else LATENT
    patches = chosen.patches(1, 4).to(backend.device, dtype)
    weight = tuple(factor.to(backend.device) for factor in chosen.weight("factors"))
    return chosen, patches, {"weight": weight, "size": chosen.canvas, "wrap": chosen.wrap}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_threads_do_not_change_a_bit(backend, threads, count):
    chosen, patches, arguments = problem(backend)
    threads(1)
    expected = ops.scatter_average(patches, offsets=chosen.offsets, **arguments)
    cut = ops.extract_patches(expected, size=chosen.patch, **chosen.geometry)
    threads(count)
    for _ in range(2 if backend.name != "cpu" else 30):
        merged = ops.scatter_average(patches, offsets=chosen.offsets, **arguments)
        assert torch.equal(merged, expected)
    assert torch.equal(ops.extract_patches(expected, size=chosen.patch, **chosen.geometry), cut)


def test_python_threads_do_not_change_a_bit(threads):
    threads(2)
    patches = LATENT.patches(1, 4)
    weight = LATENT.weight("factors")

    def merge(_):
        return ops.scatter_average(patches, weight=weight, size=LATENT.canvas, **LATENT.geometry)

    expected = merge(0)
    with ThreadPoolExecutor(16) as pool:
        assert all(torch.equal(merged, expected) for merged in pool.map(merge, range(48)))


def test_the_order_of_the_regions_does_not_change_a_bit(backend, dtype):
    backend.keep_to(dtype is torch.float32)
    chosen, patches, arguments = problem(backend, dtype)
    coefficient = torch.rand(len(chosen.offsets), device=backend.device)
    offsets = torch.tensor(chosen.offsets)
    assert len(offsets.remainder(torch.tensor(chosen.canvas)).unique(dim=0)) == len(offsets)
    expected = ops.scatter_average(patches, offsets=offsets, coefficient=coefficient, **arguments)
    for _ in range(2):
        turn = torch.randperm(len(offsets))
        there = turn.to(backend.device)
        merged = ops.scatter_average(
            patches[:, there], offsets=offsets[turn], coefficient=coefficient[there], **arguments
        )
        assert torch.equal(merged, expected)


@pytest.mark.xfail(strict=True, reason="shows that the test above can fail: sums in the order given differ")
def test_sums_in_the_order_given_would_differ():
    patches = LATENT.patches(1, 4)
    offsets, turn = torch.tensor(LATENT.offsets), torch.randperm(len(LATENT.offsets))

    def add(order):
        canvas = torch.zeros(1, 4, *LATENT.canvas)
        for region in order:
            row, column = offsets[region].tolist()
            rows = torch.arange(row, row + 64)
            columns = torch.arange(column, column + 64) % LATENT.canvas[1]
            canvas[:, :, rows[:, None], columns] += patches[:, region]
        return canvas

    assert torch.equal(add(range(len(offsets))), add(turn.tolist()))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_hundred_repeats_on_the_processor(threads, call: Call, count: int):
    inputs = call.inputs(busy=True)
    threads(1)
    expected = call(inputs)
    threads(count)
    assert all(equal(call(inputs), expected) for _ in range(100))


@pytest.mark.cuda
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_thousand_repeats_on_a_gpu(gpu_backend, call: Call):
    for dtype in call.dtypes:
        inputs = call.inputs(dtype, gpu_backend.device, busy=True)
        expected = call(inputs)
        differ = torch.zeros((), dtype=torch.int64, device=gpu_backend.device)
        for _ in range(1000):
            # Counted on the device: waiting for each call would leave no two of them in flight.
            for ours, right in zip(call(inputs), expected, strict=True):
                differ += (ours != right).sum()
        assert int(differ) == 0, dtype


must_differ = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="shows that the repeats can fail: sums by atomics differ"
)
ATOMIC = """
extern "C" void merge(float* canvas, const float* patches, long regions, long patch, long step) {
#pragma omp parallel for num_threads(2) schedule(static, 1)
  for (long r = 0; r < regions; ++r)
    for (long j = 0; j < patch; ++j) {
#pragma omp atomic
      canvas[r * step + j] += patches[r * patch + j];
    }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="shows that the repeats can fail: atomics differ"
)
def test_atomic_sums_would_differ_on_the_processor(tmp_path):
    built = tmp_path / "atomic.so"
    command = ["g++", "-O1", "-fopenmp", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(built)]
    if subprocess.run(command, input=ATOMIC, text=True, capture_output=True, timeout=60).returncode:
        pytest.skip("no OpenMP")
    kernel, (regions, patch, step) = ctypes.CDLL(str(built)).merge, (256, 4096, 64)
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_long]
    patches = torch.randn(regions, patch)

    def add():
        canvas = torch.zeros((regions - 1) * step + patch)
        kernel(canvas.data_ptr(), patches.data_ptr(), regions, patch, step)
        return canvas

    expected = add()
    assert all(torch.equal(add(), expected) for _ in range(100))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="shows that the repeats can fail: atomics differ"
)
def test_atomic_sums_would_differ_on_a_gpu():
    values, places = torch.randn(1 << 20, device="cuda"), torch.randint(64, (1 << 20,), device="cuda")

    def add():
        return torch.zeros(64, device="cuda").index_add_(0, places, values)

    expected = add()
    assert all(torch.equal(add(), expected) for _ in range(100))
