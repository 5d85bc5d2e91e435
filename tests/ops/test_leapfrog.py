# SPDX-License-Identifier: Apache-2.0
"""Kicks, drifts, refreshments, energies: against tables made by hand and an oracle in float64."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops
from leapfrog_cases import FUNCTIONS, NUMBERS, SHAPES, case, destinations, exact
from test_strides import LAYOUTS

pytestmark = pytest.mark.usefixtures("poisoned_empty")
each = pytest.mark.parametrize("name", FUNCTIONS)
REFINED = {torch.float16: 2**-9, torch.bfloat16: 2**-6, torch.float32: 1e-6, torch.float64: 1e-13}


def near(ours, expected, dtype):
    for one, other in zip(ours, expected, strict=True):
        bound = REFINED[dtype] if one.dtype is dtype else REFINED[torch.float32]
        scale = 4 + other.abs().max()
        assert (one.cpu().double() - other).abs().max() <= bound * scale


def test_tables_made_by_hand(backend):
    def on(*values):
        return torch.tensor([values], device=backend.device)

    x, v, g = on(1.0, 2.0), on(3.0, -4.0), on(2.0, 8.0)
    assert ops.kick(v, g, 0.5).tolist() == [[4.0, 0.0]]
    assert ops.drift(x, v, 0.5, 2.0).tolist() == [[1.75, 1.0]]
    moved, pushed = ops.kick_drift(x, v, g, 0.5, on(1.0, 4.0))
    assert (moved.tolist(), pushed.tolist()) == ([[3.0, 2.0]], [[4.0, 0.0]])
    assert ops.kinetic_energy(v).tolist() == [12.5]
    assert ops.kinetic_energy(v, on(1.0, 4.0)).tolist() == [6.5]
    torch.testing.assert_close(ops.refresh(v, 0.6, 4.0, noise=on(1.0, 1.0)), on(3.4, -0.8))
    assert ops.langevin(x, g, 0.5, noise=on(1.0, -1.0)).tolist() == [[3.0, 5.0]]
    begin = ops.leapfrog_begin(x, v, g, 0.5)
    assert begin.position.tolist() == [[2.75, 1.0]] and begin.momentum.tolist() == [[3.5, -2.0]]
    assert begin.refreshed is v and begin.kinetic_energy.tolist() == [12.5]
    last, energy = ops.leapfrog_end(v, g, 1.0)
    assert (last.tolist(), energy.tolist()) == ([[4.0, 0.0]], [8.0])


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_near_the_oracle(backend, dtype, shape, numbers):
    backend.keep_to(dtype is torch.float32 and shape == (2, 3, 7, 9))
    given = case(shape, dtype, numbers)
    there = given.to(lambda tensor: tensor.to(backend.device))
    for name in FUNCTIONS:
        near(there(name), exact(given, name), dtype)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_err_at_most_twice_as_pytorch(backend, dtype, name):
    backend.keep_to(False)
    for numbers in NUMBERS:
        given = case((2, 3, 64, 33), dtype, numbers)
        right, theirs = exact(given, name), exact(given, name, dtype)
        ours = given.to(lambda tensor: tensor.to(backend.device))(name)
        for one, other, true in zip(ours, theirs, right, strict=True):
            # Twice, and an energy of float64 far below the rounding of the half type.
            worst = (other.double() - true).norm()
            assert (one.cpu().double() - true).norm() <= 2 * worst + 1e-7 * true.norm()


@each
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_any_layout_gives_the_same_bits(backend, layout, name):
    backend.keep_to(name == "begin")
    for numbers in ("number", "element"):
        given = case((2, 3, 5, 6), torch.float32, numbers)
        dense, strided = given(name), given.states(layout)(name)
        for one, other in zip(strided, dense, strict=True):
            assert torch.equal(one, other) and bool(one.isfinite().all())


def test_numbers_of_every_dtype_and_shape_are_read(backend):
    x, v = torch.randn(2, 3, 4, 4, device=backend.device), torch.ones(2, 3, 4, 4, device=backend.device)
    half = torch.tensor([0.5, 0.25], device=backend.device)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(ops.drift(x, v, half.to(dtype)), x + half.view(-1, 1, 1, 1))
        wide = torch.stack([half, half], 1).to(dtype)
        assert torch.equal(ops.drift(x, v, wide[:, 0], wide[:, 1]), x + 1)
    channels = torch.tensor([1.0, 2.0, 4.0], device=backend.device).view(1, 3, 1, 1)
    assert torch.equal(ops.drift(x, v, 1.0, channels), x + 1 / channels)
    assert torch.equal(ops.drift(x, v, 1, half.view(-1, 1, 1, 1)), x + 1 / half.view(-1, 1, 1, 1))


@each
def test_out_is_written_and_returned(backend, dtype, name):
    backend.keep_to(dtype is torch.float32)
    given = case((2, 3, 5, 6), dtype, "sample")
    out = destinations(given, name)
    made = given(name, out=out)
    for written, returned, fresh in zip(
        (out,) if torch.is_tensor(out) else out, made, given(name), strict=True
    ):
        assert written is returned and torch.equal(written, fresh)


IN_PLACE = {
    "kick": lambda own, energy: own.v,
    "drift": lambda own, energy: own.x,
    "kick_drift": lambda own, energy: (own.x, own.v),
    "refresh": lambda own, energy: own.v,
    "langevin": lambda own, energy: own.x,
    "end": lambda own, energy: (own.v, energy),
    "begin": lambda own, energy: (own.x, torch.empty_like(own.v), own.v, energy),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_gives_the_same_bits(dtype, name):
    for shape in ((2, 3, 5, 6), (3, 70_001)):
        for numbers in ("number", "every"):
            given = case(shape, dtype, numbers)
            fresh, own = given(name), given.states(torch.clone)
            energy = torch.empty(shape[0], dtype=torch.float64)
            assert all(map(torch.equal, own(name, out=IN_PLACE[name](own, energy)), fresh))


def test_without_a_refreshment_the_momentum_is_the_one_given():
    given = case((2, 3, 4))
    out = (
        torch.empty_like(given.x),
        torch.empty_like(given.x),
        torch.empty_like(given.x),
        torch.empty(2).double(),
    )
    begin = ops.leapfrog_begin(given.x, given.v, given.g, 0.1, out=out)
    assert begin.refreshed is out[2] and torch.equal(out[2], given.v)
    plain = ops.leapfrog_begin(given.x, given.v, given.g, 0.1)
    assert plain.refreshed is given.v and torch.equal(plain.position, begin.position)
    whole = ops.leapfrog_begin(given.x, given.v, given.g, 0.1, damping=torch.ones(2), noise=given.n)
    assert all(map(torch.equal, whole, plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 17, 70), (2, 500), (1, 2, 5000), (2, 3, 4, 5, 6)], ids=str)
def test_a_seed_gives_the_bits_of_the_noise_itself(backend, dtype, shape):
    backend.keep_to(dtype is torch.float32 and shape == (2, 500))
    given = case(shape, dtype, "sample").to(lambda tensor: tensor.to(backend.device))
    seed, stream, size = list(range(5, 5 + shape[0])), (4, 7), shape[2:] if len(shape) > 2 else shape[1:]
    for offset in (None, [-3] * len(size)):
        place = offset or [0] * len(size)
        channels = shape[1] if len(shape) > 2 else 1
        like = {"channels": channels, "dtype": dtype, "device": backend.device}
        noise = ops.canvas_noise(seed, stream, place, size, **like).view(shape)
        for name in ("refresh", "langevin", "begin"):
            drawn = given(name, noise=None, seed=seed, stream=stream, offset=offset)
            assert all(map(torch.equal, drawn, given(name, noise=noise))), name
            assert bool(drawn[0].isfinite().all())


X = torch.zeros(2, 3)
BAD = {
    "kick: momentum must be a tensor": lambda: ops.kick([1.0], X, 1.0),
    "kick: momentum must be float16, bfloat16, float32 or float64, got torch.int64": lambda: ops.kick(
        X.long(), X, 1.0
    ),
    r"kick: momentum must be dense with shape \[B, \*s\]": lambda: ops.kick(X[0], X[0], 1.0),
    r"kick: gradient must be torch.float32 \[2, 3\]": lambda: ops.kick(X, X.double(), 1.0),
    "drift: position must be a tensor": lambda: ops.drift(None, X, 1.0),
    "drift: step_size must be a number or a tensor, got str": lambda: ops.drift(X, X, "far"),
    "drift: step_size must be finite, got inf": lambda: ops.drift(X, X, float("inf")),
    r"drift: step_size must be a number or floating-point \[2\]": lambda: ops.drift(X, X, torch.ones(3)),
    "drift: mass must be positive and finite, got 0.0": lambda: ops.drift(X, X, 1.0, 0.0),
    r"drift: mass must be a number, \[2\], or broadcast to": lambda: ops.drift(X, X, 1.0, torch.ones(1, 2)),
    "drift: mass must not require grad": lambda: ops.drift(X, X, 1.0, torch.ones(2, requires_grad=True)),
    "langevin: step_size must be finite and at least 0, got -1.0": lambda: ops.langevin(X, X, -1.0, noise=X),
    "langevin: position must be a tensor": lambda: ops.langevin(None, X, 1.0, noise=X),
    "refresh: damping must lie between 0 and 1, got 1.5": lambda: ops.refresh(X, 1.5, noise=X),
    "refresh: noise must be given, or else a seed, got neither": lambda: ops.refresh(X, 0.5),
    "refresh: noise must be given, or else a seed, got both": lambda: ops.refresh(X, 0.5, noise=X, seed=1),
    "refresh: stream must be a pair": lambda: ops.refresh(X, 0.5, seed=[1, 2]),
    "refresh: stream must hold integers from 0": lambda: ops.refresh(X, 0.5, seed=[1, 2], stream=(-1, 0)),
    "refresh: seed must hold one integer for each of the 2": lambda: ops.refresh(
        X, 0.5, seed=1, stream=(0, 0)
    ),
    "refresh: offset must have 1 coordinates": lambda: ops.refresh(
        X, 0.5, seed=[1, 2], stream=(0, 0), offset=(1, 2)
    ),
    "refresh: offset must keep coordinates within 32": lambda: ops.refresh(
        X, 0.5, seed=[1, 2], stream=(0, 0), offset=(2**31,)
    ),
    "refresh: momentum must have at most 3 axes behind": lambda: ops.refresh(
        torch.zeros(1, 1, 1, 1, 1, 1), 0.5, seed=1, stream=(0, 0)
    ),
    "kick: out must hold tensors, got list": lambda: ops.kick(X, X, 1.0, out=[1.0]),
    r"kick: out must be torch.float32 \[2, 3\] on cpu": lambda: ops.kick(X, X, 1.0, out=torch.zeros(2, 4)),
    "kick: out must be contiguous": lambda: ops.kick(X, X, 1.0, out=torch.zeros(3, 2).T),
    "kick: out must be used without gradients": lambda: ops.kick(
        X.clone().requires_grad_(), X, 1.0, out=torch.zeros(2, 3)
    ),
    "kick_drift: out must be a tuple of 2 tensors": lambda: ops.kick_drift(X, X, X, 1.0, out=X),
    "leapfrog_end: out must be torch.float64": lambda: ops.leapfrog_end(
        X, X, 1.0, out=(torch.zeros(2, 3), torch.zeros(2))
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_argument(message):
    with pytest.raises(ValueError, match=f"^{message}"):
        BAD[message]()


def test_out_shares_no_memory_but_with_its_own_input():
    pool = torch.zeros(5, 2, 3)
    x, v, g = pool[0], pool[1], pool[2]
    wanted = "must be the input of the same name or apart from every other tensor"
    energy = torch.zeros(2, dtype=torch.float64)
    for call in (
        lambda: ops.kick(v, g, 1.0, out=g),
        lambda: ops.drift(x, v, 1.0, out=v),
        lambda: ops.kick_drift(x, v, g, 1.0, out=(v, x)),
        lambda: ops.kick_drift(x, v, g, 1.0, out=(pool[3], pool[3])),
        lambda: ops.kick(v, g, 1.0, out=pool.view(-1)[7:13].view(2, 3)),
        lambda: ops.kick(v, g, 1.0, out=pool.view(-1)[1:7].view(2, 3)),
        lambda: ops.leapfrog_begin(x, v, g, 1.0, damping=0.5, noise=pool[4], out=(x, v, v, energy)),
        lambda: ops.kick(pool[:2, 0], g, 1.0, out=pool[0]),
    ):
        with pytest.raises(ValueError, match=wanted):
            call()
    assert not pool.any()
