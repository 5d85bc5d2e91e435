# SPDX-License-Identifier: Apache-2.0
"""Random geometries, weights, layouts, dtypes against a float64 oracle.

2,000 cases an operator, the same in every run, so a failure comes back by itself. INTARSIA_FUZZ_CASES=50000
draws that many new ones; what fails is kept in .hypothesis and tried first by the next such run.
"""

from __future__ import annotations

import math

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from intarsia import ops
from oracle import FUZZ, FUZZ_INTERPRETED, Problem
from test_strides import LAYOUTS

pytestmark = pytest.mark.usefixtures("poisoned_empty")
EXTENTS = {1: 64, 2: 14, 3: 6}
interpreted = pytest.mark.skipif(ops.backends()["triton"] != "available", reason=ops.backends()["triton"])


@st.composite
def problems(draw, most=1):
    """`most` divides the lengths and the number of regions."""
    ndim = draw(st.integers(1, 3))
    canvas, patch, wrap, axes = [], [], [], []
    for _ in range(ndim):
        length = draw(st.integers(1, max(2, EXTENTS[ndim] // most)))
        extent = draw(st.integers(1, min(length, 40)))
        cyclic = draw(st.booleans())
        canvas.append(length)
        patch.append(extent)
        wrap.append(cyclic)
        axes.append(st.integers(-2 * length, 2 * length) if cyclic else st.integers(0, length - extent))
    offsets = draw(st.lists(st.tuples(*axes), min_size=1, max_size=8 // most))
    return Problem(tuple(canvas), tuple(patch), [list(offset) for offset in offsets], tuple(wrap))


seeds = st.integers(0, 2**31)
inputs = {
    "channels": st.integers(1, 9),
    "dtype": st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    "layout": st.sampled_from([lambda x: x, *LAYOUTS]),
    "seed": seeds,
}
few = inputs | {"channels": st.integers(1, 2)}  # at most 1,000 elements
wide = st.sampled_from([torch.float32, torch.float64])
windows = {
    "lengths": st.lists(st.integers(1, 300), min_size=1, max_size=3),
    "sigma_fraction": st.floats(0.1, 4),
    "dtype": wide,
}


def check_extract(problem, channels, dtype, layout, seed, device, close):
    torch.manual_seed(seed)
    canvas = layout(problem.tensor(2, channels).to(dtype)).to(device)
    scale = torch.rand(2, device=device) if seed % 2 else None
    patches = ops.extract_patches(canvas, size=problem.patch, scale=scale, **problem.geometry)
    close(patches, oracle.extract(canvas, problem.offsets, problem.patch, scale), dtype)


def check_scatter(problem, channels, dtype, layout, seed, device, close):
    torch.manual_seed(seed)
    patches = layout(problem.patches(2, channels).to(dtype)).to(device)
    weight = on(device, problem.weight(oracle.WEIGHTS[seed % 3]))
    arguments = {"weight": weight, "size": problem.canvas, **problem.geometry}
    ones = torch.ones(1, *problem.patch)
    covered = bool((oracle.total(problem.offsets, ones, problem.canvas) > 0).all())
    if not covered:
        with pytest.raises(ops.CoverageError):
            ops.scatter_average(patches, **arguments)
    signed = torch.randn(len(problem.offsets), device=device)
    for normalize, coefficient in ((True, None), (True, signed.abs() + 0.1), (False, signed)):
        if normalize and not covered:
            continue
        merged = ops.scatter_average(patches, normalize=normalize, coefficient=coefficient, **arguments)
        exact = oracle.scatter(patches, problem.offsets, weight, problem.canvas, normalize, coefficient)
        close(merged / 8, exact / 8, dtype)


def check_total(problem, dtype, seed, device, close):
    torch.manual_seed(seed)
    weight = problem.weight(oracle.WEIGHTS[seed % 3])
    weight = tuple(f.to(dtype) for f in weight) if isinstance(weight, tuple) else weight.to(dtype)
    signed = torch.randn(len(problem.offsets), dtype=dtype) if seed % 2 else None
    there = None if signed is None else signed.to(device)
    total = ops.weight_total(
        weight=on(device, weight), size=problem.canvas, coefficient=there, **problem.geometry
    )
    assert total.dtype is dtype
    close(total / 8, oracle.total(problem.offsets, weight, problem.canvas, signed) / 8, dtype)


def check_gaussian(lengths, sigma_fraction, dtype, device, close):
    factors = ops.gaussian_weights(lengths, sigma_fraction=sigma_fraction, dtype=dtype, device=device)
    for length, factor in zip(lengths, factors, strict=True):
        assert factor.dtype is dtype and torch.equal(factor, factor.flip(0))
        assert math.isclose(float(factor.max()), float(factor[length // 2]))
        close(factor, oracle.gaussian(length, sigma_fraction), dtype)


def on(device, weight):
    return tuple(f.to(device) for f in weight) if isinstance(weight, tuple) else weight.to(device)


@FUZZ
@given(problem=problems(), **inputs)
def test_extract(assert_near, device, problem, channels, dtype, layout, seed):
    check_extract(problem, channels, dtype, layout, seed, device, assert_near)


@FUZZ
@given(problem=problems(), **inputs)
def test_scatter(assert_near, device, problem, channels, dtype, layout, seed):
    check_scatter(problem, channels, dtype, layout, seed, device, assert_near)


@FUZZ
@given(problem=problems(), dtype=wide, seed=seeds)
def test_total(assert_near, device, problem, dtype, seed):
    check_total(problem, dtype, seed, device, assert_near)


@FUZZ
@given(**windows)
def test_gaussian(assert_near, device, lengths, sigma_fraction, dtype):
    check_gaussian(lengths, sigma_fraction, dtype, device, assert_near)


HOST = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@interpreted
@FUZZ_INTERPRETED
@given(problem=problems(most=2), **few)
def test_extract_by_triton(assert_near, problem, channels, dtype, layout, seed):
    with ops.use_backend("triton"):
        check_extract(problem, channels, dtype, layout, seed, HOST, assert_near)


@interpreted
@FUZZ_INTERPRETED
@given(problem=problems(most=2), **few)
def test_scatter_by_triton(assert_near, problem, channels, dtype, layout, seed):
    with ops.use_backend("triton"):
        check_scatter(problem, channels, dtype, layout, seed, HOST, assert_near)


@interpreted
@FUZZ_INTERPRETED
@given(problem=problems(most=2), dtype=wide, seed=seeds)
def test_total_by_triton(assert_near, problem, dtype, seed):
    with ops.use_backend("triton"):
        check_total(problem, dtype, seed, HOST, assert_near)


@interpreted
@FUZZ_INTERPRETED
@given(**windows)
def test_gaussian_by_triton(assert_near, lengths, sigma_fraction, dtype):
    with ops.use_backend("triton"):
        check_gaussian(lengths, sigma_fraction, dtype, HOST, assert_near)
