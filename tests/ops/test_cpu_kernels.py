# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU kernels below the public functions: instruction sets, guarded memory, what they report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from intarsia import ops
from torch import Tensor

_C = pytest.importorskip("intarsia._C", reason="the compiled module is not built")
ISAS = ("avx512", "avx2", "baseline")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
GUARD = 64


@pytest.fixture
def simd() -> Iterator[Any]:
    chosen = _C.build_info()["simd"]
    yield _C.cpu.use_simd
    _C.cpu.use_simd(chosen)


def guarded(shape: tuple[int, ...], dtype: torch.dtype, shift: int = 0) -> tuple[Tensor, Tensor]:
    """A NaN-filled tensor inside a larger one whose rest must stay 7."""
    n = torch.Size(shape).numel()
    memory = torch.full((n + 2 * GUARD,), 7.0, dtype=dtype)
    inner = memory[GUARD + shift : GUARD + shift + n].view(shape)
    inner.fill_(float("nan"))
    return memory, inner


def untouched(memory: Tensor, inner: Tensor) -> bool:
    start = inner.storage_offset()
    return bool((memory[:start] == 7).all() and (memory[start + inner.numel() :] == 7).all())


def problem(canvas: tuple[int, ...], patch: tuple[int, ...], offsets: list[list[int]], wrap: bool) -> Any:
    return _C.cpu.build_plan(torch.tensor(offsets), canvas, patch, [wrap] * len(canvas))


GEOMETRIES = [
    ((1300,), (411,), [[0], [889], [300], [555], [17]], False),
    ((90,), (37,), [[80], [20], [53], [0]], True),
    ((40, 90), (17, 64), [[0, 0], [23, 26], [10, 11], [0, 26], [23, 0]], False),
    ((33, 70), (33, 50), [[5, 60], [0, 20], [7, 0]], True),
    ((5, 9, 21), (3, 9, 16), [[4, 0, 9], [1, 0, 0], [2, 3, 20]], True),
    # Runs of 64 and more under one set of regions have their sums in registers, up to 16 regions deep.
    ((19, 300), (12, 128), [[y, x] for y in (0, 7) for x in (0, 86, 172)], False),
    ((6, 200), (4, 130), [[k % 3, 4 * k] for k in range(18)], True),
    ((220,), (180,), [[2 * k] for k in range(20)] + [[40]], False),
    ((9, 300), (6, 170), [[y, x] for y in (0, 3) for x in (0, 65, 130)], False),
    ((9, 300), (6, 200), [[y, x] for y in (0, 5) for x in (230, 60, 190)], True),
    ((3, 5, 260), (2, 3, 130), [[z, y, x] for z in (0, 1) for y in (0, 2) for x in (0, 65, 130)], False),
    ((4100,), (2050,), [[k * 1025] for k in (2, 0, 3, 1)], True),
    ((100,), (100,), [[0]] * 16, False),
    ((100,), (100,), [[0]] * 17, False),
    ((300,), (80,), [[220], [0], [0]], False),  # between them 140 columns of nothing
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "x".join(map(str, g[0])))
def test_every_instruction_set_gives_the_same_bits(geometry: Any, dtype: torch.dtype, simd: Any) -> None:
    canvas_size, patch_size, offsets, wrap = geometry
    plan, R = problem(*geometry), len(offsets)
    generator = torch.Generator().manual_seed(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    canvas = torch.randn(2, 3, *canvas_size, generator=generator).to(dtype)
    patches = torch.randn(2, R, 3, *patch_size, generator=generator).to(dtype)
    scale = torch.tensor([0.3, 1.7], dtype=wide)
    factors = tuple(torch.rand(n, generator=generator).to(wide) + 0.01 for n in patch_size)
    window = (torch.rand(R, *patch_size, generator=generator).to(wide) - 0.5,)
    coefficient = torch.randn(R, generator=generator).to(wide)
    first: dict[Any, Tensor] = {}
    ran = 0
    for isa in ISAS:
        if not simd(isa):
            continue
        ran += 1
        for out_dtype in DTYPES:
            for shift, threads in ((0, 1), (3, 2)):
                memory, out = guarded(patches.shape, out_dtype, shift)
                _C.cpu.extract_patches(out, canvas, plan, scale, threads)
                assert untouched(memory, out)
                assert torch.equal(out, first.setdefault((out_dtype, "extract"), out.clone()))
                for name, weight in (("factors", factors), ("window", window)):
                    memory, merged = guarded(canvas.shape, out_dtype, shift)
                    _C.cpu.scatter_average(merged, patches, plan, weight, False, coefficient, threads)
                    assert untouched(memory, merged)
                    assert not merged.isnan().any()
                    assert torch.equal(merged, first.setdefault((out_dtype, name), merged.clone()))
    assert ran >= 1


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "x".join(map(str, g[0])))
def test_values_are_those_of_the_reference(geometry: Any, normalize: bool) -> None:
    canvas_size, patch_size, offsets, wrap = geometry
    patches = torch.randn(2, len(offsets), 3, *patch_size, dtype=torch.float64)
    window = torch.rand(len(offsets), *patch_size, dtype=torch.float64) + 0.1
    arguments = {"offsets": offsets, "size": canvas_size, "wrap": [wrap] * len(canvas_size)}
    for weight in (window, tuple(torch.rand(n, dtype=torch.float64) + 0.1 for n in patch_size)):
        try:
            with ops.use_backend("reference"):
                expected = ops.scatter_average(patches, weight=weight, normalize=normalize, **arguments)
        except ops.CoverageError:
            pytest.skip("not all of this canvas is covered")
        for dtype, out_dtype, error in (
            (torch.float64, torch.float64, 1e-13),
            (torch.float32, torch.float32, 1e-6),
            (torch.float32, torch.bfloat16, 8e-3),
            (torch.bfloat16, torch.float32, 8e-3),
        ):
            with ops.use_backend("cpu"):
                merged = ops.scatter_average(
                    patches.to(dtype), weight=weight, normalize=normalize, dtype=out_dtype, **arguments
                )
            gap = (merged.double() - expected).abs() / (1 + expected.abs())
            assert gap.max() < error * (1 if normalize else len(offsets))


