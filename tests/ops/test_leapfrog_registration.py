# SPDX-License-Identifier: Apache-2.0
"""The leapfrog family as PyTorch sees it: opcheck, gradients, torch.compile."""

from __future__ import annotations

import itertools

import pytest
import torch
from intarsia import ops
from intarsia.ops import _library
from intarsia.ops._leapfrog_check import NAMES, made
from leapfrog_cases import FUNCTIONS, NUMBERS, case

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SAMPLES = [
    pytest.param(parts, NUMBERS[k % 4], DTYPES[k // 2 % 4], k, id=f"{NAMES[parts]}-{k}")
    for k, (parts, _) in enumerate(itertools.product(sorted(NAMES), range(3)))
]


def arguments(parts, numbers, dtype, k):
    given = case((2, 3, 5), dtype, numbers)
    grad = dtype in (torch.float32, torch.float64)
    states = [state.requires_grad_(grad) for state in (given.x, given.v, given.g, given.n)]
    tensors = []
    for number in (given.step_size, given.damping, given.mass):
        tensors += [number, 1.0] if torch.is_tensor(number) else [None, number]
    key = ([3, 4], 1, 2, [-1]) if k % 3 == 2 else ([], 0, 0, [])
    return (*states, *tensors, parts, *key)


@pytest.mark.parametrize("parts,numbers,dtype,k", SAMPLES)
def test_opcheck(parts, numbers, dtype, k):
    given = arguments(parts, numbers, dtype, k)
    torch.library.opcheck(torch.ops.intarsia.leapfrog.default, given)
    given = [value.detach() if torch.is_tensor(value) else value for value in given]
    out = [torch.zeros_like(given[1]) if there else None for there in made(parts)]
    if out[3] is not None:
        out[3] = torch.zeros(2, dtype=torch.float64)
    torch.library.opcheck(torch.ops.intarsia.leapfrog_out.default, (*given, *out))


@pytest.mark.parametrize("k", range(24))
def test_opcheck_of_the_choice(k):
    dtype, energy = DTYPES[k % 4], DTYPES[2 + k // 4 % 2]

    def state():
        x, v, g = (torch.randn(3, 4, 2).to(dtype) for _ in range(3))
        energies = torch.randn(3).to(energy), torch.rand(3, dtype=torch.float64)
        return [x, v if k % 3 else None, *energies, g if k % 2 else None]

    given = (*state(), *state(), torch.rand(3))
    torch.library.opcheck(torch.ops.intarsia.metropolis_select.default, given)
    out = [None if member is None else torch.zeros_like(member) for member in given[5:10]]
    torch.library.opcheck(torch.ops.intarsia.metropolis_select_out.default, (*given, *out))
    flags = torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.intarsia.metropolis_select_reuse.default, (*given, *out, *flags))


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name, numbers):
    given = case((2, 2, 3), torch.float64, numbers)
    states = [state.requires_grad_() for state in (given.x, given.v, given.g, given.n)]

    def call(*tensors):
        fixed = iter(tensors)
        return given.states(lambda _: next(fixed))(name)

    used = [
        k
        for k, s in enumerate(states)
        if torch.autograd.grad(sum(map(torch.sum, call(*states))), s, allow_unused=True)[0] is not None
    ]
    assert (
        used
        == {
            "kick": [1, 2],
            "drift": [0, 1],
            "kick_drift": [0, 1, 2],
            "refresh": [1, 3],
            "langevin": [0, 2, 3],
            "kinetic_energy": [1],
            "begin": [0, 1, 2, 3],
            "end": [1, 2],
        }[name]
    )

    def of_used(*tensors):
        every = list(states)
        for k, tensor in zip(used, tensors, strict=True):
            every[k] = tensor
        return call(*every)

    assert torch.autograd.gradcheck(of_used, [states[k] for k in used])
    if numbers in ("number", "every"):
        assert torch.autograd.gradgradcheck(of_used, [states[k] for k in used])


def test_gradients_flow_through_a_seed_and_part_of_the_results():
    v = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: ops.refresh(v, 0.5, seed=[1, 2], stream=(0, 1)), v)
    x = torch.randn(2, 3, dtype=torch.float64)
    for member in range(4):
        assert torch.autograd.gradcheck(
            lambda v, k=member: ops.leapfrog_begin(x, v, x, 0.3, damping=0.5, noise=x)[k], v
        )
        assert torch.autograd.gradcheck(lambda v, k=member: ops.leapfrog_begin(x, v, x, 0.3)[k], v)


