# SPDX-License-Identifier: Apache-2.0
"""A run writes into the canvases that it has used up, and into nothing that anybody else holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from intarsia import compose, layout, samplers, schedules
from intarsia.guidance import CFG
from intarsia.samplers import _spare
from intarsia.types import Info

SIZE = (16, 24)
SIGMAS = schedules.karras(12)
SOLVERS = {
    "Euler": samplers.Euler(),
    "EulerAncestral": samplers.EulerAncestral(),
    "Heun": samplers.Heun(),
    "Heun with churn": samplers.Heun(s_churn=8.0),
    "DPMpp2M": samplers.DPMpp2M(),
}


def smooth(x, sigma, cond=None):
    gain = 1.0 if cond is None else cond["gain"].reshape(-1, 1, 1, 1)
    return torch.tanh(x * gain) / (1 + sigma.reshape(-1, 1, 1, 1))


def composite():
    guided = CFG(smooth, uncond={"gain": torch.zeros(1)}, scale=3.0)
    grid = layout.grid(SIZE, (8, 8), (4, 4))
    gain = {"gain": torch.linspace(0.5, 1.5, grid.num_regions)}
    return compose.average(compose.Factor(guided, grid, layout.gaussian, cond=gain, max_batch=7))


def start():
    return SIGMAS[0] * torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def run(denoiser, solver, x=None):
    g = torch.Generator().manual_seed(2)
    return samplers.sample(denoiser, start() if x is None else x, SIGMAS, solver, generator=g, progress=False)


@pytest.fixture
def eager_to_reuse(monkeypatch):
    monkeypatch.setattr(_spare, "_WORTH", 0)


@pytest.mark.parametrize("make", [lambda: smooth, composite], ids=["plain", "composite"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_result_does_not_change_by_a_bit(monkeypatch, make, solver):
    fresh = run(make(), SOLVERS[solver])
    monkeypatch.setattr(_spare, "_WORTH", 0)
    x = start()
    given = x.clone()
    assert torch.equal(run(make(), SOLVERS[solver], x), fresh)
    assert torch.equal(x, given)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_makes_few_canvases(eager_to_reuse, solver):
    steps = []
    solve = SOLVERS[solver]

    class Spy:
        init = staticmethod(solve.init)

        @staticmethod
        def step(D, state, *rest):
            after, info = solve.step(D, state, *rest)
            steps.append((after.x.data_ptr(), len(state.spare)))
            return after, info

    run(composite(), Spy())
    assert all(spare for _, spare in steps[2:]), "from the third step on there is memory to write into"
    assert len({pointer for pointer, _ in steps[1:-1]}) <= 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_whatever_somebody_holds_is_left_alone(eager_to_reuse, solver):
    kept = []

    def hoard(x, sigma, cond=None):
        kept.append((x, x.clone()))
        kept.append((x[..., :4], x[..., :4].clone()))
        denoised = smooth(x, sigma)
        kept.append((denoised, denoised.clone()))
        return denoised

    run(hoard, SOLVERS[solver])
    assert kept and all(torch.equal(held, copy) for held, copy in kept)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_denoiser_may_return_memory_of_its_own(eager_to_reuse, solver):
    mean = torch.randn(1, 3, *SIZE)
    before = mean.clone()
    run(lambda x, sigma, cond=None: mean, SOLVERS[solver])
    assert torch.equal(mean, before)


def test_a_solver_may_keep_states(eager_to_reuse):
    kept = []

    class Keeper:
        def init(self, x):
            return samplers.Euler().init(x)

        def step(self, D, state, sigma, sigma_next, cond=None, generator=None):
            kept.append((state, state.x.clone()))
            after, _ = samplers.Euler().step(D, state, sigma, sigma_next, cond, generator)
            return replace(after, history=(state,)), Info(sigma, sigma_next)

    run(composite(), Keeper())
    assert all(torch.equal(state.x, copy) for state, copy in kept)


def test_states_that_are_seen_keep_their_canvas(eager_to_reuse):
    for solver in SOLVERS.values():
        seen = []

        def look(step, state, info, seen=seen):
            seen.append((state.x, state.x.clone(), info.denoised, info.denoised.clone()))

        g = torch.Generator().manual_seed(2)
        x = start()
        samplers.sample(composite(), x, SIGMAS, solver, generator=g, callback=look, progress=False)
        assert all(torch.equal(a, b) and torch.equal(c, d) for a, b, c, d in seen)
        g = torch.Generator().manual_seed(2)
        states = list(samplers.trajectory(composite(), x, SIGMAS, solver, generator=g))
        assert len({state.x.data_ptr() for state, _ in states}) == len(states)


def test_two_interleaved_trajectories(eager_to_reuse):
    shared = composite()
    alone = [run(shared, samplers.DPMpp2M(), start() * k) for k in (1.0, 0.9)]
    runs = [samplers.trajectory(shared, start() * k, SIGMAS, samplers.DPMpp2M()) for k in (1.0, 0.9)]
    for pair in zip(*runs, strict=True):
        last = [state.x for state, _ in pair]
    for one, other in zip(last, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loop_by_hand_may_keep_states_and_step_twice_from_one(eager_to_reuse, solver):
    solve, denoiser, kept = SOLVERS[solver], composite(), []
    levels = SIGMAS.tolist()
    state = replace(solve.init(start()), num_steps=len(levels) - 1)
    with torch.no_grad():
        for pair in zip(levels[:-1], levels[1:], strict=True):
            kept.append((state, state.x.clone(), [torch.as_tensor(part).clone() for part in state.history]))
            g = torch.Generator().manual_seed(2)
            state, _ = solve.step(denoiser, state, *pair, None, g)
            assert state.spare is None
    for held, canvas, history in kept:
        assert torch.equal(held.x, canvas)
        assert all(torch.equal(torch.as_tensor(a), b) for a, b in zip(held.history, history, strict=True))
