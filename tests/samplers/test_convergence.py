# SPDX-License-Identifier: Apache-2.0
"""Every solver against closed-form answers: order, marginals, and a mixture's modes."""

from __future__ import annotations

import math

import pytest
import torch
from analytic import Gaussian, GaussianField, Mixture
from intarsia import samplers, schedules
from intarsia.types import State

DETERMINISTIC = {
    "euler": (samplers.Euler(), 1),
    "ddim": (samplers.DDIM(), 1),
    "ancestral-0": (samplers.EulerAncestral(eta=0.0), 1),
    "heun": (samplers.Heun(), 2),
    "dpmpp2m": (samplers.DPMpp2M(), 2),
}


def errors(solver: object, problem: object, x: torch.Tensor, steps: list[int]) -> list[float]:
    found = []
    for n in steps:
        sigmas = schedules.karras(n, 0.02, 10.0)[:-1]
        out = samplers.sample(problem, x, sigmas, solver)
        found.append((out - problem.solution(x, 10.0, 0.02)).abs().max().item())
    return found


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("problem", ["gaussian", "field"])
def test_order_of_convergence(name: str, problem: str) -> None:
    solver, order = DETERMINISTIC[name]
    g = torch.Generator().manual_seed(0)
    if problem == "gaussian":
        target, x = Gaussian(), Gaussian().draw((2, 1, 8), 10.0, g)
    else:
        target = GaussianField.autoregressive(8)
        x = 10.0 * torch.randn(2, 1, 8, generator=g, dtype=torch.float64)
    found = errors(solver, target, x, [65, 129, 257])
    slopes = [math.log2(a / b) for a, b in zip(found[:-1], found[1:], strict=True)]
    assert slopes == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_step_to_0_is_the_estimate(name: str) -> None:
    solver, _ = DETERMINISTIC[name]
    x = torch.randn(2, 1, 4)
    out = samplers.sample(Gaussian(), x, [0.5, 0.0], solver)
    assert torch.equal(out, Gaussian()(x, torch.tensor([0.5, 0.5])))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_identity_stays_where_it_is(name: str) -> None:
    x = torch.randn(2, 1, 4, dtype=torch.float64)
    out = samplers.sample(lambda x, sigma, cond=None: x, x, schedules.karras(12), DETERMINISTIC[name][0])
    torch.testing.assert_close(out, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_no_digits_are_lost_at_large_sigma(name: str) -> None:
    constant = lambda x, sigma, cond=None: torch.full_like(x, 0.1)  # noqa: E731
    x = 1e6 * torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    sigmas = [1e6, 1e3, 1.0, 1e-3]
    low, high = (samplers.sample(constant, v, sigmas, DETERMINISTIC[name][0]) for v in (x, x.double()))
    # Heun's own formula multiplies rounding by s_hat / s', a thousand here.
    assert (low - high).abs().max() < (1e-3 if name == "heun" else 1e-6)


def ancestral_variance(levels: list[float], variance: float, eta: float, s_noise: float = 1.0) -> float:
    """Exact recursion of the variance of an ancestral run, on N(0, variance)."""
    now = variance + levels[0] ** 2
    for s, t in zip(levels[:-1], levels[1:], strict=True):
        up = min(t, eta * math.sqrt(t**2 * (s**2 - t**2) / s**2))
        ratio = math.sqrt(t**2 - up**2) / s
        now *= (ratio + (1 - ratio) * variance / (variance + s**2)) ** 2
        now += (up * s_noise) ** 2
    return now


def assert_variance(x: torch.Tensor, expected: float) -> None:
    n = x.numel()
    assert x.var().item() == pytest.approx(expected, abs=5 * expected * math.sqrt(2 / n))
    assert x.mean().item() == pytest.approx(0, abs=5 * math.sqrt(expected / n))


@pytest.mark.parametrize(
    ("solver", "eta", "s_noise"),
    [
        (samplers.DDIM(1.0), 1.0, 1.0),
        (samplers.DDIM(0.5), 0.5, 1.0),
        (samplers.EulerAncestral(), 1.0, 1.0),
        (samplers.EulerAncestral(eta=1.3, s_noise=1.05), 1.3, 1.05),
        (samplers.EulerAncestral(eta=5.0), 5.0, 1.0),
    ],
)
def test_ancestral_variance_follows_its_recursion(solver: object, eta: float, s_noise: float) -> None:
    g = torch.Generator().manual_seed(1)
    sigmas = schedules.karras(12, 0.05, 5.0)[:-1]
    problem = Gaussian(0.0, 1.0)
    x = samplers.sample(problem, problem.draw((1, 1, 40_000), 5.0, g), sigmas, solver, generator=g)
    assert_variance(x, ancestral_variance(sigmas.tolist(), 1.0, eta, s_noise))


def test_the_recursion_ends_in_the_true_variance_as_steps_are_added() -> None:
    true = 1.0 + 0.05**2
    gaps = [
        abs(ancestral_variance(schedules.karras(n, 0.05, 5.0)[:-1].tolist(), 1.0, 1.0) - true)
        for n in (50, 800)
    ]
    assert gaps[1] < 0.01 < gaps[0] and gaps[0] / gaps[1] == pytest.approx(16, rel=0.1)


def test_churn_widens_a_gaussian_by_what_the_algorithm_says() -> None:
    solver, problem = samplers.Heun(s_churn=20, s_tmin=0.1, s_tmax=3.0, s_noise=1.01), Gaussian(0.0, 1.0)
    sigmas = schedules.karras(24, 0.05, 5.0)[:-1]
    variance, levels = 1.0 + 5.0**2, sigmas.tolist()
    for s, t in zip(levels[:-1], levels[1:], strict=True):
        hat = s * (1 + (min(20 / 23, math.sqrt(2) - 1) if 0.1 <= s <= 3.0 else 0))
        d = hat / (1 + hat**2)  # slope of (x - D) / s on this problem, per unit of x
        euler = 1 + (t - hat) * d
        factor = 1 + (t - hat) / 2 * (d + euler * t / (1 + t**2))
        variance = factor**2 * (variance + (hat**2 - s**2) * 1.01**2)
    g = torch.Generator().manual_seed(2)
    x = samplers.sample(problem, problem.draw((1, 1, 40_000), 5.0, g), sigmas, solver, generator=g)
    assert_variance(x, variance)
    assert variance > 1.04 * (1 + 0.05**2)


@pytest.mark.parametrize("solver", [samplers.Heun(), samplers.DPMpp2M(), samplers.EulerAncestral()], ids=repr)
def test_modes_of_a_mixture_get_their_share_and_their_width(solver: object) -> None:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.5, -1.0]])
    problem = Mixture(means, 0.1, torch.tensor([0.5, 0.3, 0.2]))
    g, n = torch.Generator().manual_seed(3), 8000
    sigmas = schedules.karras(60, 0.01, 40.0)
    x = samplers.sample(problem, sigmas[0] * torch.randn(n, 2, 1, generator=g), sigmas, solver, generator=g)
    nearest = torch.cdist(x[..., 0], means).argmin(1)
    for mode, share in enumerate((0.5, 0.3, 0.2)):
        of_mode = x[nearest == mode][..., 0]
        assert len(of_mode) / n == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))
        torch.testing.assert_close(
            of_mode.mean(0), means[mode], rtol=0, atol=5 * 0.1 / math.sqrt(len(of_mode))
        )
        assert of_mode.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.1)


