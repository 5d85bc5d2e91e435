# SPDX-License-Identifier: Apache-2.0
"""Canvas noise below the public function: the same bits of every instruction set, thread and compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from intarsia.ops import reference
from kernel_cases import framed
from test_cuda_emulation import CODES, COMPILER, Emulation, right_aligned
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
ISAS = ("avx512", "avx2", "baseline")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STREAM = (3, 2**32 - 1)
# Rows of one lane and of many, bundles that end early, pieces of long rows, both ends of the coordinates.
BOXES = [
    ((2, 3, 9, 8), (1, 1)),
    ((1, 1, 40, 7), (3, -5)),
    ((2, 3, 17, 63), (0, 2)),
    ((1, 2, 33, 28), (-100, -28)),
    ((2, 50, 3), (-1,)),
    ((2, 2, 2, 9001), (7, -5000)),
    ((1, 1, 1), (-1,)),
    ((2, 3, 5, 7, 30), (-3, -4, -9)),
    ((1, 2, 5, 200), (-5, 2**31 - 200)),
    ((3, 1, 5000), (-(2**31),)),
    ((1, 5, 3, 3, 66), (2**31 - 3, -(2**31), -33)),
    ((1, 3, 20, 4, 65), (0, -2, 1)),
]
each_box = pytest.mark.parametrize("shape,offset", BOXES, ids=str)


def seeds(shape: tuple[int, ...]) -> list[int]:
    return [5, -7, 2**62][: shape[0]]


def expected(shape: tuple[int, ...], offset: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    out = torch.empty(shape, dtype=dtype)
    fill = reference.canvas_integers if dtype is torch.int64 else reference.canvas_noise
    fill(out, seeds(shape), *STREAM, offset)
    return out


def same(one: Tensor, other: Tensor) -> bool:
    if one.dtype is torch.float64:
        return bool(((one - other).abs() <= 2e-15).all())
    return torch.equal(one, other)


@pytest.fixture
def compiled() -> Iterator[Any]:
    module = pytest.importorskip("intarsia._C", reason="the compiled module is not built")
    chosen = module.build_info()["simd"]
    yield module.cpu
    module.cpu.use_simd(chosen)


@each_box
def test_every_instruction_set_has_the_bits_of_the_reference(
    compiled: Any, shape: tuple[int, ...], offset: tuple[int, ...]
) -> None:
    for dtype in (torch.int64, *DTYPES):
        right, first = expected(shape, offset, dtype), None
        run = compiled.canvas_integers if dtype is torch.int64 else compiled.canvas_noise
        for isa in filter(compiled.use_simd, ISAS):
            for shift, threads in ((0, 1), (3, 2), (1, 5)):
                if dtype is torch.int64:
                    out, untouched = torch.full(shape, -1), lambda: True
                else:
                    out, untouched = framed(shape, dtype, shift)
                run(out, seeds(shape), *STREAM, list(offset), threads)
                assert untouched(), isa
                assert same(out, right), (isa, dtype)
                first = out.clone() if first is None else first
                assert torch.equal(out, first), (isa, dtype, "float64 included")


def test_rows_of_every_length(compiled: Any) -> None:
    whole = expected((1, 2, 5, 310), (-1, -7), torch.float32)
    for _ in filter(compiled.use_simd, ISAS):
        for width in (*range(1, 140), 299):
            start = width % 5
            out, untouched = framed((1, 2, 5, width), torch.float32)
            compiled.canvas_noise(out, [5], *STREAM, [-1, -7 + start], 1)
            assert torch.equal(out, whole[..., start : start + width]) and untouched()


def test_repeats_are_equal_on_one_and_two_threads(compiled: Any) -> None:
    for shape, offset in (((2, 3, 64, 64), (0, 0)), ((1, 1, 60000), (-5,))):
        right = expected(shape, offset, torch.float32)
        for threads in (1, 2):
            for _ in range(100):
                out = torch.empty(shape)
                compiled.canvas_noise(out, seeds(shape), *STREAM, list(offset), threads)
                assert torch.equal(out, right)


@pytest.mark.parametrize(
    "out,seed,offset,words",
    [
        (torch.empty(1, 1, 4), [1, 2], [0], r"out must be \[B, C, \*S\] with B = 2 and 1 canvas axes, got"),
        (torch.empty(1, 1, 4), [1], [0, 0], r"out must be \[B, C, \*S\] with B = 1 and 2 canvas axes"),
        (torch.empty(1, 4, 2).mT, [1], [0], "out must be contiguous"),
        (torch.empty(1, 1, 4).int(), [1], [0], "out must be float16, bfloat16"),
        (torch.empty(1, 1, 4).long(), [1], [0], "out must be floating point, got int64"),
    ],
)
def test_bindings_refuse_what_the_kernel_cannot_write(
    compiled: Any, out: Tensor, seed: list[int], offset: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=f"canvas_noise: {words}"):
        compiled.canvas_noise(out, seed, 0, 0, offset, 1)
    with pytest.raises(ValueError, match="canvas_integers: out must be int64, got torch.float32"):
        compiled.canvas_integers(torch.empty(1, 1, 4), [1], 0, 0, [0], 1)


class NoiseEmulation(Emulation):
    """The emulated CUDA kernel of canvas noise; it may touch only its destination."""

    def fill(self, out: Tensor, seed: list[int], offset: tuple[int, ...], *, launches: int = 1) -> None:
        self.start([out])
        lists = [(c_int64 * 3)(*right_aligned(offset, 0)), (c_int64 * 3)(*right_aligned(out.shape[2:], 1))]
        code = 4 if out.dtype is torch.int64 else CODES[out.dtype]
        numbers = (c_uint64 * len(seed))(*[number % 2**64 for number in seed])
        complaint = self.library.noise(out.data_ptr(), code, *out.shape[:2], numbers, *STREAM, *lists)
        assert complaint is None and self.library.launches() == launches


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> NoiseEmulation:
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels with")
    path = tmp_path_factory.mktemp("emulation") / "noise.so"
    shim = ROOT / "tests" / "ops" / "cuda_emulation"
    folders = [f"-I{folder}" for folder in (shim, ROOT / "csrc", ROOT / "kernels", ROOT / "kernels" / "cuda")]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
    subprocess.run([COMPILER, *flags, *folders, str(shim / "noise.cpp"), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.start.argtypes = [POINTER(c_int64), POINTER(c_int64), c_int, c_uint]
    three = POINTER(c_int64)
    library.noise.argtypes = [
        *(c_void_p, c_int, c_int64, c_int64, POINTER(c_uint64), c_uint, c_uint),
        *(three, three),
    ]
    library.noise.restype = c_char_p
    return NoiseEmulation(library)


@each_box
def test_the_cuda_kernel_has_the_bits_of_the_reference(
    emulation: NoiseEmulation, shape: tuple[int, ...], offset: tuple[int, ...]
) -> None:
    for dtype in (torch.int64, *DTYPES):
        right = expected(shape, offset, dtype)
        for shift in (0, 1):
            if dtype is torch.int64:
                out, untouched = torch.full(shape, -1), lambda: True
            else:
                out, untouched = framed(shape, dtype, shift)
            emulation.fill(out, seeds(shape), offset)
            assert untouched() and same(out, right), dtype


def test_the_cuda_kernel_strides_and_splits_large_batches(emulation: NoiseEmulation) -> None:
    few = NoiseEmulation(emulation.library, most_blocks=2)
    out = torch.empty(1, 2, 40, 50)
    few.fill(out, [5], (1, 1))
    assert torch.equal(out, expected((1, 2, 40, 50), (1, 1), torch.float32))
    many, right = torch.empty(600, 2, 5), torch.empty(600, 2, 5)
    emulation.fill(many, list(range(600)), (3,), launches=3)
    reference.canvas_noise(right, range(600), *STREAM, (3,))
    assert torch.equal(many, right)
    emulation.fill(torch.empty(2, 1, 0), [1, 2], (0,), launches=0)


def test_the_cuda_kernel_reports_a_failed_launch(emulation: NoiseEmulation) -> None:
    out, three = torch.empty(1, 1, 4), (c_int64 * 3)(0, 0, 0)
    emulation.start([])
    seed = (c_uint64 * 1)(1)
    answer = emulation.library.noise(out.data_ptr(), 2, 1, 1, seed, 0, 0, three, (c_int64 * 3)(1, 1, 4))
    assert answer == b"invalid device pointer"


COMPILE = """
import importlib.util, re, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

spec = importlib.util.spec_from_file_location(
    "kernels", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
package = sys.modules["kernels"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
kernel = sys.modules["kernels.noise"]._canvas_noise
for values in ("*fp32", "*bf16", "*fp64", "*i64"):
    constants = {"REAL": tl.float64 if values == "*fp64" else tl.float32, "BLOCK": 128}
    signature = {n: "constexpr" if n in constants else "i32" for n in kernel.arg_names} | {"out": values}
    keys = {(kernel.arg_names.index(n),): v for n, v in constants.items()}
    for capability in (80, 90):
        source, target = ASTSource(kernel, signature, keys), GPUTarget("cuda", capability, 32)
        text = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
        assert not re.search(r"\\b(fma|atom|red)\\.", text)
        assert not re.search(r"\\b(sqrt|div)\\.(approx|full)", text)
        print(values)
"""


def test_the_triton_kernel_compiles_for_gpus_without_one(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, str(ROOT / "kernels" / "triton")],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stdout.split()) == 8
