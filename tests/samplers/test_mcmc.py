# SPDX-License-Identifier: Apache-2.0
"""Metropolis kernels meet the law of their target; unadjusted ones their own; broken tests are found out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from intarsia import denoisers, ops, samplers, schedules
from intarsia.ops import PhasePoint
from intarsia.samplers import HMC, MALA, UHMC, Adapted, _target, mcmc
from intarsia.types import State
from torch import Tensor

F64 = torch.float64
SIGMA = 0.5
PRECISION = torch.tensor([[2.0, -0.8], [-0.8, 1.0]], dtype=F64)
MEAN = torch.tensor([0.5, -1.0], dtype=F64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated() -> denoisers.Potential:
    """A 2-D Gaussian whose density at every level is the same, so that only the kernel is tested."""

    def energy(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        apart = x[..., 0] - MEAN
        return ((apart @ PRECISION) * apart).sum(1) / 2

    return denoisers.Potential(energy)


def isotropic(variance: float, length: int = 1) -> denoisers.Potential:
    return denoisers.Potential(lambda x, sigma, cond=None: x.square().flatten(1).sum(1) / (2 * variance))


def chains(kernel: Any, target: Any, x: Tensor, rounds: int, seed: int = 1) -> tuple[Tensor, float]:
    """States of the last three quarters [T, chains, D], and the mean chance of acceptance."""
    state, generator, kept, chance = State(x, sigma=SIGMA), seeded(seed), [], 0.0
    for number in range(rounds):
        state, info = kernel.step(target, state, SIGMA, SIGMA, None, generator)
        chance += float(info.acceptance.mean()) / rounds if info.acceptance is not None else 0.0
        if number >= rounds // 4:
            kept.append(state.x.flatten(1))
    return torch.stack(kept), chance


def check_moments(states: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Mean and covariance within five standard errors, which the independent chains tell."""
    count = states.shape[1]
    centred = states - mean
    first = centred.mean(0)
    second = torch.einsum("tci,tcj->cij", centred, centred) / len(states) - covariance
    for deviation in (first, second):
        error = deviation.std(0) / math.sqrt(count)
        assert bool((deviation.mean(0).abs() < 5 * error).all()), (deviation.mean(0) / error).tolist()


KERNELS = {
    "MALA": MALA(1.6, 2),
    "HMC": HMC(1.6, 1, 3, damping=0.4),
    "HMC of mass 2": HMC(2.0, 2, 2, mass=2.0),
    "MALA by path": MALA(1.6, 2, energy="path"),
}


def begin(count: int = 512) -> Tensor:
    return torch.randn(count, 2, 1, dtype=F64, generator=seeded(9))


@pytest.mark.parametrize("name", ["MALA", "HMC", "HMC of mass 2"])
def test_moments_of_a_correlated_gaussian(name: str) -> None:
    states, chance = chains(KERNELS[name], correlated(), begin(), 200)
    assert 0.5 < chance < 0.98
    check_moments(states, MEAN, PRECISION.inverse())


def test_the_path_integral_of_a_gaussian_is_its_energy() -> None:
    """The trapezoid rule is exact for linear scores along a line, so the chains are the same."""
    for kernel in (MALA(1.6, 3), HMC(1.6, 2, 1)):
        exact, path = (
            replace(kernel, energy=energy).step(
                correlated(), State(begin(64), sigma=SIGMA), SIGMA, SIGMA, None, seeded()
            )[0]
            for energy in ("exact", "path")
        )
        torch.testing.assert_close(exact.x, path.x)


