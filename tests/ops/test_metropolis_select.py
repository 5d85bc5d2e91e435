# SPDX-License-Identifier: Apache-2.0
"""The choice between two states: per sample, exact to the bit, in place or not."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from intarsia import ops
from intarsia.ops import PhasePoint
from oracle import FUZZ, FUZZ_INTERPRETED
from test_strides import LAYOUTS

SHAPE = (6, 3, 5, 7)


def states(
    dtype=torch.float32, energy=torch.float64, *, shape=SHAPE, momentum=True, gradient=True, device="cpu"
):
    def one():
        tensors = [torch.randn(shape).to(device, dtype) for _ in range(3)]
        energies = torch.randn(shape[0]).to(device, energy), torch.rand(shape[0]).double().to(device)
        return PhasePoint(
            tensors[0], tensors[1] if momentum else None, *energies, tensors[2] if gradient else None
        )

    return one(), one(), torch.rand(shape[0]).to(device)


def expected(current, proposed, uniform):
    point = [None if member is None else member.clone() for member in proposed]
    accepted, chances = [], []
    for b in range(len(uniform)):
        change = float(current.energy[b]) + float(current.kinetic_energy[b])
        change -= float(proposed.energy[b]) + float(proposed.kinetic_energy[b])
        chances.append(math.exp(min(0.0, change)) if math.isfinite(change) else 0.0)
        accepted.append(float(uniform[b]) < chances[-1])
        if not accepted[-1]:
            for k, member in enumerate(current):
                if member is not None:
                    point[k][b] = -member[b] if k == 1 else member[b]
    return PhasePoint(*point), torch.tensor(accepted), torch.tensor(chances, dtype=torch.float64)


def bits(tensor):
    widths = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.cpu().contiguous().view(widths[tensor.element_size()])


def same(chosen, wanted):
    point, accepted, chances = wanted
    assert torch.equal(chosen.accepted.cpu(), accepted)
    torch.testing.assert_close(chosen.probability.cpu(), chances, rtol=1e-14, atol=0)
    for ours, other in zip(chosen.point, point, strict=True):
        assert (ours is None) == (other is None)
        assert ours is None or torch.equal(bits(ours), bits(other))


@pytest.mark.parametrize("energy", [torch.float32, torch.float64])
def test_each_sample_for_itself(backend, poisoned_empty, dtype, energy):
    backend.keep_to(dtype in (torch.float32, torch.bfloat16))
    for momentum, gradient in itertools.product((True, False), repeat=2):
        given = states(dtype, energy, momentum=momentum, gradient=gradient, device=backend.device)
        wanted = expected(*given)
        assert bool(wanted[1].any()) and not bool(wanted[1].all())
        same(ops.metropolis_select(*given), wanted)


@pytest.mark.parametrize("target", ["proposed", "current", "apart"])
def test_in_place(backend, dtype, target):
    backend.keep_to(dtype is torch.float32)
    for shape in (SHAPE, (5, 40_001)):
        if backend.slow and shape != SHAPE:
            continue
        given = states(dtype, shape=shape, device=backend.device)
        wanted = expected(*given)
        current, proposed, uniform = given
        apart = PhasePoint(*map(torch.empty_like, proposed))
        out = {"proposed": proposed, "current": current, "apart": apart}[target]
        before = [tensor._version for tensor in out]
        chosen = ops.metropolis_select(current, proposed, uniform, out=out)
        assert chosen.point is out
        same(chosen, wanted)
        assert all(tensor._version > old for tensor, old in zip(out, before, strict=True))


def test_mixed_destinations():
    for choice in itertools.product((0, 1, 2), repeat=5):
        current, proposed, uniform = states(shape=(4, 3))
        wanted = expected(current, proposed, uniform)
        apart = PhasePoint(*map(torch.empty_like, proposed))
        out = PhasePoint(*((current, proposed, apart)[k][i] for i, k in enumerate(choice)))
        same(ops.metropolis_select(current, proposed, uniform, out=out), wanted)


def test_what_is_not_finite_rejects(backend):
    inf, nan = math.inf, math.nan
    pairs = [
        (0, nan),
        (nan, 0),
        (0, inf),
        (inf, 0),
        (inf, inf),
        (-inf, 0),
        (0, -inf),
        (0, 0),
        (0, -1e308),
        (0, 800),
    ]
    current, proposed, _ = states(shape=(len(pairs), 4), device=backend.device)
    nothing = torch.zeros_like(current.energy)
    energies = torch.tensor(pairs, dtype=torch.float64, device=backend.device)
    current = current._replace(energy=energies[:, 0].clone(), kinetic_energy=nothing)
    proposed = proposed._replace(energy=energies[:, 1].clone(), kinetic_energy=nothing)
    chosen = ops.metropolis_select(current, proposed, nothing.float())
    assert chosen.probability.tolist() == [0.0] * 7 + [1.0, 1.0, 0.0]
    assert chosen.accepted.tolist() == [False] * 7 + [True, True, False]


def test_a_rejected_state_keeps_every_bit(backend, dtype):
    backend.keep_to(dtype is torch.float32)
    current, proposed, uniform = states(dtype, device=backend.device)
    current.position[:, 0, 0, 0], current.gradient[:, 0, 0, 1] = math.nan, -0.0
    current.momentum[:, 0, 0, :2] = torch.tensor([0.0, -0.0], device=backend.device)
    before = PhasePoint(*map(torch.clone, current))
    rejected = proposed._replace(energy=torch.full_like(proposed.energy, 1e9))
    chosen = ops.metropolis_select(current, rejected, uniform, out=rejected)
    assert not chosen.accepted.any()
    for k, (ours, old) in enumerate(zip(chosen.point, before, strict=True)):
        if k == 1:
            assert torch.equal(bits(-ours), bits(old)) and torch.equal(ours.signbit(), ~old.signbit())
        else:
            assert torch.equal(bits(ours), bits(old))


def test_strides_and_empty_batches(backend):
    current, proposed, uniform = states(device=backend.device)
    wanted = expected(current, proposed, uniform)
    turned = [
        PhasePoint(*(t.transpose(0, -1).contiguous().transpose(0, -1) for t in state))
        for state in (current, proposed)
    ]
    same(ops.metropolis_select(*turned, uniform), wanted)
    none = ops.metropolis_select(
        *(PhasePoint(*(t[:0] for t in state)) for state in (current, proposed)), uniform[:0]
    )
    assert none.point.position.shape == (0, *SHAPE[1:]) and none.accepted.shape == (0,)
    hollow = [
        state._replace(**{k: state.position[:, :0] for k in ("position", "momentum", "gradient")})
        for state in (current, proposed)
    ]
    assert torch.equal(ops.metropolis_select(*hollow, uniform).accepted.cpu(), wanted[1])


inputs = {
    "shape": st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
    "dtype": st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    "energy": st.sampled_from([torch.float32, torch.float64]),
    "momentum": st.booleans(),
    "gradient": st.booleans(),
    "layout": st.sampled_from([lambda x: x, *LAYOUTS]),
    "choice": st.none() | st.tuples(*[st.integers(0, 2)] * 5),
    "flags": st.booleans(),
    "seed": st.integers(0, 2**31),
}


def check(shape, dtype, energy, momentum, gradient, layout, choice, flags, seed):
    """A choice of destinations for every member, or a fresh result, or inputs laid out in another way."""
    torch.manual_seed(seed)
    members = {"shape": shape, "momentum": momentum, "gradient": gradient}
    current, proposed, uniform = states(dtype, energy, **members)
    wanted = expected(current, proposed, uniform)
    if choice is None:
        if len(shape) > 2:
            current, proposed = (
                PhasePoint(*(t if t is None or t.dim() == 1 else layout(t) for t in state))
                for state in (current, proposed)
            )
        return same(ops.metropolis_select(current, proposed, uniform), wanted)
    apart = PhasePoint(*(None if t is None else torch.empty_like(t) for t in proposed))
    out = PhasePoint(*((current, proposed, apart)[k][i] for i, k in enumerate(choice)))
    if flags:
        out = ops.Selected(out, torch.empty_like(wanted[1]), torch.empty_like(wanted[2]))
    same(ops.metropolis_select(current, proposed, uniform, out=out), wanted)


@FUZZ
@given(**inputs)
def test_fuzz(shape, dtype, energy, momentum, gradient, layout, choice, flags, seed):
    check(shape, dtype, energy, momentum, gradient, layout, choice, flags, seed)


@pytest.mark.skipif(ops.backends()["triton"] != "available", reason=ops.backends()["triton"])
@FUZZ_INTERPRETED
@given(**inputs | {"shape": st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)})
def test_fuzz_triton(shape, dtype, energy, momentum, gradient, layout, choice, flags, seed):
    with ops.use_backend("triton"):
        check(shape, dtype, energy, momentum, gradient, layout, choice, flags, seed)


def test_everything_is_reused(backend):
    given = states(device=backend.device)
    first = ops.metropolis_select(*given)
    wanted = expected(*given)
    old = [tensor._version for tensor in first[1:]]
    again = ops.metropolis_select(*given, out=first)
    same(again, wanted)
    assert again.accepted is first.accepted and again.probability is first.probability
    assert all(tensor._version > before for tensor, before in zip(first[1:], old, strict=True))


def bad(message, change):
    current, proposed, uniform = states(shape=(2, 3))
    with pytest.raises(ValueError, match=f"^metropolis_select: {message}"):
        change(current, proposed, uniform)


def test_errors_name_the_argument():
    select = ops.metropolis_select
    bad("current must be a PhasePoint, got Tensor", lambda c, p, u: select(c.position, p, u))
    bad(r"proposed must have a position \[B, \*s\]", lambda c, p, u: select(c, p._replace(position=u), u))
    bad("current must have momentum", lambda c, p, u: select(c._replace(momentum=None), p, u))
    bad(
        "current must have gradient .* None in proposed",
        lambda c, p, u: select(c, p._replace(gradient=None), u),
    )
    bad("current must have energy", lambda c, p, u: select(c._replace(energy=c.energy.float()), p, u))
    bad(
        "proposed must have an energy of float32",
        lambda c, p, u: select(c, p._replace(energy=c.energy.half()), u),
    )
    bad(
        "proposed must have kinetic_energy torch.float64",
        lambda c, p, u: select(c, p._replace(kinetic_energy=u), u),
    )
    bad(r"uniform must be a tensor \[B\], got float", lambda c, p, u: select(c, p, 0.5))
    bad(r"uniform must be a number or floating-point \[2\]", lambda c, p, u: select(c, p, u[:1]))
    bad("out must be a PhasePoint", lambda c, p, u: select(c, p, u, out=p.position))
    done = ops.Selected(states(shape=(2, 3))[0], torch.zeros(2).bool(), torch.zeros(2).double())
    bad(
        r"out must have accepted torch.bool \[2\]",
        lambda c, p, u: select(c, p, u, out=done._replace(accepted=u)),
    )
    bad(
        "out must have probability apart",
        lambda c, p, u: select(c, p, u, out=done._replace(probability=c.energy)),
    )
    bad("out must have position", lambda c, p, u: select(c, p, u, out=p._replace(position=u)))
    bad(
        "out must be contiguous", lambda c, p, u: select(c, p, u, out=p._replace(position=torch.ones(3, 2).T))
    )
    shared = "out must be a tensor of proposed or current with the same name, or apart"
    bad(shared, lambda c, p, u: select(c, p, u, out=p._replace(position=c.momentum)))
    bad(shared, lambda c, p, u: select(c, p, u, out=p._replace(position=p.momentum, momentum=p.position)))
    bad(
        "states must not require grad, as a choice has no derivative",
        lambda c, p, u: select(c, p._replace(position=p.position.requires_grad_()), u),
    )
    bad(
        "states must not require grad",
        lambda c, p, u: select(c, p._replace(position=p.position.requires_grad_()), u, out=c),
    )
