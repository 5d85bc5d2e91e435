# SPDX-License-Identifier: Apache-2.0
"""Langevin steps: their own stationary law, and the repair of a Bethe chain in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from analytic import GaussianField
from intarsia import compose, layout, samplers, schedules
from intarsia.samplers import ULA
from intarsia.types import State
from torch import Tensor

F64 = torch.float64


def gaussian(variance: float) -> Any:
    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return x * (variance / (variance + sigma**2)).reshape(-1, 1, 1)

    return D


@pytest.mark.parametrize("step_size", [0.1, 0.5, 0.9])
def test_stationary_variance_is_its_own_biased_one(step_size: float) -> None:
    """`s2 / (1 - h / (2 s2))` within 5 standard errors, s2 the variance at the level."""
    sigma, variance, count, steps = 0.6, 0.3, 10_000, 200
    total, h = variance + sigma**2, step_size * sigma**2
    want = total / (1 - h / (2 * total))
    state = State(torch.zeros(1, 1, count, dtype=F64), sigma=sigma)
    generator = torch.Generator().manual_seed(0)
    state, info = ULA(step_size, steps).step(gaussian(variance), state, sigma, sigma, None, generator)
    assert info.evaluations == steps and info.sigma == info.sigma_next == sigma
    error = want * (2 / count) ** 0.5
    assert abs(float(state.x.var()) - want) < 5 * error
    assert abs(float(state.x.mean())) < 5 * (want / count) ** 0.5
    # The unbiased variance is a different number wherever the bias can be told from chance.
    assert step_size < 0.5 or abs(want - total) > 5 * error


def test_a_step_of_size_0_is_the_identity() -> None:
    x = torch.randn(2, 1, 8)
    state, _ = ULA(0.0).step(gaussian(1.0), State(x, sigma=1.0), 1.0, 1.0, None, None)
    assert torch.equal(state.x, x)


def test_a_schedule_of_your_own() -> None:
    x = torch.randn(1, 1, 64, dtype=F64)
    sizes: list[float] = []

    def schedule(sigma: float) -> float:
        sizes.append(sigma)
        return 0.25

    a, b = (
        solver.step(gaussian(1.0), State(x, sigma=2.0), 2.0, 2.0, None, torch.Generator().manual_seed(1))[0].x
        for solver in (ULA(0.2, schedule=schedule), ULA(0.2 * 0.25 / 4))
    )
    torch.testing.assert_close(a, b)
    assert sizes == [2.0]


def chain_law(corrector: ULA | None, solver: Any, steps: int) -> float:
    """KL of what a sampler makes of the AR(1) chain from exact marginals, by its covariance, without samples.

    Every step is linear in the canvas and in its noise, so its matrix is what it makes of unit vectors, and
    its noise's covariance what it adds.
    """
    length, patch, overlap, correlation = 32, 8, 2, 0.9
    truth = GaussianField.autoregressive(length, correlation).covariance
    regions = layout.chain(length, patch, patch - overlap)

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        # Marginals of a stationary chain are the same wherever they are cut.
        part = truth[: x.shape[-1], : x.shape[-1]]
        gain = part @ torch.linalg.inv(part + sigma[0] ** 2 * torch.eye(x.shape[-1], dtype=F64))
        return x @ gain

    composite = compose.bethe(D, regions)
    basis = torch.eye(length, dtype=F64)[:, None]
    sigmas = schedules.karras(steps, 0.02, 80.0).tolist()
    covariance = sigmas[0] ** 2 * torch.eye(length, dtype=F64)
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        kinds = [(solver, sigma, after)] + ([(corrector, after, after)] * bool(corrector and after))
        for kind, high, low in kinds:
            moved, noise = linear(kind, composite, basis, high, low)
            covariance = moved @ covariance @ moved.T + noise * torch.eye(length, dtype=F64)
    solved = torch.linalg.solve(truth, covariance)
    return float(0.5 * (solved.trace() - length - torch.linalg.slogdet(solved)[1]))


def linear(kind: Any, D: Any, basis: Tensor, high: float, low: float) -> tuple[Tensor, float]:
    """The matrix of one step, and the variance of the noise that it adds."""

    class Silent:
        draws: list[Tensor] = []

        def normal_like(self, x: Tensor, /) -> Tensor:
            return torch.zeros_like(x)

    class Loud:
        def normal_like(self, x: Tensor, /) -> Tensor:
            return torch.ones_like(x)

    with torch.no_grad():
        moved = kind.step(D, State(basis, sigma=high), high, low, None, Silent())[0].x
        zero = torch.zeros_like(basis[:1])
        added = kind.step(lambda x, sigma, cond=None: 0 * x, State(zero, sigma=high), high, low, None, Loud())
    return moved[:, 0].T, float(added[0].x[0, 0, 0]) ** 2


def test_a_bethe_chain_and_its_repair_in_closed_form() -> None:
    """n = 32, patch 8, overlap 2, a = .9: KL .89 by the flow, .24 with noise, 50 times less with Langevin."""
    flow = chain_law(None, samplers.Euler(), 400)
    noisy = chain_law(None, samplers.EulerAncestral(), 400)
    assert flow == pytest.approx(0.889, abs=0.01)
    assert noisy == pytest.approx(0.240, abs=0.01)
    corrected = chain_law(ULA(0.9), samplers.EulerAncestral(), 400)
    assert corrected < noisy / 50, (corrected, noisy)
    assert chain_law(ULA(0.9), samplers.Euler(), 400) < flow / 50


def test_in_a_run_it_never_acts_at_0_and_takes_canvas_noise() -> None:
    levels: list[float] = []

    class Watched(ULA):
        def step(self, D: Any, state: State, sigma: float, *rest: Any) -> Any:  # type: ignore[override]
            levels.append(sigma)
            return super().step(D, state, sigma, *rest)

    sigmas = schedules.karras(5, 0.1, 5.0)
    x = 5 * torch.randn(1, 2, 16)

    def run() -> Tensor:
        return samplers.sample(
            gaussian(1.0), x, sigmas, samplers.Euler(), corrector=Watched(), noise="canvas", seed=3
        )

    assert torch.equal(run(), run())
    assert levels == sigmas[1:-1].tolist() * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ULA(-0.1), "step_size must be a finite number not below 0, got -0.1"),
        (lambda: ULA(num_steps=0), "num_steps must be at least 1, got 0"),
        (
            lambda: ULA().step(gaussian(1.0), State(torch.zeros(1, 1, 2)), 0.0, 0.0, None, None),
            "sigma must be above 0, got 0.0",
        ),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