@pytest.mark.parametrize("name", ["step_size", "mass"])
def test_numbers_that_require_grad_are_refused(name):
    x, number = torch.zeros(2, 3), torch.ones(2, requires_grad=True)
    given = {"step_size": 1.0, name: number}
    with pytest.raises(ValueError, match=f"drift: {name} must not require grad"):
        ops.drift(x, x, **given)
    states, key = (x, x, None, None), ([], 0, 0, [])
    tensors = {"step_size": (number, 1.0, None, 1.0, None, 1.0), "mass": (None, 1.0, None, 1.0, number, 1.0)}
    with pytest.raises(ValueError, match=f"drift: {name} must not require grad"):
        torch.ops.intarsia.leapfrog(x.clone().requires_grad_(), *states[1:], *tensors[name], 32, *key)


def hmc(x, v, g, n, uniform, step_size):
    begin = ops.leapfrog_begin(x, v, g, step_size, damping=0.5, noise=n)
    there, w = ops.kick_drift(begin.position, begin.momentum, -begin.position, step_size)
    w, after = ops.leapfrog_end(w, -there, step_size)
    energy, new = x.square().flatten(1).sum(1) / 2, there.square().flatten(1).sum(1) / 2
    current = ops.PhasePoint(x, begin.refreshed, energy, begin.kinetic_energy)
    chosen = ops.metropolis_select(current, ops.PhasePoint(there, w, new, after), uniform)
    return chosen.point.position, chosen.point.momentum, chosen.accepted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["aot_eager", "inductor"])
def test_compiles_in_one_graph(engine):
    torch._dynamo.reset()
    compiled = torch.compile(hmc, backend=engine, fullgraph=True, dynamic=True)
    for size in (5, 7):
        states = [torch.randn(3, 2, size) for _ in range(4)]
        given = (*states, torch.rand(3), torch.full((3,), 0.3))
        for one, other in zip(compiled(*given), hmc(*given), strict=True):
            torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_compiled_work_in_place():
    torch._dynamo.reset()

    def step(x, v, g):
        ops.kick_drift(x, v, g, 0.5, out=(x, v))
        return x + v

    x, v, g = (torch.randn(2, 3) for _ in range(3))
    wanted = ops.kick_drift(x, v, g, 0.5)
    total = torch.compile(step, backend="aot_eager", fullgraph=True)(x, v, g)
    assert torch.equal(x, wanted[0]) and torch.equal(v, wanted[1]) and torch.equal(total, x + v)
    torch._dynamo.reset()


def test_the_short_way_is_taken_only_where_nothing_is_lost(monkeypatch):
    long = []
    monkeypatch.setattr("intarsia.ops._leapfrog.choose", lambda *a: long.append(1) or _library.choose(*a))
    x, g = torch.ones(2, 3), torch.ones(2, 3)
    ops.kick(x, g, 1.0, out=x)
    if ops.backends()["cpu"] == "available":
        assert not long
    for change in (
        lambda: ops.kick(x, torch.ones(3, 2).T, 1.0, out=x),
        lambda: ops.kick(x, torch.complex(g, g).conj().imag, 1.0, out=x),
        lambda: ops.kick(x, g, torch.ones(2, dtype=torch.float64).expand(2)[:1].expand(2), out=x),
    ):
        long.clear()
        change()
        assert long
    torch.testing.assert_close(x, torch.full((2, 3), 1.0 + 1 + 1 - 1 + 1))
    kept = (torch.ones(2, 3).requires_grad_() * x).sum()
    ops.kick(x, g, 1.0, out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()
    with torch.inference_mode():
        inside = torch.ones(2, 3)
        assert ops.kick(inside, g, 1.0, out=inside).sum() == 12