def in_sequence(
    patches: Tensor, geometry: Any, weight: tuple[Tensor, ...], normalize: bool, coefficient: Tensor
) -> Tensor:
    """The promised sums, one region after the other, each product and each sum rounded by itself."""
    canvas_size, patch_size, offsets, _ = geometry
    n, wide = len(canvas_size), weight[0].dtype
    merged = torch.zeros(*patches.shape[:1], patches.shape[2], *canvas_size, dtype=wide)
    total, count, only = torch.zeros(canvas_size, dtype=wide), torch.zeros(canvas_size), merged.clone()
    for r in sorted(range(len(offsets)), key=lambda r: offsets[r]):
        if len(weight) == n and weight[0].dim() == 1:
            w = coefficient[r]
            for axis, factor in enumerate(weight):
                w = w.unsqueeze(-1) * factor.view(*[1] * axis, -1)
        else:
            w = coefficient[r] * weight[0][r if len(weight[0]) > 1 else 0]
        axes = zip(offsets[r], patch_size, canvas_size, strict=True)
        places = [(at + torch.arange(size)) % whole for at, size, whole in axes]
        here = tuple(p.view(-1, *[1] * (n - 1 - axis)) for axis, p in enumerate(places))
        total[here] += w
        count[here] += 1
        merged[(slice(None), slice(None), *here)] += w * patches[:, r].to(wide)
        only[(slice(None), slice(None), *here)] += patches[:, r].to(wide)
    if not normalize:
        return merged
    copied = torch.zeros(canvas_size, dtype=torch.bool)
    for start in range(canvas_size[-1] - 255):  # the long runs under one region
        run = slice(start, start + 256)
        copied[..., run] |= (count[..., run] == 1).all(-1, keepdim=True)
    return torch.where(copied, only, merged * (1 / total))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "x".join(map(str, g[0])))
