# SPDX-License-Identifier: Apache-2.0
"""What every kernel must do, asked of a backend module directly, below the public functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from intarsia.ops import reference
from intarsia.ops._fusion import Fusion
from intarsia.ops._plan import Plan, get_plan
from torch import Tensor

KINDS = ("separable", "window", "windows")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-6, torch.float64: 1e-13}


@dataclass(frozen=True)
class Case:
    name: str
    canvas: tuple[int, ...]
    patch: tuple[int, ...]
    offsets: Sequence[Sequence[int]]
    wrap: tuple[bool, ...]

    @property
    def plan(self) -> Plan:
        offsets = torch.tensor(self.offsets, dtype=torch.int64).reshape(-1, len(self.canvas))
        return get_plan("test", offsets, self.canvas, self.patch, self.wrap)


def product(*axes: Sequence[int]) -> list[list[int]]:
    return [list(offset) for offset in itertools.product(*axes)]


CASES = (
    Case("chain", (40,), (16,), product([0, 8, 16, 24]), (False,)),
    Case("ragged chain", (23,), (7,), product([16, 0, 5, 11, 5]), (False,)),
    Case("loop", (19,), (6,), product([0, 4, 8, 13, 17]), (True,)),
    Case("whole loop", (8,), (8,), product([3, 0]), (True,)),
    Case("grid", (16, 24), (8, 16), product([0, 4, 8], [0, 8]), (False, False)),
    Case("ring", (9, 16), (4, 8), product([0, 3, 5], [0, 4, 8, 12]), (False, True)),
    Case("boxes", (11, 13), (5, 6), product([6, 0, 4], [7, 0, 4]) + [[3, 2], [2, 5]], (False, False)),
    Case("torus", (7, 9), (4, 5), product([0, 3, 6], [1, 4, 7]), (True, True)),
    Case("volume", (5, 6, 8), (3, 4, 4), product([0, 2], [0, 2], [0, 4]), (False, False, False)),
    Case("wrapped volume", (4, 5, 7), (3, 3, 4), product([0, 1], [0, 3], [0, 3, 5]), (False, True, True)),
)


@st.composite
def geometries(draw: st.DrawFn) -> Case:
    canvas, patch, wrap, axes = [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 14))
        extent = draw(st.integers(1, length))
        cyclic = draw(st.booleans())
        canvas.append(length)
        patch.append(extent)
        wrap.append(cyclic)
        axes.append(st.integers(-length, 2 * length) if cyclic else st.integers(0, length - extent))
    offsets = draw(st.lists(st.tuples(*axes), min_size=1, max_size=9))
    return Case("random", tuple(canvas), tuple(patch), [list(offset) for offset in offsets], tuple(wrap))


def sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def weights(kind: str, plan: Plan, dtype: torch.dtype) -> tuple[Tensor, ...]:
    if kind == "separable":
        return tuple(torch.rand(size, dtype=dtype) + 0.25 for size in plan.patch_size)
    regions = 1 if kind == "window" else plan.num_regions
    return (torch.rand(regions, *plan.patch_size, dtype=dtype) + 0.25,)


def framed(shape: Sequence[int], dtype: torch.dtype, shift: int = 0) -> tuple[Tensor, Callable[[], bool]]:
    """NaN-filled memory `shift` elements past an aligned address, and whether all around was left alone."""
    count = torch.Size(shape).numel()
    margin = 64 + shift
    whole = torch.full((count + 2 * margin,), float("nan"), dtype=dtype)
    inner = whole[margin : margin + count].view(*shape)
    return inner, lambda: bool(whole[:margin].isnan().all() and whole[margin + count :].isnan().all())


def moved(tensor: Tensor, shift: int) -> Tensor:
    """A copy whose address lies `shift` elements past an aligned one."""
    inner, _ = framed(tensor.shape, tensor.dtype, shift)
    return inner.copy_(tensor)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def check_extract(
    backend: Any,
    plan: Plan,
    source: torch.dtype,
    target: torch.dtype,
    *,
    channels: int,
    scaled: bool,
    shift: int = 0,
) -> None:
    canvas = moved(torch.randn(2, channels, *plan.canvas_size).to(source), shift)
    scale = torch.rand(2, dtype=sums(source)) + 0.5 if scaled else None
    shape = (2, plan.num_regions, channels, *plan.patch_size)
    out, untouched = framed(shape, target, shift)
    expected = torch.empty(shape, dtype=target)
    reference.extract_patches(expected, canvas, plan, scale)
    backend.extract_patches(out, canvas, plan, scale)
    # Triton's interpreter cuts bfloat16 off where all others round it.
    cut = target == torch.bfloat16 and (scaled or source != target) and "triton" in backend.__name__
    torch.testing.assert_close(out.double(), expected.double(), rtol=2**-7 if cut else 0, atol=0)
    assert untouched()


def check_scatter(
    backend: Any,
    plan: Plan,
    dtype: torch.dtype,
    *,
    kind: str,
    mode: str,
    target: torch.dtype | None = None,
    channels: int = 5,
    shift: int = 0,
) -> None:
    """`mode`: mean, sum, or signed (a sum with a coefficient per region)."""
    target = target or dtype
    patches = moved(torch.randn(2, plan.num_regions, channels, *plan.patch_size).to(dtype), shift)
    weight = tuple(moved(factor, shift) for factor in weights(kind, plan, sums(dtype)))
    coefficient = torch.randn(plan.num_regions, dtype=sums(dtype)) if mode == "signed" else None
    out, untouched = framed((2, channels, *plan.canvas_size), target, shift)
    backend.scatter_average(out, patches, plan, weight, mode == "mean", coefficient)

    exact = torch.empty(out.shape, dtype=torch.float64)
    wide = tuple(factor.double() for factor in weight)
    signed = None if coefficient is None else coefficient.double()
    reference.scatter_average(exact, patches.double(), plan, wide, mode == "mean", signed)
    close(out, exact, target if TOLERANCE[target] > TOLERANCE[sums(dtype)] else sums(dtype))
    assert untouched()


def check_fused(
    backend: Any,
    plan: Plan,
    dtype: torch.dtype,
    *,
    terms: int,
    kind: str = "separable",
    target: torch.dtype | None = None,
    channels: int = 5,
    shift: int = 0,
) -> None:
    """K guided answers and an update of the canvas, in one call; without noise where K is 1."""
    target, high = target or dtype, sums(dtype)
    answers = (2, terms, plan.num_regions, channels, *plan.patch_size)
    patches = moved(torch.randn(answers if terms > 1 else answers[:1] + answers[2:]).to(dtype), shift)
    weight = tuple(moved(factor, shift) for factor in weights(kind, plan, high))
    canvas = (2, channels, *plan.canvas_size)
    x, noise = (moved(torch.randn(canvas).to(target), shift) for _ in range(2))
    guidance = torch.rand(terms - 1, plan.num_regions, dtype=high) * 2 if terms > 1 else None
    noisy = noise if terms > 1 else None
    each = torch.rand(2, dtype=high)
    fusion = Fusion(guidance, x, noisy, 0.5, -0.75, 0.25, None, each)
    out, untouched = framed(canvas, target, shift)
    backend.scatter_average(out, patches, plan, weight, True, None, fusion)

    exact = torch.empty(out.shape, dtype=torch.float64)
    wide = tuple(factor.double() for factor in weight)
    halves = [None if part is None else part.double() for part in (guidance, x, noisy, each)]
    fusion = Fusion(halves[0], halves[1], halves[2], 0.5, -0.75, 0.25, None, halves[3])
    reference.scatter_average(exact, patches.double(), plan, wide, True, None, fusion)
    close(out, exact, target if TOLERANCE[target] > TOLERANCE[high] else high)
    assert untouched()


def check_copies(backend: Any, plan: Plan, dtype: torch.dtype, *, copies: int, shift: int = 0) -> None:
    canvas = moved(torch.randn(2, 3, *plan.canvas_size).to(dtype), shift)
    out, untouched = framed((2, copies, plan.num_regions, 3, *plan.patch_size), dtype, shift)
    once = torch.empty(2, plan.num_regions, 3, *plan.patch_size, dtype=dtype)
    backend.extract_patches(once, canvas, plan, None)
    backend.extract_patches(out, canvas, plan, None)
    assert all(torch.equal(copy, once) for copy in out.unbind(1))
    assert untouched()


def check_total(backend: Any, plan: Plan, dtype: torch.dtype, *, kind: str, signed: bool) -> None:
    weight = weights(kind, plan, dtype)
    coefficient = torch.randn(plan.num_regions, dtype=dtype) if signed else None
    out, untouched = framed(plan.canvas_size, dtype)
    backend.weight_total(out, plan, weight, coefficient)
    expected = torch.empty(plan.canvas_size, dtype=torch.float64)
    wide = None if coefficient is None else coefficient.double()
    reference.weight_total(expected, plan, tuple(factor.double() for factor in weight), wide)
    close(out, expected, dtype)
    assert untouched()


def check_gaussian(backend: Any, size: int, sigma_fraction: float) -> None:
    for dtype in (torch.float32, torch.float64):
        out, untouched = framed((size,), dtype)
        expected = torch.empty(size, dtype=dtype)
        reference.gaussian_weights(expected, sigma_fraction)
        backend.gaussian_weights(out, sigma_fraction)
        torch.testing.assert_close(out, expected, rtol=2e-7 if dtype == torch.float32 else 1e-14, atol=0)
        assert untouched()


def check_nan_containment(backend: Any, plan: Plan) -> None:
    """A NaN in one region reaches the elements that region covers and no other."""
    patches = torch.ones(1, plan.num_regions, 2, *plan.patch_size)
    patches[:, 1] = float("nan")
    touched = torch.zeros(1, 2, *plan.canvas_size)
    reference.scatter_average(
        touched, torch.isnan(patches).float(), plan, weights("window", plan, torch.float32), False, None
    )
    out = torch.zeros_like(touched)
    backend.scatter_average(out, patches, plan, weights("separable", plan, torch.float32), True, None)
    assert torch.equal(out.isnan(), touched > 0)


def check_bad_total(backend: Any, plan: Plan) -> None:
    """No wait for the device, so no exception: a weight that cannot be divided by gives NaN."""
    patches = torch.ones(1, plan.num_regions, 1, *plan.patch_size)
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        weight = (torch.full((1, *plan.patch_size), bad),)
        out = torch.zeros(1, 1, *plan.canvas_size)
        backend.scatter_average(out, patches, plan, weight, True, None)
        assert bool(out.isnan().all()), bad


def check_order(backend: Any, case: Case) -> None:
    """Equal bits, whatever order the regions are given in."""
    plan = case.plan
    turn = torch.randperm(plan.num_regions)
    while case.offsets != sorted(case.offsets) and torch.equal(turn, torch.arange(plan.num_regions)):
        turn = torch.randperm(plan.num_regions)
    other = Case(case.name, case.canvas, case.patch, [case.offsets[i] for i in turn.tolist()], case.wrap).plan
    patches = torch.randn(1, plan.num_regions, 3, *plan.patch_size)
    weight = weights("separable", plan, torch.float32)
    one, two = torch.empty(1, 3, *plan.canvas_size), torch.empty(1, 3, *plan.canvas_size)
    backend.scatter_average(one, patches, plan, weight, True, None)
    backend.scatter_average(two, patches[:, turn].contiguous(), other, weight, True, None)
    assert torch.equal(one, two)


@dataclass(frozen=True)
class BarePlan:
    """A plan by its tables alone, for geometries no one would enumerate."""

    canvas_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    wrap: tuple[bool, ...]
    num_regions: int
    offsets: Tensor
    edges: tuple[Tensor, ...]
    axis_cell: tuple[Tensor, ...]
    cell_start: Tensor
    cell_region: Tensor


def sparse_zeros(shape: Sequence[int], dtype: type) -> Tensor:
    """Zeros that take memory only where they are written; torch.zeros would write them all."""
    return torch.from_numpy(np.zeros(shape, dtype))


def check_far_scatter(backend: Any, regions: int, extent: int) -> None:
    """Read a patch whose elements lie past 2^31; the memory before it is never touched."""
    ends = torch.tensor([0, extent])
    plan = BarePlan(
        (extent,),
        (extent,),
        (False,),
        regions,
        sparse_zeros((regions, 1), np.int64),
        (ends,),
        (torch.zeros(extent, dtype=torch.int32),),
        torch.tensor([0, 2]),
        torch.tensor([0, regions - 1], dtype=torch.int32),
    )
    patches = sparse_zeros((1, regions, 1, extent), np.float16)
    patches[0, 0], patches[0, -1] = 1.0, torch.arange(extent)
    out = torch.empty(1, 1, extent)
    backend.scatter_average(out, patches, plan, (torch.ones(extent),), False, None)
    assert torch.equal(out[0, 0], torch.arange(extent) + 1.0)


def check_far_extract(backend: Any, length: int) -> None:
    """Cut patches around element 2^31 of a canvas that is empty elsewhere."""
    canvas = sparse_zeros((1, 1, length), np.float16)
    starts = [2**31 - 12, 2**31 - 1, 2**31, length - 8]
    for start in starts:
        canvas[0, 0, start : start + 8] = torch.arange(8) + start % 97
    plan = get_plan("test", torch.tensor(starts)[:, None], (length,), (8,), (False,))
    out = torch.empty(1, len(starts), 1, 8, dtype=torch.float16)
    backend.extract_patches(out, canvas, plan, None)
    assert torch.equal(out[0, :, 0], torch.stack([canvas[0, 0, start : start + 8] for start in starts]))


def ids(cases: Sequence[Case]) -> Iterator[str]:
    return (case.name for case in cases)
