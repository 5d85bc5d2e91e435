# SPDX-License-Identifier: Apache-2.0
"""The leapfrog kernels below the public functions: instruction sets, threads, repeats, an emulated GPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_uint, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from intarsia import ops
from intarsia.ops import _backend, reference
from intarsia.ops._leapfrog_check import canvas
from leapfrog_cases import FUNCTIONS, NUMBERS, case, exact
from oracle import FUZZ, FUZZ_INTERPRETED
from test_cuda_emulation import CODES, COMPILER, Emulation
from test_leapfrog import near
from test_strides import LAYOUTS
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture
def simd() -> Iterator[Any]:
    module = pytest.importorskip("intarsia._C", reason="the compiled module is not built")
    chosen = module.build_info()["simd"]
    yield module.cpu.use_simd
    module.cpu.use_simd(chosen)


def results(problem: Any, **key: Any) -> list[Tensor]:
    made = [result for name in FUNCTIONS for result in problem(name)]
    if key:
        for name in ("refresh", "langevin", "begin"):
            made += problem(name, noise=None, **key)
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 9001), (2, 3, 41, 67)], ids=str)
def test_instruction_sets_agree_bit_for_bit(simd: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    key = {"seed": [7, 8][: shape[0]], "stream": (1, 2)}
    for numbers in ("number", "element"):
        problem, first = case(shape, dtype, numbers), None
        for isa in filter(simd, ("avx512", "avx2", "baseline")):
            made = results(problem, **key)
            first = first or made
            assert all(map(torch.equal, made, first)), isa


def test_threads_and_repeats_do_not_change_a_bit(threads: Any) -> None:
    key = {"seed": [7, 8], "stream": (1, 2)}
    for shape in ((2, 150_001), (2, 3, 64, 66)):
        problem = case(shape, torch.float32, "sample")
        threads(1)
        first = results(problem, **key)
        for count in (1, 2, 4):
            threads(count)
            for _ in range(100 if shape[1] == 3 and count < 4 else 3):
                assert all(map(torch.equal, results(problem, **key), first))


def test_outputs_past_the_caches_have_the_same_bits(threads: Any) -> None:
    threads(2)
    problem = case((1, 3, 1200, 1000))
    whole, part = problem("begin"), problem.states(lambda state: state[:, :, :7].contiguous())("begin")
    assert all(torch.equal(one[:, :, :7], other) for one, other in zip(whole[:3], part[:3], strict=True))
    torch.testing.assert_close(whole[3], exact(problem, "begin")[3], rtol=1e-7, atol=0)


def test_energies_are_summed_in_float64() -> None:
    v = torch.full((1, 2**24), 2.0**-6)
    v[0, 0] = 2.0**14
    assert ops.kinetic_energy(v).item() == (2.0**28 + (2**24 - 1) * 2.0**-12) / 2


class Device(Emulation):
    """The emulated kernels as a backend module."""

    def leapfrog(self, *arguments: Any) -> None:
        *outs, position, momentum, gradient, noise, step_size, damping, mass, parts, key = arguments
        if key is not None:
            noise = torch.empty_like(momentum)
            reference.canvas_noise(canvas(noise), *key)
        batch, size = momentum.shape[0], momentum.numel() // max(momentum.shape[0], 1)
        partial = torch.full((batch, self.library.partials(size)), float("nan"), dtype=torch.float64)
        elements = mass if isinstance(mass, Tensor) and mass.dim() > 1 else None
        numbers = (step_size, damping, 1.0 if elements is not None else mass)
        sums = torch.float64 if momentum.dtype is torch.float64 else torch.float32
        vectors = [number.to(sums) if isinstance(number, Tensor) else None for number in numbers]
        states = (position, momentum, gradient, noise, elements)
        self.start([*outs, partial, *states, *vectors])
        complaint = self.library.leapfrog(
            pointers(outs[:3]),
            address(outs[3]),
            partial.data_ptr(),
            pointers(states),
            1 if elements is None else elements.shape[0],
            CODES[momentum.dtype],
            batch,
            size,
            parts,
            (c_double * 3)(*(0.0 if isinstance(number, Tensor) else number for number in numbers)),
            pointers(vectors),
            CODES[sums],
        )
        self.finish_after(complaint, batch * size > 0, outs[3] is not None)

    def metropolis_select(self, out, accepted, probability, current, proposed, uniform) -> None:
        batch, size = accepted.shape[0], out[0].numel() // max(accepted.shape[0], 1)
        self.start([*out, accepted, probability, *current, *proposed, uniform])
        complaint = self.library.metropolis_select(
            *(pointers(out), accepted.data_ptr(), probability.data_ptr()),
            *(pointers(current), pointers(proposed), uniform.data_ptr()),
            *(CODES[out[0].dtype], CODES[out[2].dtype], batch, size),
        )
        self.finish_after(complaint, batch > 0, size > 0)

    def finish_after(self, complaint: bytes | None, one: bool, two: bool) -> None:
        assert complaint is None, complaint
        assert self.library.launches() == one + two, "one launch for each stage that has work"


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def pointers(tensors: Sequence[Tensor | None]) -> Any:
    return (c_void_p * len(tensors))(*map(address, tensors))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels with")
    path = tmp_path_factory.mktemp("emulation") / "leapfrog.so"
    shim = ROOT / "tests" / "ops" / "cuda_emulation"
    folders = [f"-I{folder}" for folder in (shim, ROOT / "csrc", ROOT / "kernels", ROOT / "kernels" / "cuda")]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
    subprocess.run([COMPILER, *flags, *folders, str(shim / "leapfrog.cpp"), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    buffer, several, words = c_void_p, POINTER(c_void_p), POINTER(c_int64)
    library.start.argtypes = [words, words, c_int, c_uint]
    library.partials.argtypes, library.partials.restype = [c_int64], c_int64
    shape = [c_int, c_int64, c_int64]
    numbers = [c_int, POINTER(c_double), several, c_int]
    library.leapfrog.argtypes = [several, buffer, buffer, several, c_int64, *shape, *numbers]
    library.metropolis_select.argtypes = [several, buffer, buffer, several, several, buffer, c_int, *shape]
    for function in (library.leapfrog, library.metropolis_select):
        function.restype = c_char_p
    return Device(library)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (3, 5), (1, 4099), (2, 3, 41, 67)], ids=str)
def test_the_cuda_kernels_have_the_bits_of_the_cpu(
    device: Device, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    if ops.backends()["cpu"] != "available":
        pytest.skip("not compiled")
    for numbers in NUMBERS:
        problem = case(shape, dtype, numbers)
        expected = results(problem)
        with monkeypatch.context() as patch:
            patch.setattr(_backend, "select", lambda _: device)
            made = [result for name in FUNCTIONS for result in problem.states(torch.clone)(name)]
        for one, other in zip(made, expected, strict=True):
            if one.dtype is torch.float64 and one.dim() == 1:
                torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
            else:
                assert torch.equal(one, other)


def test_the_cuda_choice_has_the_bits_of_the_reference(device: Device) -> None:
    for dtype in DTYPES:
        shape = (5, 3, 11)

        def state(dtype: torch.dtype = dtype, shape: tuple[int, ...] = shape) -> list[Tensor]:
            x, v, g = (torch.randn(shape).to(dtype) for _ in range(3))
            return [x, v, torch.randn(5), torch.rand(5).double(), g]

        current, proposed, uniform = state(), state(), torch.rand(5)
        outs = [[torch.empty_like(member) for member in proposed] for _ in range(2)]
        flags = [(torch.empty(5, dtype=torch.bool), torch.empty(5).double()) for _ in range(2)]
        for module, out, flag in zip((device, reference), outs, flags, strict=True):
            module.metropolis_select(tuple(out), *flag, tuple(current), tuple(proposed), uniform)
        assert all(map(torch.equal, outs[0], outs[1])) and torch.equal(flags[0][0], flags[1][0])
        device.metropolis_select(tuple(proposed), *flags[0], tuple(current), tuple(proposed), uniform)
        assert all(map(torch.equal, proposed, outs[1]))


inputs = {
    "shape": st.lists(st.integers(1, 9), min_size=2, max_size=5).map(tuple),
    "dtype": st.sampled_from(DTYPES),
    "numbers": st.sampled_from(NUMBERS),
    "layout": st.sampled_from([lambda x: x, *LAYOUTS]),
    "name": st.sampled_from(FUNCTIONS),
    "seed": st.integers(0, 2**31),
}


def check(shape, dtype, numbers, layout, name, seed):
    torch.manual_seed(seed)
    problem = case(shape, dtype, numbers)
    strided = problem.states(layout) if len(shape) > 2 else problem
    near(strided(name), exact(problem, name), dtype)


@FUZZ
@given(**inputs)
def test_fuzz(shape, dtype, numbers, layout, name, seed):
    check(shape, dtype, numbers, layout, name, seed)


@pytest.mark.skipif(ops.backends()["triton"] != "available", reason=ops.backends()["triton"])
@FUZZ_INTERPRETED
@given(**inputs | {"shape": st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)})
def test_fuzz_triton(shape, dtype, numbers, layout, name, seed):
    with ops.use_backend("triton"):
        check(shape, dtype, numbers, layout, name, seed)
