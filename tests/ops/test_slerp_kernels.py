# SPDX-License-Identifier: Apache-2.0
"""Interpolation below the public functions: every instruction set and thread count has the same bits, and the
CUDA sources, run by the host compiler, agree with the reference."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_uint, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from intarsia.ops import reference
from kernel_cases import framed, moved
from test_cuda_emulation import CODES, COMPILER, Emulation
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-6, torch.float64: 1e-12}
SIZES = [(1, 1), (2, 5), (3, 8), (2, 100), (2, 1028), (1, 4096), (3, 9000)]


def vectors(count: int, shape: tuple[int, int], dtype: torch.dtype, shift: int = 0) -> list[Tensor]:
    common = torch.randn(shape)
    return [moved((common + 0.3 * torch.randn(shape)).to(dtype), shift) for _ in range(count)]


@pytest.fixture
def compiled() -> Iterator[Any]:
    module = pytest.importorskip("intarsia._C", reason="the compiled module is not built")
    chosen = module.build_info()["simd"]
    yield module.cpu
    module.cpu.use_simd(chosen)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SIZES, (5, 40000)], ids=str)
def test_every_instruction_set_and_thread_count_has_the_same_bits(compiled, shape, dtype):
    x0, x1 = vectors(2, shape, dtype)
    first = None
    for isa in filter(compiled.use_simd, ("avx512", "avx2", "baseline")):
        for threads, shift in ((1, 0), (2, 1), (3, 0), (7, 3)):
            out, untouched = framed(shape, dtype, shift)
            compiled.slerp(out, moved(x0, shift), x1, 0.3, None, None, threads)
            first = out.clone() if first is None else first
            assert torch.equal(out, first) and untouched(), (isa, threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_aggregates_have_the_same_bits(compiled, count, dtype):
    for shape in [(2, 5), (3, 9001)]:
        x, mu = vectors(count, shape, dtype), vectors(count, shape, dtype)
        weights = [0.4] * (count - 1)
        for over_batch in (False, True):
            first = None
            for isa in filter(compiled.use_simd, ("avx512", "avx2", "baseline")):
                for threads, shift in ((1, 0), (2, 1), (5, 0)):
                    out, untouched = framed((count, *shape), dtype, shift)
                    compiled.spherical_aggregate(
                        out,
                        [moved(t, shift) for t in x],
                        mu,
                        weights,
                        0.3,
                        None,
                        0,
                        over_batch,
                        None,
                        threads,
                    )
                    first = out.clone() if first is None else first
                    assert torch.equal(out, first) and untouched(), (isa, threads)


class SphereEmulation(Emulation):
    """The emulated CUDA kernels; they may read only what they are given."""

    def products(self, out: Tensor, batch: int, count: int) -> Tensor:
        size = out.numel() // max(batch, 1)
        return torch.full((batch * self.library.gram_parts(size) * count,), float("nan"), dtype=torch.float64)

    def check(self, complaint: bytes | None, launches: int = 2) -> None:
        assert complaint is None, complaint
        assert self.library.launches() == launches and self.library.device_after() == 0

    def slerp(self, out: Tensor, x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> None:
        sums = self.products(out, len(out), 3)
        self.start([out, x0, x1, ws, sums])
        pointers = [t.data_ptr() for t in (out, x0, x1)]
        each = None if ws is None else ws.data_ptr()
        size = out[:1].numel()
        self.check(
            self.library.slerp(*pointers, CODES[out.dtype], len(out), size, w, each, sums.data_ptr()),
            2 if out.numel() else 0,
        )

    def aggregate(self, out, x, mu, weights, eta, etas, fold, over_batch) -> None:
        count, batch = out.shape[:2]
        sums = self.products(out[0], batch, count * (count + 1) // 2 + count * count + count)
        self.start([out, *x, *mu, etas, sums])
        lists = [(c_void_p * count)(*[t.data_ptr() for t in tensors]) for tensors in (out, x, mu)]
        numbers = (c_double * max(len(weights), 1))(*weights)
        each = None if etas is None else etas.data_ptr()
        size = out[0, :1].numel()
        self.check(
            self.library.aggregate(
                *lists,
                CODES[out.dtype],
                count,
                batch,
                size,
                numbers,
                eta,
                each,
                fold,
                over_batch,
                sums.data_ptr(),
            )
        )


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> SphereEmulation:
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels with")
    path = tmp_path_factory.mktemp("emulation") / "sphere.so"
    shim = ROOT / "tests" / "ops" / "cuda_emulation"
    folders = [f"-I{folder}" for folder in (shim, ROOT / "csrc", ROOT / "kernels", ROOT / "kernels" / "cuda")]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
    subprocess.run([COMPILER, *flags, *folders, str(shim / "sphere.cpp"), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.start.argtypes = [POINTER(c_int64), POINTER(c_int64), c_int, c_uint]
    library.gram_parts.argtypes, library.gram_parts.restype = [c_int64], c_int64
    sizes = [c_int64, c_int64]
    library.slerp.argtypes = [*[c_void_p] * 3, c_int, *sizes, c_double, c_void_p, c_void_p]
    some = POINTER(c_void_p)
    library.aggregate.argtypes = [
        *(some, some, some, c_int, c_int, *sizes, POINTER(c_double), c_double, c_void_p),
        *(c_int, c_int, c_void_p),
    ]
    library.slerp.restype = library.aggregate.restype = c_char_p
    return SphereEmulation(library)


def close(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    bound = TOLERANCE[dtype]
    torch.testing.assert_close(ours.double(), exact, rtol=bound, atol=4 * bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_the_cuda_kernels_interpolate(emulation, shape, shift, dtype):
    x0, x1 = vectors(2, shape, dtype, shift)
    for w, ws in ((0.3, None), (0.0, None), (1.0, None), (0.0, torch.rand(shape[0], dtype=torch.float64))):
        out, untouched = framed(shape, dtype, shift)
        exact = torch.empty(shape, dtype=torch.float64)
        emulation.slerp(out, x0, x1, w, ws)
        reference.slerp(exact, x0.double(), x1.double(), w, ws)
        close(out, exact, dtype)
        assert untouched() and (ws is not None or w == 0.3 or torch.equal(out, x1 if w else x0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("fold,over_batch", [(0, False), (1, False), (0, True), (2, False)])
def test_the_cuda_kernels_aggregate(emulation, count, fold, over_batch, dtype):
    for shape, shift in (((1, 1), 0), ((3, 7), 1), ((2, 1030), 0)):
        x, mu = vectors(count, shape, dtype, shift), vectors(count, shape, dtype)
        weights = [1 / count] * count if fold == 2 else [0.6] * (count - 1)
        for etas in (None, torch.rand(shape[0], dtype=torch.float64)):
            out, untouched = framed((count, *shape), dtype, shift)
            exact = torch.empty((count, *shape), dtype=torch.float64)
            rest = (weights, 0.3, etas, fold, over_batch)
            emulation.aggregate(out, x, mu, *rest)
            stacks = [[torch.stack(t).double()] for t in (x, mu)]
            reference.spherical_aggregate(exact, *stacks, *rest)
            close(out, exact, dtype)
            assert untouched()


def test_the_cuda_kernels_stride_over_a_small_grid(emulation):
    few = SphereEmulation(emulation.library, most_blocks=2)
    x0, x1 = vectors(2, (5, 3000), torch.float32)
    one, two = torch.empty_like(x0), torch.empty_like(x0)
    emulation.slerp(one, x0, x1, 0.4, None)
    few.slerp(two, x0, x1, 0.4, None)
    assert torch.equal(one, two)
    one, two = torch.empty(2, 5, 3000), torch.empty(2, 5, 3000)
    for run, out in ((emulation, one), (few, two)):
        run.aggregate(out, [x0, x1], [x1, x0], [0.5], 0.3, None, 0, False)
    assert torch.equal(one, two)


def test_empty_work_is_not_launched(emulation):
    emulation.slerp(torch.empty(0, 4), torch.empty(0, 4), torch.empty(0, 4), 0.5, None)
    emulation.slerp(torch.empty(4, 0), torch.empty(4, 0), torch.empty(4, 0), 0.5, None)


def test_large_scales_and_near_antipodes(emulation):
    x0 = torch.nn.functional.normalize(torch.randn(6, 96))
    x1 = -x0 + 10 ** -torch.arange(6.0)[:, None] * torch.nn.functional.normalize(torch.randn(6, 96))
    out = torch.empty_like(x0)
    emulation.slerp(out, x0, x1, 0.5, None)
    expected = (x0.double().norm(dim=1) * x1.double().norm(dim=1)).sqrt()
    torch.testing.assert_close(out.double().norm(dim=1), expected, rtol=1e-6, atol=0)
    for scale in (1e20, 1e-20):
        emulation.slerp(out, scale * x0, scale * x0.roll(1, 0), 0.5, None)
        torch.testing.assert_close((out / scale).norm(dim=1), torch.ones(6), rtol=1e-6, atol=0)
