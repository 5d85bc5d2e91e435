# SPDX-License-Identifier: Apache-2.0
"""The CUDA source of rope, compiled by the host compiler and run one thread after the other."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint, c_void_p
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia import ops
from intarsia.ops import reference

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BOTH = pytest.mark.parametrize("interleaved", [True, False])

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """`rope` of a backend module; it may load only from the tensors that it is given."""
    path = tmp_path_factory.mktemp("emulation") / "rope.so"
    shim = ROOT / "tests" / "ops" / "cuda_emulation"
    folders = [f"-I{folder}" for folder in (shim, ROOT / "csrc", ROOT / "kernels", ROOT / "kernels" / "cuda")]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
    subprocess.run([COMPILER, *flags, *folders, str(shim / "driver_rope.cpp"), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    words = POINTER(c_int64)
    library.start.argtypes = [words, words, c_int, c_uint]
    library.rope.argtypes = [words, c_int, c_int, words, c_void_p, c_int, c_int, c_int]
    library.rope.restype = c_char_p

    def rope(out, x, table, interleaved, inverse, most_blocks=2**32 - 1):
        spans = [(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in (*out, *x, table)]
        begins, sizes = ((c_int64 * len(spans))(*(span[i] for span in spans)) for i in range(2))
        library.start(begins, sizes, len(spans), most_blocks)
        flat = [
            word
            for to, given in zip(out, x, strict=True)
            for word in (
                to.data_ptr(), given.data_ptr(), given.shape[1], *to.stride()[:3], *given.stride()[:3],
            )
        ]  # fmt: skip
        batch, _, tokens, dim = x[0].shape
        complaint = library.rope(
            (c_int64 * len(flat))(*flat), len(x), DTYPES.index(x[0].dtype),
            (c_int64 * 3)(batch, tokens, dim // 2), table.data_ptr(), table.dim() == 4, interleaved, inverse,
        )  # fmt: skip
        if complaint is not None:
            raise RuntimeError(complaint.decode())
        assert library.launches() == any(t.numel() > 0 for t in x), "one launch, none without work"

    return rope


def compare(emulated, x, table, interleaved, inverse=False, **more):
    out = [torch.full_like(heads, float("nan")) for heads in x]
    emulated(out, x, table, interleaved, inverse, **more)
    expected = [torch.empty_like(heads) for heads in x]
    reference.rope(expected, x, table, interleaved, inverse)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(out, expected, strict=True))
    written = [heads.clone(memory_format=torch.preserve_format) for heads in x]
    emulated(written, written, table, interleaved, inverse, **more)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(written, expected, strict=True))


def table_for(dtype, dim, *lead):
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    return ops.rope_table(9 * torch.randn(*lead, 2), dim, dtype=sums)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [4, 6, 16, 34, 64])
def test_equal_bits(emulated, dtype, dim, interleaved):
    q, k = torch.randn(2, 6, 5, dim).to(dtype), torch.randn(2, 5, 5, dim).to(dtype)
    compare(emulated, [q, k], table_for(dtype, dim, 5), interleaved)
    compare(emulated, [q], table_for(dtype, dim, 2, 5), interleaved, inverse=True)
    shifted = torch.randn(q.numel() + 1).to(dtype)[1:].view(q.shape)
    compare(emulated, [shifted, k], table_for(dtype, dim, 5), interleaved, most_blocks=1)


@BOTH
def test_packed_heads_and_many_of_them(emulated, interleaved):
    packed = torch.randn(2, 700, 3, 7, 32).bfloat16()
    x = [heads.transpose(1, 2) for heads in packed.unbind(2)[:2]]
    compare(emulated, x, table_for(torch.bfloat16, 32, 700), interleaved)
    # More than kWave items: a thread turns four heads.
    x = [torch.randn(2, 9, 6000, 16), torch.randn(2, 5, 6000, 16)]
    compare(emulated, x, table_for(torch.float32, 16, 6000), interleaved, most_blocks=3)


def test_what_is_not_given_is_not_written(emulated):
    pool = torch.full((2, 6, 3, 4, 10), 7.0)
    q, k, table = torch.randn(2, 4, 6, 10), torch.randn(2, 4, 6, 10), table_for(torch.float32, 10, 6)
    out = [pool[:, :, i].transpose(1, 2) for i in (0, 2)]
    emulated(out, [q, k], table, True, False)
    assert bool((pool[:, :, 1] == 7).all())
    expected = ops.rope(q, k, table=table)
    assert torch.equal(out[0], expected[0]) and torch.equal(out[1], expected[1])


def test_offsets_past_two_billion(emulated):
    far = torch.empty(2**31 + 4096, dtype=torch.float16).as_strided((2, 1, 2, 16), (2**31 + 8, 16, 16, 1))
    far.copy_(torch.randn(2, 1, 2, 16))
    out = [torch.empty(2, 1, 2, 16, dtype=torch.float16)]
    table = table_for(torch.float16, 16, 2)
    emulated(out, [far], table, True, False)
    assert torch.equal(out[0], ops.rope(far.contiguous(), table=table)[0])


def test_empty_work_is_not_launched(emulated):
    for shape in ((0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4)):
        x = [torch.empty(shape), torch.empty(shape)]
        emulated([torch.empty(shape) for _ in x], x, table_for(torch.float32, 4, shape[2]), True, False)
    q, k, table = torch.empty(2, 0, 3, 4), torch.randn(2, 1, 3, 4), table_for(torch.float32, 4, 3)
    compare(emulated, [q, k], table, True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9)),
    pairs=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
    interleaved=st.booleans(),
)
def test_any_shape(emulated, shape, pairs, dtype, interleaved):
    batch, heads, others, tokens = shape
    x = [torch.randn(batch, n, tokens, 2 * pairs).to(dtype) for n in (heads, others)]
    lead = (batch, tokens) if tokens % 2 else (tokens,)
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    table = ops.rope_table(torch.randn(*lead, 1), 2 * pairs, dtype=sums)
    compare(emulated, x, table, interleaved, inverse=pairs % 2 > 0)
