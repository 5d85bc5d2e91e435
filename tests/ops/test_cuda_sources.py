# SPDX-License-Identifier: Apache-2.0
"""Rules of the CUDA sources that need no GPU and no CUDA compiler to check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "kernels" / "cuda").glob("*.cu*"))
UNITS = [path for path in SOURCES if path.suffix == ".cu"]
HEADER = (ROOT / "csrc" / "intarsia.h").read_text()

FORBIDDEN = {
    r"<<<": "a launch that bypasses launch()",
    r"\b(blockIdx|threadIdx|gridDim|blockDim)\s*\.\s*[yz]\b": "a grid axis that ends at 65,535 blocks",
    r"\batomic\w*\s*\(|\bred\.|\batom\.": "an atomic, whose order differs from run to run",
    r"\bcuda(Malloc|Free|HostAlloc|Memcpy|Memset)\w*\s*\(": "memory work, which breaks graph capture",
    r"\bcuda(Device|Stream|Event)Synchronize\s*\(": "a wait for the device",
    r"\bcudaLaunch(Kernel|Cooperative)(?!Ex)\w*\s*\(": "a launch that bypasses launch()",
    r"\b(int|unsigned|auto)\s+\w+\s*=\s*blockIdx": "a 32-bit element index",
}


def code(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text())


def findings(source: str) -> list[str]:
    return [why for pattern, why in FORBIDDEN.items() if re.search(pattern, source)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_forbidden(path: Path) -> None:
    assert findings(code(path)) == []


@pytest.mark.parametrize(
    "line",
    [
        "kernel<<<1, 2>>>(x);",
        "int row = blockIdx.y;",
        "atomicAdd(out + i, 1.f);",
        "cudaMallocAsync(&p, n, s);",
        "cudaStreamSynchronize(s);",
        "cudaLaunchKernel(f, g, b, a, 0, s);",
        "int i = blockIdx.x * blockDim.x;",
    ],
)
def test_the_rules_bite(line: str) -> None:
    assert findings(line)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_every_kernel_is_launched_through_the_checked_launcher(path: Path) -> None:
    source = code(path)
    kernels = re.findall(r"\b(\w+_kernel)\(", source)
    launched = re.findall(r"\blaunch\(\s*(\w+_kernel)\b", source)
    assert kernels and set(kernels) == set(launched)
    assert len(re.findall(r"\blaunch\(", source)) == len(re.findall(r"\breturn launch\(", source)), (
        "a Status is dropped"
    )
    for call in re.findall(r"\blaunch\(([^;]*);", source):
        assert re.search(r"\bstream\b", call), "launched on another stream than the caller's"
    assert source.count("__global__") == source.count("__launch_bounds__")


def test_the_launcher_guards_checks_and_skips_empty_work() -> None:
    body = code(ROOT / "kernels" / "cuda" / "launch.cuh")
    order = [
        "items <= 0",
        "DeviceGuard guard(out)",
        "cudaLaunchKernelEx(",
        "cudaGetLastError()",
        "launch_failed",
    ]
    places = [body.index(step) for step in order]
    assert places == sorted(places)
    assert "config.stream = static_cast<cudaStream_t>(stream);" in body
    assert len(re.findall("cudaLaunchKernelEx", "".join(map(code, SOURCES)))) == 1


def test_items_are_counted_in_64_bits() -> None:
    body = code(ROOT / "kernels" / "cuda" / "launch.cuh")
    assert body.count("static_cast<int64_t>(blockIdx.x) * blockDim.x") == 1
    assert body.count("static_cast<int64_t>(gridDim.x) * blockDim.x") == 1
    rest = "".join(code(path) for path in SOURCES if path.name != "launch.cuh")
    assert not re.search(r"\b(blockIdx|gridDim|blockDim|threadIdx)\b", rest)


def test_every_entry_point_takes_the_stream_and_has_a_definition() -> None:
    declared = HEADER.split("namespace cuda {")[1].split("}  // namespace cuda")[0]
    entries = re.findall(r"Status (\w+)\(([^;]*)\);", declared)
    assert {name for name, _ in entries} >= {
        "extract_patches",
        "scatter_average",
        "weight_total",
        "gaussian_weights",
    }
    sources = "".join(code(path) for path in UNITS)
    for name, parameters in entries:
        assert re.search(r"\bvoid\* stream(,[^,]* = [^,]*)*$", parameters.rstrip()), name
        assert re.search(rf"^Status {name}\(", sources, re.MULTILINE)


def test_products_and_sums_round_separately_on_both_sides() -> None:
    sums = re.findall(
        r"(?:sum|total)\S* \+= ([^;]*);", code(ROOT / "kernels" / "cuda" / "scatter_average.cu")
    )
    assert len(sums) >= 3
    assert all(term == "share" or term.startswith("product(") for term in sums), sums
    builds = (ROOT / "CMakeLists.txt", ROOT / "kernels" / "CMakeLists.txt")
    assert any("-ffp-contract=off" in build.read_text() for build in builds if build.exists())


def test_whole_words_are_stored_by_an_instruction_of_their_width():
    body = code(ROOT / "kernels" / "cuda" / "element.cuh")
    assert body.count("__stwb(reinterpret_cast<W*>(to) + i, words[i]);") == 1
    assert not re.search(r"reinterpret_cast<(W|uint4)\*>\([^)]*\)\[[^]]*\] =", "".join(map(code, SOURCES)))
