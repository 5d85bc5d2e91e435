# SPDX-License-Identifier: Apache-2.0
"""Leapfrog steps are reversible, of second order and symplectic, and exact under a Metropolis test."""

from __future__ import annotations

import math

import pytest
import torch
from intarsia import ops
from intarsia.ops import PhasePoint

PRECISION = torch.tensor([[2.0, -0.8], [-0.8, 1.0]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


def gradient(x):
    return -(x - MEAN) @ PRECISION


def energy(x):
    return ((x - MEAN) @ PRECISION * (x - MEAN)).sum(1) / 2


def trajectory(x, v, step_size, steps, mass=1.0):
    """Position and momentum after `steps` leapfrog steps, and the kinetic energies before and after."""
    x, v, _, before = ops.leapfrog_begin(x, v, gradient(x), step_size, mass)
    for _ in range(steps - 1):
        x, v = ops.kick_drift(x, v, gradient(x), step_size, mass)
    v, after = ops.leapfrog_end(v, gradient(x), step_size, mass)
    return x, v, before, after


@pytest.mark.parametrize("mass", [1.0, torch.tensor([[0.5, 3.0]], dtype=torch.float64)])
def test_going_back_in_time_ends_where_it_began(mass):
    x, v = torch.randn(2, 16, 2, dtype=torch.float64)
    far, fast, *_ = trajectory(x, v, 0.2, 25, mass)
    assert (far - x).norm() > 1
    for back, turned, step_size in ((far, -fast, 0.2), (far, fast, -0.2)):
        home, slow, *_ = trajectory(back, turned, step_size, 25, mass)
        torch.testing.assert_close(home, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(slow * (1 if step_size < 0 else -1), v, rtol=0, atol=1e-12)


def test_the_energy_error_is_of_second_order():
    x, v = torch.randn(2, 64, 2, dtype=torch.float64)
    errors = []
    for halvings in range(4):
        steps = 8 * 2**halvings
        far, _, before, after = trajectory(x, v, 1.6 / steps, steps)
        errors.append((energy(far) + after - energy(x) - before).abs().mean().item())
    orders = [math.log2(one / other) for one, other in zip(errors, errors[1:], strict=False)]
    assert all(1.85 < order < 2.15 for order in orders), orders


def test_volume_is_preserved_and_the_map_is_symplectic():
    mass = torch.tensor([[0.5, 3.0]], dtype=torch.float64)
    point = torch.randn(1, 4, dtype=torch.float64)

    def flow(z):
        x, v, *_ = trajectory(z[:, :2], z[:, 2:], 0.3, 4, mass)
        return torch.cat([x, v], 1)

    jacobian = torch.autograd.functional.jacobian(flow, point)[0, :, 0]
    one, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    form = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    torch.testing.assert_close(jacobian.T @ form @ jacobian, form, rtol=0, atol=1e-12)
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-12)


def sample(step_size, *, rounds=400, chains=512, steps=3, select=ops.metropolis_select):
    """Hamiltonian Monte Carlo: all states after the first quarter, and the mean chance of acceptance."""
    generator = torch.Generator().manual_seed(1)
    mass = torch.tensor([[1.5, 0.7]], dtype=torch.float64)
    x = torch.randn(chains, 2, dtype=torch.float64, generator=generator)
    v, seed = torch.randn(chains, 2, dtype=torch.float64, generator=generator), list(range(chains))
    kept, chance = [], 0.0
    for round in range(rounds):
        there, w, refreshed, before = ops.leapfrog_begin(
            x, v, gradient(x), step_size, mass, damping=0.4, seed=seed, stream=(9, round)
        )
        for _ in range(steps - 1):
            there, w = ops.kick_drift(there, w, gradient(there), step_size, mass)
        w, after = ops.leapfrog_end(w, gradient(there), step_size, mass)
        uniform = torch.rand(chains, generator=generator)
        current = PhasePoint(x, refreshed, energy(x), before)
        chosen = select(current, PhasePoint(there, w, energy(there), after), uniform)
        x, v = chosen.point.position, chosen.point.momentum
        chance += chosen.probability.mean().item() / rounds
        if round >= rounds // 4:
            kept.append(x)
    return torch.stack(kept), chance


def check_moments(states):
    """Mean and covariance within five standard errors, which the independent chains tell."""
    chains = states.shape[1]
    first = states.mean(0) - MEAN
    centred = states - MEAN
    second = torch.einsum("tci,tcj->cij", centred, centred) / len(states) - PRECISION.inverse()
    for deviation in (first, second):
        error = deviation.std(0) / math.sqrt(chains)
        assert bool((deviation.mean(0).abs() < 5 * error).all()), (deviation.mean(0) / error).tolist()


def test_the_sampler_has_the_moments_of_its_target():
    states, chance = sample(0.75)
    assert 0.6 < chance < 0.95
    check_moments(states)


def forgetting_the_kinetic_energy(current, proposed, uniform):
    nothing = torch.zeros_like(uniform, dtype=torch.float64)
    current, proposed = (state._replace(kinetic_energy=nothing) for state in (current, proposed))
    return ops.metropolis_select(current, proposed, uniform)


def accepting_all(current, proposed, uniform):
    return ops.metropolis_select(current, proposed, torch.zeros_like(uniform) - 1)


def one_coin_for_all(current, proposed, uniform):
    means = (state.energy.mean() + state.kinetic_energy.mean() for state in (current, proposed))
    before, after = (
        mean.expand_as(state.energy) for mean, state in zip(means, (current, proposed), strict=True)
    )
    nothing = torch.zeros_like(before)
    old, new = (
        current._replace(energy=before, kinetic_energy=nothing),
        proposed._replace(energy=after, kinetic_energy=nothing),
    )
    return ops.metropolis_select(old, new, uniform[:1].expand_as(uniform))


@pytest.mark.xfail(strict=True, reason="shows that the test of the moments can fail")
@pytest.mark.parametrize("broken", [forgetting_the_kinetic_energy, accepting_all, one_coin_for_all])
def test_a_broken_acceptance_is_found(broken):
    check_moments(sample(0.75, select=broken)[0])


def test_acceptance_goes_to_one_with_the_step_size():
    chances = [sample(step, rounds=40)[1] for step in (1.0, 0.5, 0.1, 0.01)]
    assert chances == sorted(chances) and chances[0] < 0.9 and chances[-1] > 0.9999


def test_langevin_has_its_own_biased_variance():
    step_size, variance, chains = 0.5, 1.0, 4096
    x, total = torch.randn(chains, 1, dtype=torch.float64), torch.zeros(chains, dtype=torch.float64)
    seed = list(range(chains))
    for step in range(120):
        x = ops.langevin(x, -x / variance, step_size, seed=seed, stream=(1, step))
        total += x[:, 0] ** 2 / 100 if step >= 20 else 0
    law = variance / (1 - step_size / (2 * variance))
    error = total.std() / math.sqrt(chains)
    assert abs(total.mean() - law) < 5 * error and abs(total.mean() - variance) > 20 * error


def test_a_metropolis_test_makes_langevin_exact():
    step_size, chains = 0.5, 4096
    generator = torch.Generator().manual_seed(2)
    x, total = torch.randn(chains, 1, dtype=torch.float64), torch.zeros(chains, dtype=torch.float64)
    seed = list(range(chains))
    for step in range(120):
        new = ops.langevin(x, -x, step_size, seed=seed, stream=(1, step))
        there = ops.kinetic_energy(new - x + step_size * x, mass=2 * step_size)
        back = ops.kinetic_energy(x - new + step_size * new, mass=2 * step_size)
        current = PhasePoint(x, None, x[:, 0] ** 2 / 2, there)
        proposed = PhasePoint(new, None, new[:, 0] ** 2 / 2, back)
        chosen = ops.metropolis_select(
            current, proposed, torch.rand(chains, generator=generator), out=proposed
        )
        x = chosen.point.position
        total += x[:, 0] ** 2 / 100 if step >= 20 else 0
        if step == 119:
            assert 0.88 < chosen.probability.mean() < 0.95
    assert abs(total.mean() - 1) < 5 * total.std() / math.sqrt(chains)