def test_gamma_of_the_paper() -> None:
    heun = samplers.Heun(s_churn=20, s_tmin=0.05, s_tmax=50)
    assert heun.gamma(1.0, 150) == pytest.approx(0.1333, abs=1e-4)
    assert heun.gamma(1.0, 10) == math.sqrt(2) - 1
    assert heun.gamma(0.04, 150) == 0 == heun.gamma(51.0, 150)
    assert heun.gamma(0.05, 150) == heun.gamma(50, 150) > 0


def test_heun_skips_its_correction_only_on_the_step_to_0() -> None:
    calls: list[float] = []
    D = lambda x, sigma, cond=None: calls.append(round(sigma[0].item(), 4)) or x / 2  # noqa: E731
    run = list(samplers.trajectory(D, torch.ones(1, 1, 2), [4.0, 2.0, 1.0, 0.0], samplers.Heun()))
    assert calls == [4, 2, 2, 1, 1] and [info.evaluations for _, info in run] == [2, 2, 1]


def test_heun_is_the_papers_algorithm_letter_by_letter() -> None:
    problem, solver = Gaussian(), samplers.Heun(s_churn=3.0, s_noise=1.003)
    x = problem.draw((2, 1, 5), 8.0, torch.Generator().manual_seed(0))
    t = [8.0, 5.0, 2.0, 0.3, 0.0]
    g, x_i = torch.Generator().manual_seed(7), x
    for i in range(4):
        gamma = min(3.0 / 4, math.sqrt(2) - 1)
        t_hat = t[i] + gamma * t[i]
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
        x_hat = x_i + (t_hat**2 - t[i] ** 2) ** 0.5 * 1.003 * noise
        d = (x_hat - problem(x_hat, torch.tensor([t_hat] * 2))) / t_hat
        x_i = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (x_i - problem(x_i, torch.tensor([t[i + 1]] * 2))) / t[i + 1]
            x_i = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_prime / 2)
    out = samplers.sample(problem, x, t, solver, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(out, x_i, rtol=1e-6, atol=1e-6)


def test_churn_by_hand_needs_the_number_of_steps() -> None:
    with pytest.raises(ValueError, match=r"Heun: state\.num_steps must be set .* got None\. Use samplers"):
        samplers.Heun(s_churn=1.0).step(Gaussian(), State(torch.zeros(1, 1, 1)), 2.0, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.Heun(s_churn=-1), r"Heun: s_churn must not be negative, got -1"),
        (lambda: samplers.Heun(s_noise=math.nan), r"Heun: s_noise must not be negative, got nan"),
        (lambda: samplers.DDIM(1.5), r"DDIM: eta must be within 0 and 1, got 1\.5\. 0 is deterministic"),
        (lambda: samplers.EulerAncestral(-0.1), r"EulerAncestral: eta must be finite .* got -0\.1"),
        (lambda: samplers.EulerAncestral(s_noise=math.inf), r"EulerAncestral: s_noise must be .* got inf"),
    ],
)
def test_bad_parameters_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
