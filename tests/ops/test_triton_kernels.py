# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels: run by Triton's interpreter, and compiled for GPUs that need not be there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intarsia import ops
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
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "kernels" / "triton").glob("*.py"))
SMALL = CASES[1], CASES[5], CASES[9]


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    reason = ops.backends()["triton"]
    if reason == "available":
        module = importlib.import_module("intarsia.ops._triton")
        if "cpu" in module.DEVICES:
            return module
        reason = "on a GPU the kernels are tested through the public functions"
    elif "triton" in os.environ.get("INTARSIA_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_extract(backend: ModuleType, case: Case) -> None:
    for source, target in zip(DTYPES, (*DTYPES[1:], DTYPES[0]), strict=True):
        check_extract(backend, case.plan, source, target, channels=3, scaled=True)
        check_extract(backend, case.plan, source, source, channels=5, scaled=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_scatter(backend: ModuleType, case: Case, dtype: torch.dtype) -> None:
    modes = ("mean", "sum", "signed")
    for kind, mode in zip(("separable", "window", "windows"), modes, strict=True):
        check_scatter(backend, case.plan, dtype, kind=kind, mode=mode)


@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_scatter_normalises_every_kind_of_weight(backend: ModuleType, case: Case) -> None:
    for kind in ("separable", "window", "windows"):
        check_scatter(backend, case.plan, torch.float32, kind=kind, mode="mean", target=torch.bfloat16)


@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_fused(backend: ModuleType, case: Case) -> None:
    for dtype, terms in zip(DTYPES, (1, 2, 3, 2), strict=True):
        check_fused(backend, case.plan, dtype, terms=terms, target=torch.float32, channels=2)
    check_copies(backend, case.plan, torch.float32, copies=2)


@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_weight_total(backend: ModuleType, case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        for kind in ("separable", "windows"):
            check_total(backend, case.plan, dtype, kind=kind, signed=kind == "windows")


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_gaussian(backend: ModuleType, size: int) -> None:
    check_gaussian(backend, size, 0.1)


def test_nan_stays_where_it_is(backend: ModuleType) -> None:
    check_nan_containment(backend, CASES[6].plan)


def test_bad_total_is_nan(backend: ModuleType) -> None:
    check_bad_total(backend, CASES[6].plan)


def test_order_of_regions_is_irrelevant(backend: ModuleType) -> None:
    check_order(backend, CASES[6])


def test_offsets_past_two_billion(backend: ModuleType) -> None:
    check_far_scatter(backend, 2**25 + 2, 64)
    check_far_extract(backend, 2**31 + 4099)


def test_empty_work_is_not_launched(backend: ModuleType) -> None:
    plan = CASES[0].plan
    for batch, channels in ((0, 3), (2, 0)):
        canvas, patches = torch.empty(batch, channels, 40), torch.empty(batch, 4, channels, 16)
        backend.extract_patches(patches, canvas, plan, None)
        backend.scatter_average(canvas, patches, plan, (torch.ones(16),), True, None)
    backend.gaussian_weights(torch.empty(0), 0.1)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(case=geometries(), kind=st.sampled_from(KINDS), dtype=st.sampled_from(DTYPES))
def test_any_geometry(backend: ModuleType, case: Case, kind: str, dtype: torch.dtype) -> None:
    check_scatter(backend, case.plan, dtype, kind=kind, mode="signed", channels=2)
    check_extract(backend, case.plan, dtype, torch.bfloat16, channels=2, scaled=True)


def test_too_many_programs_is_refused(backend: ModuleType) -> None:
    from intarsia._triton._launch import check_grid

    assert check_grid("test", 2**31 - 1) == (2**31 - 1,)
    with pytest.raises(ValueError, match=r"^test: out must fit 2147483647 programs, got 2147483648\. Split"):
        check_grid("test", 2**31)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_program_ids_are_widened_before_any_arithmetic(path: Path) -> None:
    source = path.read_text()
    assert source.count("tl.program_id(") == len(re.findall(r"tl\.program_id\(0\)\.to\(tl\.int64\)", source))


COMPILE = """
import importlib.util, re, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

spec = importlib.util.spec_from_file_location(
    "kernels", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
package = sys.modules["kernels"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)

def build(kernel, types, **constants):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    values = {(names.index(n),): v for n, v in constants.items()}
    target = GPUTarget("cuda", 80 if constants["NDIM"] == 2 else 90, 32)
    source = ASTSource(kernel, signature, values)
    compiled = triton.compile(source, target=target, options={"enable_fp_fusion": False})
    text = compiled.asm["ptx"]
    assert not re.search(r"\\b(fma|atom|red)\\.", text), kernel.__name__
    print(kernel.__name__)

tables = dict.fromkeys(("cell0", "cell1", "cell2", "cell_region"), "*i32")
tables |= dict.fromkeys(("offsets", "cell_start"), "*i64")
for ndim in (1, 2, 3):
    for values in ("*bf16", "*fp64"):
        sums, total = ("*fp64", tl.float64) if values == "*fp64" else ("*fp32", tl.float32)
        types = tables | dict.fromkeys(("weight0", "weight1", "weight2", "coefficient", "scale"), sums)
        types |= dict.fromkeys(("guidance", "factors"), sums)
        types |= dict.fromkeys(("out", "patches", "canvas", "before", "noise"), values)
        merge = sys.modules["kernels.scatter_average"]._scatter_average
        build(merge, types, NDIM=ndim, SEPARABLE=ndim != 2, HAS_COEFFICIENT=True, HAS_PATCHES=True,
              NORMALIZE=values != "*fp64", GUIDED=ndim != 1, UPDATED=ndim != 2, HAS_NOISE=ndim == 3,
              ACCUMULATOR=total, CHANNELS=4, BLOCK=256)
        extract = sys.modules["kernels.extract_patches"]._extract_patches
        build(extract, types, NDIM=ndim, HAS_SCALE=True, WORK=total, CHANNELS=4, BLOCK=1024)
"""


def test_kernels_compile_for_gpus_without_one(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, str(ROOT / "kernels" / "triton")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stdout.split()) == 3 * 2 * 2


def test_importing_asks_for_no_driver_and_no_device() -> None:
    pytest.importorskip("triton")
    check = (
        "import torch, intarsia._triton, triton\n"
        "assert triton.runtime.driver._active is None and not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