def test_sums_are_those_of_the_plans_order_bit_for_bit(geometry: Any, normalize: bool) -> None:
    canvas_size, patch_size, offsets, _ = geometry
    plan, R = problem(*geometry), len(offsets)
    if normalize and plan.uncovered[0]:
        pytest.skip("not all of this canvas is covered")
    generator = torch.Generator().manual_seed(2)
    coefficient = torch.rand(R, generator=generator) + 0.1
    weights = [tuple(torch.rand(n, generator=generator) + 0.1 for n in patch_size)]
    weights += [(torch.rand(k, *patch_size, generator=generator) + 0.1,) for k in (1, R)]
    for dtype in (torch.float32, torch.bfloat16):
        patches = torch.randn(2, R, 3, *patch_size, generator=generator).to(dtype)
        for weight in weights:
            expected = in_sequence(patches, geometry, weight, normalize, coefficient)
            for out_dtype, shift in ((torch.float32, 0), (torch.float32, 1), (torch.bfloat16, 3)):
                memory, merged = guarded((2, 3, *canvas_size), out_dtype, shift)
                _C.cpu.scatter_average(merged, patches, plan, weight, normalize, coefficient, 1)
                assert untouched(memory, merged)
                assert torch.equal(merged, expected.to(out_dtype))


@pytest.mark.parametrize("wrap", [True, False])
def test_a_long_chain_costs_its_length(wrap: bool) -> None:
    R, half = 20_000, 64
    plan = problem((R * half + (0 if wrap else half),), (2 * half,), [[k * half] for k in range(R)], wrap)
    window, patches = torch.rand(2 * half) + 0.1, torch.randn(1, R, 1, 2 * half)
    merged = torch.empty(1, 1, R * half + (0 if wrap else half))
    assert plan.uncovered == (0, None)  # builds the plan's lists
    started = time.thread_time()
    _C.cpu.scatter_average(merged, patches, plan, (window,), False, None, 1)
    took = time.thread_time() - started
    terms = (window * patches).view(R, 2, half)
    expected = torch.zeros(len(merged.view(-1, half)), half)
    expected[1:] += terms[: len(expected) - 1, 1]
    expected[:R] += terms[:, 0]
    if wrap:
        expected[0] += terms[-1, 1]
    assert torch.equal(merged.view(-1, half), expected)
    assert took < 0.3  # looking through all regions for every band takes a second