def test_a_path_needs_no_energy() -> None:
    target = correlated()

    def bare(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return target(x, sigma, cond).detach()

    states, _ = chains(KERNELS["MALA by path"], bare, begin(256), 120)
    check_moments(states, MEAN, PRECISION.inverse())


@pytest.mark.parametrize("kernel", [MALA(0.5, 1), HMC(0.6, 1, 3)])
def test_moments_of_a_mixture(kernel: Any) -> None:
    """Three unequal modes in one dimension: mean and variance, and the weight of each mode."""
    means, weights = torch.tensor([-1.0, 0.2, 1.5], dtype=F64), torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    std = 0.4

    def energy(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        apart = (x[:, 0] - means) / std
        return -torch.logsumexp(weights.log() - apart.square() / 2, 1)

    choice = torch.multinomial(weights, 1000, replacement=True, generator=seeded(3))
    x = (means[choice] + std * torch.randn(1000, dtype=F64, generator=seeded(4))).reshape(-1, 1, 1)
    states, _ = chains(kernel, denoisers.Potential(energy), x, 80)
    mean = (weights * means).sum()
    variance = (weights * (means - mean).square()).sum() + std**2
    check_moments(states, mean[None], variance[None, None])


def test_moments_in_a_hundred_dimensions() -> None:
    variance = torch.linspace(0.3, 2.0, 100, dtype=F64)
    target = denoisers.Potential(lambda x, sigma, cond=None: (x[..., 0].square() / (2 * variance)).sum(1))
    x = (variance.sqrt() * torch.randn(64, 100, dtype=F64, generator=seeded(5)))[..., None]
    states, chance = chains(HMC(0.5, 1, 5), target, x, 60)
    assert 0.5 < chance < 1
    ratio = states.square().mean((0, 1)) / variance
    spread = states.square().mean(0).std(0) / variance / 8
    assert float(((ratio - 1) / spread).abs().max()) < 5


@pytest.mark.parametrize(
    ("h", "chance", "width"), [(0.5, 0.92, 0.01), (0.1, 0.993, 0.003), (0.01, 0.9998, 2e-4)]
)
def test_known_acceptance_of_mala(h: float, chance: float, width: float) -> None:
    """On N(0, 1) in equilibrium."""
    x = torch.randn(20_000, 1, 1, dtype=F64, generator=seeded(6))
    kernel = MALA(h, 4, schedule=lambda sigma: 1.0)
    _, info = kernel.step(isotropic(1.0), State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded(7))
    assert info.acceptance is not None
    assert float(info.acceptance.mean()) == pytest.approx(chance, abs=width)


@pytest.mark.parametrize("eps", [0.3, 0.8])
def test_unadjusted_hmc_meets_its_own_law(eps: float) -> None:
    """`s2 / (1 - eps^2 / (4 M s2))`, within five standard errors."""
    variance, mass, count = 0.8, 1.5, 10_000
    want = variance / (1 - eps**2 / (4 * mass * variance))
    kernel = UHMC(eps, 60, 2, mass=mass, schedule=lambda sigma: 1.0)
    x = torch.zeros(count, 1, 1, dtype=F64)
    state, info = kernel.step(isotropic(variance), State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded(8))
    assert info.evaluations == 121 and info.acceptance is None
    error = want * math.sqrt(2 / count)
    assert abs(float(state.x.var()) - want) < 5 * error
    assert eps < 0.5 or abs(want - variance) > 5 * error


def test_unadjusted_kernels_agree_where_they_should() -> None:
    """One leapfrog of size eps is one Langevin step of h = eps^2 / 2, noise and all."""
    x = torch.randn(16, 1, 4, dtype=F64, generator=seeded(10))
    one = UHMC(0.4, 1, 1, schedule=lambda sigma: 1.0)
    other = samplers.ULA(0.08, schedule=lambda sigma: 1.0)
    first, second = (
        kernel.step(isotropic(0.7), State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded(11))[0].x.detach()
        for kernel in (one, other)
    )
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kernel", [MALA(40.0, 3), HMC(6.0, 3, 3, damping=0.5)])
def test_a_rejected_sample_keeps_its_bits(kernel: Any) -> None:
    x = begin(256).float()
    target = denoisers.Potential(lambda x, sigma, cond=None: x.square().flatten(1).sum(1) * 4)
    state, info = kernel.step(target, State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded())
    same = (state.x == x).flatten(1).all(1)
    assert info.acceptance is not None
    assert bool(same.any()) and bool((info.acceptance[same] < 1).all())
    assert not bool(same.all()) or float(info.acceptance.max()) < 0.01


def test_every_sample_is_judged_by_itself() -> None:
    """The same sample alone and in company takes the same way, with a generator for each."""
    x = begin(6)
    for kernel in (KERNELS["MALA"], KERNELS["HMC"]):
        together, _ = kernel.step(
            correlated(), State(x, sigma=SIGMA), SIGMA, SIGMA, None, [seeded(i) for i in range(6)]
        )
        for i in range(6):
            alone, _ = kernel.step(
                correlated(), State(x[i : i + 1], sigma=SIGMA), SIGMA, SIGMA, None, [seeded(i)]
            )
            torch.testing.assert_close(alone.x[0], together.x[i])


@pytest.mark.parametrize("kernel", [MALA(0.0), HMC(0.0), UHMC(0.0)])
def test_a_step_of_size_0_is_the_identity(kernel: Any) -> None:
    x = begin(8)
    state, info = kernel.step(correlated(), State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded())
    assert torch.equal(state.x, x)
    assert info.acceptance is None or bool((info.acceptance == 1).all())


def test_acceptance_goes_to_one_with_the_step() -> None:
    rates = []
    for size in (0.8, 0.2, 0.05):
        _, info = HMC(size, 2, 3).step(
            correlated(), State(begin(), sigma=SIGMA), SIGMA, SIGMA, None, seeded()
        )
        assert info.acceptance is not None and info.energy_error is not None
        rates.append((float(info.acceptance.mean()), float(info.energy_error.mean())))
    assert rates[0][0] < rates[1][0] < rates[2][0] and rates[2][0] > 0.999
    assert rates[0][1] > rates[1][1] > rates[2][1]


def test_divergences_are_counted_and_rejected() -> None:
    x = begin(32)
    steep = denoisers.Potential(lambda x, sigma, cond=None: x.square().flatten(1).sum(1) * 1e6)
    state, info = HMC(10.0, 1, 3).step(steep, State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded())
    assert info.divergences is not None and bool((info.divergences == 1).all())
    assert torch.equal(state.x, x) and torch.isfinite(info.energy_error).all()  # type: ignore[arg-type]


def without_the_kinetic_energy(current: PhasePoint, proposed: PhasePoint, coin: Tensor) -> Any:
    nothing = torch.zeros_like(coin)
    current, proposed = (state._replace(kinetic_energy=nothing) for state in (current, proposed))
    return ops.metropolis_select(current, proposed, coin)


def accepting_all(current: PhasePoint, proposed: PhasePoint, coin: Tensor) -> Any:
    return ops.metropolis_select(current, proposed, torch.full_like(coin, -1.0))


def one_coin(current: PhasePoint, proposed: PhasePoint, coin: Tensor) -> Any:
    means = [(s.energy + s.kinetic_energy).mean().expand_as(coin) for s in (current, proposed)]
    nothing = torch.zeros_like(coin)
    old, new = (
        state._replace(energy=mean.contiguous(), kinetic_energy=nothing)
        for state, mean in zip((current, proposed), means, strict=True)
    )
    return ops.metropolis_select(old, new, coin[:1].expand_as(coin).contiguous())


@pytest.mark.parametrize("kernel", ["MALA", "HMC"])
@pytest.mark.parametrize("broken", [without_the_kinetic_energy, accepting_all, one_coin])
def test_a_broken_acceptance_fails(
    kernel: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the moments finds every acceptance that is broken on purpose."""
    wrapped = broken

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return wrapped if name == "metropolis_select" else getattr(ops, name)

    monkeypatch.setattr(mcmc, "ops", Broken())
    states, _ = chains(replace(KERNELS[kernel], step_size=1.9), correlated(), begin(), 200)
    with pytest.raises(AssertionError):
        check_moments(states, MEAN, PRECISION.inverse())


def test_the_published_exponent_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dividing the proposal's exponent by 2h^2 in the place of 4h, as public code does."""

    def wrong(x: Tensor, y: Tensor, gradient: Tensor, h: float) -> Tensor:
        return (y - x - h * gradient).square().flatten(1).sum(1) / (2 * h**2)

    monkeypatch.setattr(mcmc, "_way", wrong)
    x = torch.randn(512, 1, 1, dtype=F64, generator=seeded(2))
    states, _ = chains(MALA(0.1, 4, schedule=lambda sigma: 1.0), isotropic(1.0), x, 200)
    with pytest.raises(AssertionError):
        check_moments(states, torch.zeros(1, dtype=F64), torch.ones(1, 1, dtype=F64))


@pytest.mark.parametrize(("kernel", "target"), [(MALA(3.0, 20), 0.6), (HMC(0.1, 20, 3), 0.7)])
def test_adapted_step_sizes_reach_their_acceptance(kernel: Any, target: float) -> None:
    """Where acceptance falls with the step, as it does in many dimensions of different widths."""
    variance = torch.linspace(0.3, 2.0, 50, dtype=F64)
    D = denoisers.Potential(lambda x, sigma, cond=None: (x[:, 0].square() / (2 * variance)).sum(1))
    x = variance.sqrt() * torch.randn(256, 1, 50, dtype=F64, generator=seeded(5))
    _, info = Adapted(kernel, rounds=60).step(D, State(x, sigma=SIGMA), SIGMA, SIGMA, None, seeded())
    assert info.acceptance is not None and info.step_size is not None
    assert float(info.acceptance.mean()) == pytest.approx(target, abs=0.06)
    assert info.step_size != kernel.step_size


def test_uniform_numbers_are_uniform() -> None:
    numbers = _target.uniform(torch.zeros(20_000, 1, 1), seeded())
    assert abs(float(numbers.mean()) - 0.5) < 0.01 and abs(float(numbers.var()) - 1 / 12) < 0.002


def test_annealed_in_a_run_with_canvas_noise() -> None:
    """A corrector of a run: the data's law at the end, reproducible from a seed."""

    def energy(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return (x - 1).square().flatten(1).sum(1) / (2 * (0.25 + sigma**2))

    D = denoisers.Potential(energy)
    sigmas = schedules.karras(12, 0.01, 10.0)
    count = 2048
    x = sigmas[0] * torch.randn(count, 1, 1, dtype=F64, generator=seeded(4))

    def run() -> Tensor:
        return samplers.sample(
            D, x, sigmas, samplers.Euler(), corrector=HMC(0.6, 2), noise="canvas", seed=list(range(count))
        )

    got = run()
    assert torch.equal(got, run())
    assert abs(float(got.mean()) - 1) < 5 * 0.5 / math.sqrt(count)
    assert float(got.var()) == pytest.approx(0.25, rel=0.2)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: MALA(-1.0), "MALA: step_size must be a finite number not below 0, got -1.0"),
    (lambda: HMC(num_steps=0), "HMC: num_steps must be at least 1, got 0"),
    (lambda: HMC(num_leapfrogs=0), "HMC: num_leapfrogs must be at least 1, got 0"),
    (lambda: UHMC(mass=0.0), "UHMC: mass must be a finite number above 0, got 0.0"),
    (lambda: HMC(damping=1.5), "HMC: damping must be within 0 and 1, got 1.5"),
    (lambda: MALA(energy="guess"), "MALA: energy must be 'exact' or 'path', got 'guess'"),  # type: ignore[arg-type]
    (
        lambda: MALA().step(lambda x, s, c=None: x, State(begin(2)), 1.0, 1.0),
        "MALA: denoiser must have an energy for its Metropolis test, got <lambda>.*Take ULA",
    ),
    (
        lambda: HMC().step(lambda x, s, c=None: x, State(begin(2)), 1.0, 1.0),
        "HMC: denoiser must have an energy.*Take UHMC.*energy='path'",
    ),
    (lambda: HMC().step(correlated(), State(begin(2)), 0.0, 0.0), "HMC: sigma must be above 0, got 0.0"),
    (lambda: Adapted(samplers.ULA()), "Adapted: kernel must be MALA or HMC, got ULA"),  # type: ignore[arg-type]
    (lambda: Adapted(MALA(), target=1.0), "Adapted: target must be within 0 and 1, got 1.0"),
    (lambda: Adapted(MALA(), rounds=0), "Adapted: rounds must be at least 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
