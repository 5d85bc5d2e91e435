# SPDX-License-Identifier: Apache-2.0
"""AND, OR and NOT: closed forms, energies whose gradients are the scores, nesting, regions, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from intarsia import Factor, compose, denoisers, guidance, layout, samplers, schedules
from intarsia.compose import Concept
from intarsia.types import State
from torch import Tensor

F64 = torch.float64


def gaussian(mean: float, variance: float = 1.0) -> denoisers.Potential:
    """N(mean, variance) in every element, noised to the level."""

    def energy(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return (x - mean).square().flatten(1).sum(1) / (2 * (variance + sigma**2))

    return denoisers.Potential(energy)


def conditional() -> denoisers.Potential:
    """A network of means: the condition says which; 0 is the null condition."""

    def energy(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        mean = cond["mean"].to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        return (x - mean).square().flatten(1).sum(1) / (2 * (0.5 + sigma**2))

    return denoisers.Potential(energy)


def told(mean: float) -> dict[str, Tensor]:
    return {"mean": torch.tensor([mean], dtype=F64)}


class Net(torch.nn.Module):
    """Two convolutions with a condition, for energies that are not quadratic."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Parameter(0.3 * torch.randn(4, 2, 3, generator=generator, dtype=F64))
        self.second = torch.nn.Parameter(0.3 * torch.randn(2, 4, 3, generator=generator, dtype=F64))

    def forward(self, x: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        hidden = torch.tanh(torch.nn.functional.conv1d(x, self.first, padding=1) + time.reshape(-1, 1, 1))
        return torch.nn.functional.conv1d(hidden, self.second, padding=1)


def network(form: str = "dae") -> denoisers.EnergyDenoiser:
    return denoisers.EnergyDenoiser(Net(), form=form, time=torch.log)  # type: ignore[arg-type]


A, B, C, D = gaussian(-1.0), gaussian(0.5, 2.0), gaussian(2.0, 0.5), gaussian(4.0)

OPERATORS: dict[str, Any] = {
    "l2": network("l2"),
    "dae": network("dae"),
    "ip": network("ip"),
    "product": compose.product(A, B, C),
    "powers": compose.product(A, network(), weights=[0.5, 2.0]),
    "negation": compose.negation(A, B, alpha=0.3),
    "mixture": compose.mixture(A, B, C, log_weights=[0.0, -1.0, 0.5]),
    "mixture of levels": compose.mixture(A, B, log_weights=lambda s: torch.stack([s, -s], 1)),
    "warm mixture": compose.mixture(A, C, temperature=2.0),
    "nested": Concept(A) & (Concept(B) | Concept(network())) & ~Concept(D) * 0.2,
    "mixture of products": compose.mixture(compose.product(A, B), compose.negation(C, D)),
    "guided": guidance.CFG(conditional(), told(0.0), 3.0),
    "conjunction": compose.conjunction(
        conditional(), [(told(1.0), 2.0), (told(-1.0), -0.5)], uncond=told(0.0)
    ),
    "bethe": compose.bethe(network(), layout.chain(10, 4, 2)),
    "operator in a Factor": compose.bethe(compose.product(A, network()), layout.loop(10, 4, 2)),
    "nested in a Factor": compose.bethe(Concept(A) & (Concept(B) | Concept(C)), layout.chain(10, 4, 2)),
    "composites in a product": compose.product(compose.bethe(A, layout.chain(10, 4, 2)), network()),
}


@pytest.mark.parametrize("sigma", [0.1, 1.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_energy_and_score_agree(name: str, sigma: float) -> None:
    """Finite differences of the energy along random directions, against the estimate."""
    operator = OPERATORS[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, 10, generator=generator, dtype=F64)
    levels, cond = torch.full((3,), sigma, dtype=F64), told(0.7) if name == "guided" else None
    with torch.no_grad():
        score = (operator(x, levels, cond) - x) / sigma**2
        for _ in range(3):
            along = torch.randn(3, 2, 10, generator=generator, dtype=F64)
            step = 1e-5
            up, down = (operator.energy(x + sign * step * along, levels, cond) for sign in (1, -1))
            slope = (up - down) / (2 * step)
            torch.testing.assert_close(-slope, (score * along).flatten(1).sum(1), rtol=2e-5, atol=1e-6)
        energy, estimate = (
            operator.with_energy(x, levels, cond)
            if hasattr(operator, "with_energy")
            else (
                operator.energy(x, levels, cond),
                operator(x, levels, cond),
            )
        )
        torch.testing.assert_close(energy.double(), operator.energy(x, levels, cond).double())
        torch.testing.assert_close(estimate, operator(x, levels, cond))


def test_a_product_of_gaussians_is_a_gaussian() -> None:
    """At a level: precisions add."""
    x, sigma = torch.randn(4, 1, 3, dtype=F64), torch.full((4,), 0.7, dtype=F64)
    with torch.no_grad():
        got = compose.product(gaussian(-1.0, 1.0), gaussian(2.0, 0.5))(x, sigma)
    first, second = 1 / (1.0 + 0.49), 1 / (0.5 + 0.49)
    score = -(first * (x + 1) + second * (x - 2))
    torch.testing.assert_close(got, x + 0.49 * score)


def test_a_mixture_of_gaussians_is_the_posterior_mean() -> None:
    """Equal to the closed form of the mixture's denoiser, weights and all."""
    weights, means = torch.tensor([0.2, 0.8], dtype=F64), torch.tensor([-1.5, 1.0], dtype=F64)
    x, sigma = torch.linspace(-4, 4, 41, dtype=F64).reshape(-1, 1, 1), torch.full((41,), 0.6, dtype=F64)
    parts = [gaussian(float(m), 0.3) for m in means]
    with torch.no_grad():
        mix = compose.mixture(*parts, log_weights=weights.log())
        got = mix(x, sigma)
        shares = (weights.log() - (x[:, 0] - means).square() / (2 * 0.66)).softmax(1)
        want = sum(shares[:, i, None, None] * parts[i](x, sigma) for i in range(2))
        # Energies have equal constants here, so the density itself is right, too.
        density = -mix.energy(x, sigma)
        true = torch.logsumexp(weights.log() - (x[:, 0] - means).square() / (2 * 0.66), 1)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(density, true)


def test_negation_and_conjunction_by_hand() -> None:
    x, sigma = torch.randn(2, 1, 3, dtype=F64), torch.ones(2, dtype=F64)
    net = conditional()
    with torch.no_grad():
        away = compose.negation(A, B, alpha=0.3)(x, sigma)
        torch.testing.assert_close(away, A(x, sigma) - 0.3 * (B(x, sigma) - x))
        both = compose.conjunction(net, [(told(1.0), 7.5), (told(2.0), -2.0)], uncond=told(0.0))(x, sigma)
        null = net(x, sigma, told(0.0))
        want = null + 7.5 * (net(x, sigma, told(1.0)) - null) - 2.0 * (net(x, sigma, told(2.0)) - null)
        torch.testing.assert_close(both, want)


def test_conjunction_in_regions_is_one_batch_and_has_a_weight_for_each() -> None:
    rows: list[int] = []

    def net(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        rows.append(len(x))
        return torch.tanh(x) * cond["mean"].to(x).reshape(-1, 1, 1)

    chain = layout.chain(10, 4, 3)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    both = compose.conjunction(net, [(told(1.0), weights), (told(2.0), 0.5)], uncond=told(0.1))
    composite = compose.average(Factor(both, chain))
    x, sigma = torch.randn(1, 2, 10, dtype=F64), torch.ones(1, dtype=F64)
    got = composite(x, sigma)
    assert rows == [9]
    value, count = torch.zeros_like(x), torch.zeros_like(x)
    for r, ((start,), _) in enumerate(chain.boxes()):
        crop = torch.tanh(x[..., start : start + 4])
        value[..., start : start + 4] += 0.1 * crop + weights[r] * 0.9 * crop + 0.5 * 1.9 * crop
        count[..., start : start + 4] += 1
    torch.testing.assert_close(got, value / count)


def test_training_through_an_energy() -> None:
    """The loss on the estimate reaches the parameters, by the gradient of a gradient."""
    net = Net()
    D = denoisers.EnergyDenoiser(net, form="dae", time=torch.log)
    x, sigma = torch.randn(2, 2, 10, dtype=F64), torch.full((2,), 0.5, dtype=F64)
    loss = (D(x, sigma) - 1).square().mean()
    loss.backward()
    gradient = net.second.grad
    assert gradient is not None
    step = 1e-6
    with torch.no_grad():
        net.second[0, 0, 0] += step
        up = (D(x, sigma) - 1).square().mean()
        net.second[0, 0, 0] -= 2 * step
        down = (D(x, sigma) - 1).square().mean()
    torch.testing.assert_close(gradient[0, 0, 0], (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


def test_a_classifier_guides_as_an_energy() -> None:
    """Product of a density and a classifier's probability: the shifted Gaussian that Bayes' rule gives."""

    def classifier(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return -torch.nn.functional.logsigmoid(4 * x.flatten(1).mean(1))

    guided = compose.product(gaussian(0.0), denoisers.Potential(classifier))
    x, sigma = torch.zeros(1, 1, 2, dtype=F64), torch.ones(1, dtype=F64)
    with torch.no_grad():
        # d/dx log sigmoid(4 mean) at 0 is 4 * 0.5 / 2 for each of the two elements.
        torch.testing.assert_close(guided(x, sigma), torch.full((1, 1, 2), 1.0, dtype=F64))


@pytest.mark.parametrize("count", [2, 4])
def test_reverse_diffusion_is_wrong_for_products_and_hmc_is_right(count: int) -> None:
    """n equal Gaussians of variance s2: ancestral gives s2 / (2n - 1), the flow about 0, truth s2 / n."""
    s2, samples = 0.25, 8192
    together = compose.product(*[gaussian(0.0, s2)] * count)
    sigmas = schedules.karras(200, 0.01, 20.0)
    generator = torch.Generator().manual_seed(0)
    x = sigmas[0] * torch.randn(samples, 1, 1, dtype=F64, generator=generator)

    def variance(solver: Any, corrector: Any = None) -> float:
        got = samplers.sample(together, x, sigmas, solver, corrector=corrector, generator=generator)
        return float(got.var())

    assert variance(samplers.EulerAncestral()) == pytest.approx(s2 / (2 * count - 1), rel=0.1)
    assert variance(samplers.Euler()) < 0.02 * s2
    kernel = samplers.HMC(0.7, 3, 3)
    assert variance(samplers.EulerAncestral(), kernel) == pytest.approx(s2 / count, rel=0.05)


def test_expressions() -> None:
    a, b, c, d = (Concept(conditional(), told(mean)) for mean in (0.0, 1.0, 2.0, 3.0))
    x, sigma = torch.randn(2, 1, 3, dtype=F64), torch.full((2,), 0.8, dtype=F64)
    with torch.no_grad():
        wanted = a & (b | c) & ~d
        by_hand = a.energy(x, sigma) + compose.mixture(b, c).energy(x, sigma) - 0.5 * d.energy(x, sigma)
        torch.testing.assert_close(wanted.energy(x, sigma), by_hand)
        for same in (~d & (a & (b | c)), a & ~d & (b | c), ~~a & (c | b) & 0.5 * ~d):
            torch.testing.assert_close(same.energy(x, sigma), by_hand)
        torch.testing.assert_close((2.0 * a).energy(x, sigma), 2 * a.energy(x, sigma))
        torch.testing.assert_close((a & b)(x, sigma), a(x, sigma) + b(x, sigma) - x)


def bare(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
    return x / 2


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: compose.mixture(A, bare),
        "mixture: denoisers must have energies.*bare without one at 1.*EnergyDenoiser",
    ),
    (lambda: compose.mixture(A), "mixture: denoisers must be two or more, got 1"),
    (lambda: compose.mixture(A, B, log_weights=[0.0]), "log_weights must have 2 entries, got 1"),
    (lambda: compose.mixture(A, B, temperature=0.0), "temperature must be a finite number above 0"),
    (lambda: compose.product(A, weights=[1.0, 2.0]), "product: denoisers must be one or more, with a weight"),
    (lambda: compose.negation(A, B, alpha=-1.0), "negation: alpha must not be negative, got -1.0"),
    (lambda: compose.conjunction(A, [], uncond=None), "conjunction: concepts must hold at least one"),
    (lambda: compose.Sum(((A, {}, 2.0),)), "Sum: terms must have coefficients that sum to one, got 2.0"),
    (lambda: Concept(bare) | Concept(A), "have energies"),
    (lambda: Concept(A) & 3, "what & combines must be a Concept, got int"),
    (lambda: denoisers.EnergyDenoiser(bare, form="l1"), "form must be 'l2', 'dae' or 'ip', got 'l1'"),  # type: ignore[arg-type]
    (
        lambda: samplers.HMC().step(
            compose.average(Factor(A, layout.chain(10, 4, 2))), State(torch.zeros(1, 1, 10)), 1.0, 1.0
        ),
        "average divides by weights that vary, so it is the gradient of nothing",
    ),
    (
        lambda: samplers.MALA().step(
            compose.bethe(bare, layout.chain(10, 4, 2)), State(torch.zeros(1, 1, 10)), 1.0, 1.0
        ),
        "bare in factor 0 of weighted_sum has none.*Take ULA",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