@pytest.mark.parametrize("columns", [9, 100])
def test_a_weight_that_overflows_stays_in_its_region(columns: int, simd: Any) -> None:
    """One more region shortens the runs, so that sums are kept in memory."""
    starts = [k * columns for k in range(4)] + [columns // 2]
    plan = problem((2, 4 * columns), (2, columns), [[0, x] for x in starts], False)
    coefficient = torch.tensor([1.0, 3e38, 1.0, 1.0, 1.0])
    weight, patches = (torch.full((2,), 10.0), torch.ones(columns)), torch.ones(1, 5, 1, 2, columns)
    for isa in filter(simd, ISAS):
        out, total = torch.empty(1, 1, 2, 4 * columns), torch.empty(2, 4 * columns)
        _C.cpu.scatter_average(out, patches, plan, weight, False, coefficient, 1)
        _C.cpu.weight_total(total, plan, weight, coefficient, 1)
        for sums in (out[0, 0], total):
            assert sums[:, columns : 2 * columns].isinf().all(), isa
            assert sums[:, :columns].isfinite().all() and sums[:, 2 * columns :].isfinite().all(), isa


def test_channels_beyond_a_group_are_all_copied() -> None:
    plan = problem((11,), (5,), [[6], [0], [3]], False)
    for channels in (0, 1024, 1025, 2500):
        canvas = torch.randn(2, channels, 11)
        for threads in (1, 2):
            memory, out = guarded((2, 3, channels, 5), torch.float32)
            _C.cpu.extract_patches(out, canvas, plan, None, threads)
            assert untouched(memory, out)
            assert torch.equal(out, torch.stack([canvas[..., at : at + 5] for at in (6, 0, 3)], 1))


def test_unknown_instruction_set_is_refused(simd: Any) -> None:
    chosen = _C.build_info()["simd"]
    assert not simd("sse9")
    assert _C.build_info()["simd"] == chosen


def test_single_cover_is_copied_exactly_under_normalize() -> None:
    plan = problem((2048,), (1024,), [[0], [1024]], False)
    patches = torch.randn(1, 2, 3, 1024)
    out = torch.empty(1, 3, 2048)
    _C.cpu.scatter_average(out, patches, plan, (torch.rand(1024) + 0.1,), True, None, 1)
    assert torch.equal(out, patches[0].transpose(0, 1).reshape(1, 3, 2048))
    total = torch.empty(2048)
    _C.cpu.weight_total(total, plan, (torch.full((1024,), 0.5),), None, 1)
    assert torch.equal(total, torch.full((2048,), 0.5))


def test_lists_of_a_plan_are_built_when_read() -> None:
    plan = problem((6,), (4,), [[2], [0]], False)
    as_list = lambda buffer, dtype: torch.frombuffer(buffer, dtype=dtype).tolist()  # noqa: E731
    assert as_list(plan.order, torch.int64) == [1, 0]
    assert as_list(plan.edges[0], torch.int64) == [0, 2, 4, 6]
    assert as_list(plan.axis_cell[0], torch.int32) == [0, 0, 1, 1, 2, 2]
    assert as_list(plan.cell_start, torch.int64) == [0, 1, 3, 4]
    assert as_list(plan.cell_region, torch.int32) == [1, 1, 0, 0]
    assert plan.uncovered == (0, None)
    assert problem((4, 9), (2, 3), [[0, 0], [2, 6]], False).uncovered == (24, (0, 3))


@pytest.mark.parametrize(
    ("weight", "coefficient", "normalize", "words"),
    [
        ((torch.tensor([1.0, float("nan"), 1.0]),), None, False, "weight must be finite.*element 1"),
        ((torch.tensor([[1.0, float("inf"), 1.0]]),), None, False, "weight must be finite.*element 1"),
        (
            (torch.tensor([[1.0, float("nan"), 1.0]]),),
            None,
            True,
            r"weight must have a positive, finite total.*\(1,\)",
        ),
        ((torch.tensor([1.0, 0.0, 1.0]),), None, True, r"weight must have a positive, finite total.*\(1,\)"),
        ((torch.ones(3),), [1.0, -1.0], True, "coefficient must not be negative.*region 1"),
        ((torch.ones(3),), [float("inf"), 1.0], False, "coefficient must be finite.*region 0"),
        ((torch.ones(2),), None, True, r"weight must be one window.*got \(2,\)"),
        ((torch.ones(3, dtype=torch.float64),), None, True, "weight must be float32, got torch.float64"),
        ((torch.ones(3),), [1.0], True, r"coefficient must be \[R\] with R = 2, got \(1,\)"),
    ],
)
def test_faults_are_named(weight: Any, coefficient: Any, normalize: bool, words: str) -> None:
    plan = problem((6,), (3,), [[0], [3]], False)
    given = None if coefficient is None else torch.tensor(coefficient)
    with pytest.raises(ValueError, match=f"scatter_average: {words}"):
        _C.cpu.scatter_average(
            torch.empty(1, 1, 6), torch.ones(1, 2, 1, 3), plan, weight, normalize, given, 1
        )


def test_bindings_refuse_what_the_kernels_cannot_read() -> None:
    plan = problem((6,), (3,), [[0], [3]], False)
    canvas, out = torch.ones(1, 2, 6), torch.empty(1, 2, 2, 3)
    for arguments, words in [
        ((out, torch.ones(1, 6, 2).transpose(1, 2), plan, None, 1), "canvas must be contiguous"),
        ((out, canvas.int(), plan, None, 1), "canvas must be float16"),
        ((out[:, :1], canvas, plan, None, 1), r"patches must be \[B, R, C"),
        ((out, canvas[..., :5].contiguous(), plan, None, 1), "canvas must be"),
        ((out, canvas, plan, torch.ones(2), 1), r"scale must be float32 \[B\]"),
        ((out, [1.0], plan, None, 1), "canvas must be a tensor, got list"),
        ((out, canvas.to("meta"), plan, None, 1), "canvas must be on the CPU, got meta"),
    ]:
        with pytest.raises(ValueError, match=words):
            _C.cpu.extract_patches(*arguments)
    with pytest.raises(ValueError, match="region 1 spans 4 to 7 on axis 0 of 6"):
        problem((6,), (3,), [[0], [4]], False)
