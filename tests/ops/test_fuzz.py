# SPDX-License-Identifier: Apache-2.0
"""Random geometries, weights, layouts, dtypes against a float64 oracle; INTARSIA_FUZZ_CASES asks for more."""

from __future__ import annotations

import oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intarsia import ops
from oracle import FUZZ_CASES, Problem
from test_strides import LAYOUTS

pytestmark = pytest.mark.usefixtures("poisoned_empty")
FUZZ = settings(
    max_examples=max(300, FUZZ_CASES),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FEW = settings(max_examples=12, suppress_health_check=list(HealthCheck))
EXTENTS = {1: 40, 2: 9, 3: 5}


@st.composite
def problems(draw, most=1):
    ndim = draw(st.integers(1, 3))
    canvas, patch, wrap, axes = [], [], [], []
    for _ in range(ndim):
        length = draw(st.integers(1, max(2, EXTENTS[ndim] // most)))
        extent = draw(st.integers(1, length))
        cyclic = draw(st.booleans())
        canvas.append(length)
        patch.append(extent)
        wrap.append(cyclic)
        axes.append(st.integers(-2 * length, 2 * length) if cyclic else st.integers(0, length - extent))
    offsets = draw(st.lists(st.tuples(*axes), min_size=1, max_size=8 // most))
    return Problem(tuple(canvas), tuple(patch), [list(offset) for offset in offsets], tuple(wrap))


inputs = {
    "channels": st.integers(1, 9),
    "dtype": st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    "layout": st.sampled_from([lambda x: x, *LAYOUTS]),
    "seed": st.integers(0, 2**31),
}


def check_extract(problem, channels, dtype, layout, seed, close):
    torch.manual_seed(seed)
    canvas = layout(problem.tensor(2, channels).to(dtype))
    scale = torch.rand(2) if seed % 2 else None
    patches = ops.extract_patches(canvas, size=problem.patch, scale=scale, **problem.geometry)
    close(patches, oracle.extract(canvas, problem.offsets, problem.patch, scale), dtype)


def check_scatter(problem, channels, dtype, layout, seed, close):
    torch.manual_seed(seed)
    patches = layout(problem.patches(2, channels).to(dtype))
    weight = problem.weight(oracle.WEIGHTS[seed % 3])
    arguments = {"weight": weight, "size": problem.canvas, **problem.geometry}
    ones = torch.ones(1, *problem.patch)
    covered = bool((oracle.total(problem.offsets, ones, problem.canvas) > 0).all())
    if not covered:
        with pytest.raises(ops.CoverageError):
            ops.scatter_average(patches, **arguments)
    signed = torch.randn(len(problem.offsets))
    for normalize, coefficient in ((True, None), (True, signed.abs() + 0.1), (False, signed)):
        if normalize and not covered:
            continue
        merged = ops.scatter_average(patches, normalize=normalize, coefficient=coefficient, **arguments)
        exact = oracle.scatter(patches, problem.offsets, weight, problem.canvas, normalize, coefficient)
        close(merged / 8, exact / 8, dtype)


@FUZZ
@given(problem=problems(), **inputs)
def test_extract(assert_near, problem, channels, dtype, layout, seed):
    check_extract(problem, channels, dtype, layout, seed, assert_near)


@FUZZ
@given(problem=problems(), **inputs)
def test_scatter(assert_near, problem, channels, dtype, layout, seed):
    check_scatter(problem, channels, dtype, layout, seed, assert_near)


@pytest.mark.skipif(ops.backends()["triton"] != "available", reason=ops.backends()["triton"])
@FEW
@given(problem=problems(most=2), **inputs | {"channels": st.integers(1, 3)})
def test_triton(assert_near, problem, channels, dtype, layout, seed):
    with ops.use_backend("triton"):
        check_extract(problem, channels, dtype, layout, seed, assert_near)
        check_scatter(problem, channels, dtype, layout, seed, assert_near)
