# SPDX-License-Identifier: Apache-2.0
"""Canvas noise through the public function: values, crops, refusals, destinations, registration."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from intarsia import ops
from noise_oracle import integer, normal
from oracle import FUZZ, FUZZ_INTERPRETED

pytestmark = pytest.mark.usefixtures("poisoned_empty")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Float32's own: up to four roundings of numbers up to 6.67. Triton's interpreter cuts bfloat16 off.
BOUND = {torch.float16: 4e-3, torch.bfloat16: 3.2e-2, torch.float32: 1.5e-6, torch.float64: 1e-13}
BOXES = [
    ((5,), (0,)),
    ((37,), (-19,)),
    ((9,), (2**31 - 9,)),
    ((6, 7), (-3, 2)),
    ((3, 70), (2**31 - 3, -(2**31))),
    ((2, 3, 10), (-1, 0, -6)),
    ((4, 1, 1), (7, -8, 3)),
]
interpreted = pytest.mark.skipif(ops.backends()["triton"] != "available", reason=ops.backends()["triton"])


def integers(seed, stream, offset, size, channels, device="cpu"):
    out = torch.full((len(seed), channels, *size), -1, dtype=torch.int64, device=device)
    ops._backend.select(out.device).canvas_integers(out, seed, *stream, offset)
    return out


def places(offset, size):
    axes = (range(start, start + length) for start, length in zip(offset, size, strict=True))
    return list(itertools.product(*axes))


@pytest.mark.parametrize("size,offset", BOXES, ids=str)
def test_every_place_is_that_of_the_oracle(backend, size, offset):
    seed, stream = [7, -(2**63)], (3, 2**32 - 1)
    there = [(one, stream, c, place) for one in seed for c in range(2) for place in places(offset, size)]
    bits = integers(seed, stream, offset, size, 2, backend.device)
    assert bits.flatten().tolist() == [integer(*one) for one in there]
    exact = torch.tensor([normal(*one) for one in there], dtype=torch.float64)
    for dtype in DTYPES:
        noise = ops.canvas_noise(
            seed, stream, offset, size, channels=2, dtype=dtype, device=backend.device
        ).cpu()
        assert noise.dtype is dtype and noise.shape == (2, 2, *size)
        torch.testing.assert_close(noise.double().flatten(), exact, rtol=0, atol=BOUND[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_backend_has_the_bits_of_the_reference(backend, dtype):
    arguments = ([1, 2**64 - 1], (0, 5), (-2, -3, -77), (2, 5, 130))
    noise = ops.canvas_noise(*arguments, channels=3, dtype=dtype, device=backend.device).cpu()
    with ops.use_backend("reference"):
        expected = ops.canvas_noise(*arguments, channels=3, dtype=dtype)
    if dtype is torch.float32:
        assert torch.equal(noise, expected)
    else:  # PyTorch's float64 root is the nearest number but for a few
        torch.testing.assert_close(noise, expected, rtol=1e-15, atol=0)


def test_float64_differs_by_rounding_alone(backend):
    arguments = (3, (0, 0), (0,), (2000 if backend.slow else 200_000,))
    wide = ops.canvas_noise(*arguments, dtype=torch.float64, device=backend.device)
    noise = ops.canvas_noise(*arguments, device=backend.device)
    assert float((wide - noise).abs().max()) < 1.5e-6
    for dtype in (torch.float16, torch.bfloat16):
        half = ops.canvas_noise(*arguments, dtype=dtype, device=backend.device)
        if not (backend.slow and dtype is torch.bfloat16):
            assert torch.equal(half, noise.to(dtype))


@pytest.mark.parametrize("seed", [5, [5]])
def test_a_crop_has_the_noise_of_the_whole(backend, dtype, seed):
    backend.keep_to(dtype is torch.float32)
    size, start = (5, 9, 40), (-2, -4, -21)
    for ndim in (1, 2, 3):
        lengths, offset = size[-ndim:], start[-ndim:]
        options = {"channels": 2, "dtype": dtype, "device": backend.device}
        whole = ops.canvas_noise(seed, (1, 2), offset, lengths, **options)
        for cut in (1, 2, 3):
            inner = [slice(cut, length - 1) for length in lengths]
            crop = ops.canvas_noise(
                seed,
                (1, 2),
                [at + cut for at in offset],
                [length - cut - 1 for length in lengths],
                **options,
            )
            assert torch.equal(crop, whole[(..., *inner)])


def test_an_axis_that_is_not_there_has_coordinate_0(backend):
    line = ops.canvas_noise(1, (0, 0), (-3,), (9,), device=backend.device)
    volume = ops.canvas_noise(1, (0, 0), (-1, -1, -3), (2, 2, 9), device=backend.device)
    assert torch.equal(volume[:, :, 1, 1], line)
    assert not torch.equal(volume[:, :, 0, 0], line)


def test_a_sample_alone_is_the_sample_in_a_batch(backend):
    options = {"channels": 3, "device": backend.device}
    both = ops.canvas_noise([8, 9, -1], (0, 0), (0, 0), (4, 6), **options)
    for index, seed in enumerate((8, 9, 2**64 - 1)):
        assert torch.equal(ops.canvas_noise(seed, (0, 0), (0, 0), (4, 6), **options)[0], both[index])
    if backend.slow:
        return
    many = ops.canvas_noise(range(300), (0, 0), (0,), (3,), device=backend.device)
    assert torch.equal(many[257:258], ops.canvas_noise(257, (0, 0), (0,), (3,), device=backend.device))


def test_every_argument_makes_other_noise(backend):
    def draw(seed=0, purpose=0, step=0, start=0, channel=0):
        noise = ops.canvas_noise(
            seed, (purpose, step), (start,), (64,), channels=channel + 1, device=backend.device
        )
        return noise[0, channel]

    draws = [draw(), draw(seed=1), draw(seed=2**32), draw(purpose=1), draw(step=1), draw(channel=1)]
    draws += [draw(start=64), draw(start=-64)]
    for one, other in itertools.combinations(draws, 2):
        assert not bool((one == other).any())


def test_a_destination_is_written_and_returned(backend, dtype):
    backend.keep_to(dtype is torch.bfloat16)
    expected = ops.canvas_noise(
        [1, 2], (0, 3), (5, -6), (3, 70), channels=2, dtype=dtype, device=backend.device
    )
    for shift in (0, 1):
        pool = torch.full((expected.numel() + 9,), 7.0, dtype=dtype, device=backend.device)
        out = pool[4 + shift : 4 + shift + expected.numel()].view(expected.shape)
        before = out._version
        assert ops.canvas_noise([1, 2], (0, 3), (5, -6), (3, 70), channels=2, out=out) is out
        assert torch.equal(out, expected) and out._version > before
        assert bool((pool[: 4 + shift] == 7).all() and (pool[4 + shift + out.numel() :] == 7).all())


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"seed": 1.5}, "seed must be an integer, or a sequence of one for each sample, got 1.5"),
        ({"seed": "12"}, "seed must be an integer, or a sequence"),
        ({"seed": 2**64}, "seed must fit 64 bits, got 18446744073709551616"),
        ({"stream": 3}, r"stream must be a pair \(purpose, step\), got 3"),
        ({"stream": (0, -1)}, r"stream must hold integers from 0 to 2\^32 - 1, got \(0, -1\)"),
        ({"stream": (2**32, 0)}, r"stream must hold integers from 0 to 2\^32 - 1"),
        ({"size": (2, 2, 2, 2), "offset": (0,) * 4}, "size must have one to three axes"),
        ({"size": (4, -1)}, r"size must not be negative, got \(4, -1\)"),
        ({"offset": (0,)}, r"offset must have one coordinate for each of the 2 axes, got \(0,\)"),
        ({"offset": (0, 2**31 - 5)}, "offset must keep coordinates within 32 signed bits"),
        ({"offset": (-(2**31) - 1, 0)}, "offset must keep coordinates within 32 signed bits"),
        ({"channels": -1}, r"channels must be from 0 to 2\^32, got -1"),
        ({"channels": 1.5}, "channels must hold integers"),
        ({"dtype": torch.int64}, "dtype must be float16, bfloat16, float32 or float64, got torch.int64"),
        ({"out": torch.empty(1, 1, 4, 5)}, r"out must have shape \[1, 1, 4, 6\], got shape \[1, 1, 4, 5\]"),
        ({"out": torch.empty(1, 1, 6, 4).mT}, "out must be contiguous"),
        ({"out": torch.empty(1, 1, 4, 6), "dtype": torch.float16}, "out must be torch.float16"),
        ({"out": torch.empty(1, 1, 4, 6), "device": "meta"}, "out must be on meta, got cpu"),
        ({"out": torch.empty(1, 1, 4, 6, dtype=torch.int32)}, "dtype must be float16"),
        ({"out": torch.empty(1, 1, 4, 6, requires_grad=True)}, "out must be used without gradients"),
        ({"out": [1.0]}, "out must be a tensor, got list"),
    ],
)
def test_errors_say_what_to_do(changes, message):
    arguments = {"seed": 0, "stream": (0, 0), "offset": (0, 0), "size": (4, 6), **changes}
    with pytest.raises(ValueError, match=f"canvas_noise: {message}"):
        ops.canvas_noise(**arguments)


@pytest.mark.parametrize("index", range(24))
def test_opcheck(index):
    dtype, ndim = DTYPES[index % 4], 1 + index % 3
    seed, offset, size = [3, -5][: 1 + index % 2], [-index, index, 7][:ndim], [5, 4, 1 + index][:ndim]
    check, out = torch.library.opcheck, torch.empty(len(seed), index % 4, *size, dtype=dtype)
    check(
        torch.ops.intarsia.canvas_noise.default,
        (seed, index, index**5, offset, size, index % 4, dtype, torch.device("cpu")),
    )
    check(torch.ops.intarsia.canvas_noise_out.default, (seed, index, index**5, offset, out))


@pytest.mark.filterwarnings("ignore")
def test_compiles_in_one_graph_for_all_steps():
    def add(x, step, start):
        return x + ops.canvas_noise([1, 2], (0, step), (0, start), x.shape[2:], channels=3)

    torch._dynamo.reset()
    compiled = torch.compile(add, fullgraph=True, backend="aot_eager")
    for step, start, width in [(0, 0, 5), (7, -3, 9), (8, 4, 11), (9, -5, 13)]:
        x = torch.randn(2, 3, 4, width)
        with torch._dynamo.config.patch(error_on_recompile=step > 7):
            assert torch.equal(compiled(x, step, start), add(x, step, start))
    torch._dynamo.reset()


def test_a_fake_tensor_has_the_shape():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        noise = ops.canvas_noise([1, 2], (0, 0), (0, 0), (4, 6), channels=3, dtype=torch.bfloat16)
    assert noise.shape == (2, 3, 4, 6) and noise.dtype is torch.bfloat16
    assert ops.canvas_noise(1, (0, 0), (0,), (4,), device="meta").is_meta


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_replays_its_noise(gpu_backend):
    expected = ops.canvas_noise([1, 2], (0, 3), (-5,), (500,), device="cuda")
    out, graph = torch.empty_like(expected), torch.cuda.CUDAGraph()
    ops.canvas_noise([1, 2], (0, 3), (-5,), (500,), device="cuda", out=out)
    with torch.cuda.graph(graph):
        ops.canvas_noise([1, 2], (0, 3), (-5,), (500,), out=out)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)


drawn = {
    "seed": st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=2),
    "stream": st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    "axes": st.lists(
        st.tuples(st.integers(-(2**31), 2**31 - 41), st.integers(1, 40)), min_size=1, max_size=3
    ),
    "channels": st.integers(1, 3),
    "dtype": st.sampled_from(DTYPES),
    "pick": st.integers(0, 2**31),
}


def check(seed, stream, axes, channels, dtype, pick, device):
    offset, size = zip(*axes, strict=True)
    size = size if len(size) < 3 else tuple(min(length, 9) for length in size)
    noise = ops.canvas_noise(seed, stream, offset, size, channels=channels, dtype=dtype, device=device).cpu()
    assert bool(noise.isfinite().all())
    for index in (0, noise.numel() - 1, pick % noise.numel()):
        b, c, *place = np.unravel_index(index, noise.shape)
        there = [int(start + at) for start, at in zip(offset, place, strict=True)]
        exact = normal(seed[b], stream, int(c), there)
        assert abs(float(noise.flatten()[index]) - exact) <= BOUND[dtype], (there, c)


@FUZZ
@given(**drawn)
def test_fuzz(device, seed, stream, axes, channels, dtype, pick):
    check(seed, stream, axes, channels, dtype, pick, device)


@interpreted
@FUZZ_INTERPRETED
@given(**drawn)
def test_fuzz_triton(seed, stream, axes, channels, dtype, pick):
    with ops.use_backend("triton"):
        check(seed, stream, [(at, min(n, 9)) for at, n in axes], channels, dtype, pick, None)


def test_the_first_numbers_never_change():
    """Pictures are remembered by their seeds: these numbers are part of the interface."""
    noise = ops.canvas_noise(42, (0, 0), (-2, -2), (2, 5))
    bits = [struct.unpack("<I", struct.pack("<f", value))[0] for value in noise.flatten().tolist()]
    assert bits == [
        1056960025,
        3201736875,
        1042713905,
        1061433500,
        1055391851,
        1055513372,
        1022904207,
        3198628917,
        1059410332,
        3188134679,
    ]
