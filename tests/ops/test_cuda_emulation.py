# SPDX-License-Identifier: Apache-2.0
"""The sources of the CUDA kernels, compiled by the host compiler and run one thread after the other.

This shows indexing, coverage, seams, alignment, bounds, arithmetic and its order. Only a GPU can show that
the device compiler agrees, and how fast it is.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_uint, c_void_p
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia.ops._fusion import Fusion
from kernel_cases import (
    CASES,
    DTYPES,
    KINDS,
    Case,
    check_bad_total,
    check_copies,
    check_extract,
    check_far_extract,
    check_far_scatter,
    check_fused,
    check_gaussian,
    check_nan_containment,
    check_order,
    check_scatter,
    check_total,
    geometries,
    ids,
    product,
    weights,
)
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++")
CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")


def right_aligned(values: Sequence[object], fill: object) -> list[object]:
    return [fill] * (3 - len(values)) + list(values)


class Emulation:
    """A backend module over the emulated kernels; every launch may read only the tensors it was given."""

    __name__ = "emulation"

    def __init__(self, library: ctypes.CDLL, most_blocks: int = 2**32 - 1) -> None:
        self.library = library
        self.most_blocks = most_blocks

    def limited(self, most_blocks: int) -> Emulation:
        return Emulation(self.library, most_blocks)

    def start(self, tensors: Sequence[Tensor | None]) -> None:
        spans = [(t.data_ptr(), t.numel() * t.element_size()) for t in tensors if t is not None and t.numel()]
        begins = (c_int64 * len(spans))(*(begin for begin, _ in spans))
        sizes = (c_int64 * len(spans))(*(size for _, size in spans))
        self.library.start(begins, sizes, len(spans), self.most_blocks)

    def finish(self, complaint: bytes | None, *, launched: bool = True) -> None:
        if complaint is not None:
            raise RuntimeError(complaint.decode())
        assert self.library.launches() == launched, "one launch per call, none without work"
        if launched:
            assert self.library.device_seen() == 1, "launched on the device of the output"
        assert self.library.device_after() == 0, "the caller's device is current again"

    @staticmethod
    def tables(plan) -> list[Tensor]:
        return [plan.offsets, *plan.edges, *plan.axis_cell, plan.cell_start, plan.cell_region]

    @staticmethod
    def words(plan, *, covering: bool = True) -> object:
        """A plan as the driver takes it; extraction needs no covering lists, and builds none."""
        edges, axis_cell = (plan.edges, plan.axis_cell) if covering else ([], [])
        axes = zip(
            right_aligned(plan.canvas_size, 1),
            right_aligned(plan.patch_size, 1),
            right_aligned(plan.wrap, False),
            right_aligned([edge.numel() - 1 for edge in edges], 1),
            *(right_aligned([table.data_ptr() for table in tables], 0) for tables in (edges, axis_cell)),
            strict=True,
        )
        flat = [len(plan.canvas_size), plan.num_regions, *(int(word) for axis in axes for word in axis)]
        lists = (plan.cell_start, plan.cell_region) if covering else ()
        flat += [plan.offsets.data_ptr(), *(table.data_ptr() for table in lists), 0, 0][:3]
        return (c_int64 * len(flat))(*flat)

    @staticmethod
    def weight(weight: Sequence[Tensor], coefficient: Tensor | None) -> list[object]:
        full = weight[0].dim() > 1
        pointers = [t.data_ptr() for t in weight]
        factors = (c_void_p * 3)(*(pointers + [None, None] if full else right_aligned(pointers, None)))
        pointer = None if coefficient is None else coefficient.data_ptr()
        return [factors, CODES[weight[0].dtype], weight[0].shape[0] if full else 0, pointer]

    def extract_patches(self, out: Tensor, canvas: Tensor, plan, scale: Tensor | None) -> None:
        self.start([out, canvas, scale, plan.offsets])
        complaint = self.library.extract(
            out.data_ptr(),
            CODES[out.dtype],
            canvas.data_ptr(),
            CODES[canvas.dtype],
            *canvas.shape[:2],
            self.words(plan, covering=False),
            None if scale is None else scale.data_ptr(),
            out.shape[1] if out.dim() == canvas.dim() + 2 else 1,
        )
        self.finish(complaint, launched=out.numel() > 0)

    def scatter_average(self, out, patches, plan, weight, normalize, coefficient, fusion=None) -> None:
        fusion = fusion or Fusion()
        self.start([out, patches, *weight, coefficient, *fusion.tensors(), *self.tables(plan)])
        complaint = self.library.scatter(
            out.data_ptr(),
            CODES[out.dtype],
            patches.data_ptr(),
            CODES[patches.dtype],
            *out.shape[:2],
            self.words(plan),
            *self.weight(weight, coefficient),
            normalize,
            1 if fusion.guidance is None else patches.shape[1],
            (c_void_p * 5)(*(None if t is None else t.data_ptr() for t in fusion.tensors())),
            (c_double * 3)(fusion.a, fusion.b, fusion.c),
        )
        self.finish(complaint, launched=out.numel() > 0)

    def weight_total(self, out, plan, weight, coefficient) -> None:
        self.start([out, *weight, coefficient, *self.tables(plan)])
        weight_words = self.weight(weight, coefficient)
        self.finish(self.library.total(out.data_ptr(), CODES[out.dtype], self.words(plan), *weight_words))

    def gaussian_weights(self, out: Tensor, sigma_fraction: float) -> None:
        self.start([out])
        complaint = self.library.gaussian(out.data_ptr(), CODES[out.dtype], out.numel(), sigma_fraction)
        self.finish(complaint, launched=out.numel() > 0)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    path = tmp_path_factory.mktemp("emulation") / "kernels.so"
    shim = ROOT / "tests" / "ops" / "cuda_emulation"
    folders = [f"-I{folder}" for folder in (shim, ROOT / "csrc", ROOT / "kernels", ROOT / "kernels" / "cuda")]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
    subprocess.run([COMPILER, *flags, *folders, str(shim / "driver.cpp"), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    buffer, words = c_void_p, POINTER(c_int64)
    weight = [POINTER(c_void_p), c_int, c_int64, c_void_p]
    library.start.argtypes = [words, words, c_int, c_uint]
    library.extract.argtypes = [buffer, c_int, buffer, c_int, c_int64, c_int64, words, buffer, c_int64]
    head = [buffer, c_int, buffer, c_int, c_int64, c_int64, words]
    fusion = [c_int64, POINTER(c_void_p), POINTER(c_double)]
    library.scatter.argtypes = [*head, *weight, c_int, *fusion]
    library.total.argtypes = [buffer, c_int, words, *weight]
    library.gaussian.argtypes = [buffer, c_int, c_int64, c_double]
    for function in (library.extract, library.scatter, library.total, library.gaussian):
        function.restype = c_char_p
    return Emulation(library)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_extract(backend: Emulation, case: Case, shift: int) -> None:
    for source in DTYPES:
        for target in DTYPES:
            check_extract(
                backend, case.plan, source, target, channels=3, scaled=source != target, shift=shift
            )


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_scatter(backend: Emulation, case: Case, dtype: torch.dtype, shift: int) -> None:
    for kind in ("separable", "window", "windows"):
        for mode in ("mean", "sum", "signed"):
            check_scatter(backend, case.plan, dtype, kind=kind, mode=mode, shift=shift)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_fused(backend: Emulation, case: Case, shift: int) -> None:
    for dtype in DTYPES:
        for terms, target in ((1, dtype), (2, dtype), (3, torch.float32)):
            check_fused(backend, case.plan, dtype, terms=terms, target=target, shift=shift)
        check_copies(backend, case.plan, dtype, copies=2, shift=shift)
    check_fused(backend, case.plan, torch.float32, terms=2, kind="windows", channels=1)


@pytest.mark.parametrize("target", DTYPES, ids=str)
def test_scatter_casts(backend: Emulation, target: torch.dtype) -> None:
    for dtype in DTYPES:
        check_scatter(backend, CASES[5].plan, dtype, kind="separable", mode="mean", target=target)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_weight_total(backend: Emulation, case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        for kind in ("separable", "window", "windows"):
            check_total(backend, case.plan, dtype, kind=kind, signed=kind != "window")


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_gaussian(backend: Emulation, size: int) -> None:
    check_gaussian(backend, size, 0.1)


def test_a_small_grid_strides_over_all_items(backend: Emulation) -> None:
    two = backend.limited(2)
    case = Case("wide", (30, 50), (20, 25), product([0, 10], [0, 11, 25]), (False, False))
    check_extract(two, case.plan, torch.float32, torch.float16, channels=3, scaled=True)
    check_scatter(two, case.plan, torch.float32, kind="separable", mode="mean")
    check_total(two, case.plan, torch.float32, kind="windows", signed=False)
    check_gaussian(two, 1000, 0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_large_work_keeps_channels_in_one_thread(backend: Emulation, dtype: torch.dtype) -> None:
    case = Case("large", (640, 701), (400, 424), product([0, 240], [0, 136, 277]), (False, False))
    check_scatter(backend, case.plan, dtype, kind="separable", mode="mean", channels=5)
    check_extract(backend, case.plan, dtype, dtype, channels=5, scaled=False)


def test_nan_stays_where_it_is(backend: Emulation) -> None:
    check_nan_containment(backend, CASES[4].plan)
    check_nan_containment(backend, CASES[6].plan)


def test_bad_total_is_nan(backend: Emulation) -> None:
    check_bad_total(backend, CASES[6].plan)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_order_of_regions_is_irrelevant(backend: Emulation, case: Case) -> None:
    if len({tuple(offset) for offset in case.offsets}) == len(case.offsets):
        check_order(backend, case)


def test_offsets_past_two_billion(backend: Emulation) -> None:
    check_far_scatter(backend, 2**25 + 2, 64)
    check_far_extract(backend, 2**31 + 4099)


def test_empty_work_is_not_launched(backend: Emulation) -> None:
    plan = CASES[0].plan
    for batch, channels in ((0, 3), (2, 0)):
        backend.extract_patches(
            torch.empty(batch, 4, channels, 16), torch.empty(batch, channels, 40), plan, None
        )
        weight = (torch.ones(16),)
        patches = torch.empty(batch, 4, channels, 16)
        backend.scatter_average(torch.empty(batch, channels, 40), patches, plan, weight, True, None)
    backend.gaussian_weights(torch.empty(0), 0.1)


def test_launch_failure_is_reported(backend: Emulation) -> None:
    out = torch.empty(4)
    backend.start([])
    assert backend.library.gaussian(out.data_ptr(), 2, 4, 0.1) == b"invalid device pointer"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=geometries(), kind=st.sampled_from(KINDS), dtype=st.sampled_from(DTYPES))
def test_any_geometry(backend: Emulation, case: Case, kind: str, dtype: torch.dtype) -> None:
    check_scatter(backend, case.plan, dtype, kind=kind, mode="signed", channels=2)
    check_extract(backend, case.plan, dtype, torch.bfloat16, channels=2, scaled=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_equal_to_the_cpu_kernels_bit_for_bit(backend: Emulation, case: Case, dtype: torch.dtype) -> None:
    cpu = pytest.importorskip("intarsia.ops._cpu", exc_type=ImportError)
    plan = case.plan
    patches = torch.randn(2, plan.num_regions, 3, *plan.patch_size, dtype=dtype)
    weight = weights("separable", plan, dtype)
    one, two = (torch.empty(2, 3, *plan.canvas_size, dtype=dtype) for _ in range(2))
    backend.scatter_average(one, patches, plan, weight, True, None)
    cpu.scatter_average(two, patches, plan, weight, True, None)
    assert torch.equal(one, two)
