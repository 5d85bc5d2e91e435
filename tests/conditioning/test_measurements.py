# SPDX-License-Identifier: Apache-2.0
"""Measurements: adjoints, pseudo-inverses, estimates that agree with them, gradients that point to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from analytic import GaussianField
from intarsia import compose, conditioning, layout, samplers, schedules
from intarsia.conditioning import Downsample, Known, Linear, LowPass, Operator, Reconstruction, Replacement
from torch import Tensor

F64 = torch.float64
WHERE = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)) > 0.4
MATRIX = torch.randn(5, 48, generator=torch.Generator().manual_seed(1), dtype=F64)

OPERATORS: dict[str, Operator] = {
    "known": Known(WHERE),
    "downsample": Downsample(2),
    "downsample one axis": Downsample((1, 4)),
    "low pass": LowPass(4),
    "closed low pass": LowPass(4, wrap=(False, True)),
    "linear": Linear(
        lambda x: torch.einsum("yx,bcx->bcy", MATRIX, x.flatten(2)),
        lambda y: torch.einsum("yx,bcy->bcx", MATRIX, y).unflatten(2, (6, 8)),
    ),
}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=F64)


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_and_pseudo_inverse(name: str) -> None:
    H = OPERATORS[name]
    x = noise(2, 3, 6, 8)
    y = torch.randn_like(H(x))
    torch.testing.assert_close((H(x) * y).sum(), (x * H.adjoint(y)).sum())
    # The four conditions of Moore and Penrose, on vectors.
    torch.testing.assert_close(H(H.inverse(H(x))), H(x), rtol=1e-5, atol=1e-5)
    z = H.inverse(y)
    torch.testing.assert_close(H.inverse(H(z)), z, rtol=1e-5, atol=1e-5)
    other = noise(2, 3, 8, 6).reshape(2, 3, 6, 8)
    torch.testing.assert_close(
        (H.inverse(H(x)) * other).sum(), (x * H.inverse(H(other))).sum(), rtol=1e-5, atol=1e-5
    )


def net(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
    weight = torch.ones(3, 3, 3, 3, dtype=x.dtype) / 27
    return torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_replaced_estimate_is_measured_right_and_moved_no_farther(name: str) -> None:
    H, x, sigma = OPERATORS[name], noise(2, 3, 6, 8), torch.ones(2, dtype=F64)
    y = H(noise(1, 3, 6, 8).abs())
    D = Replacement(H, y, net)
    torch.testing.assert_close(H(D(x, sigma)), y.expand_as(H(x)), rtol=1e-5, atol=1e-5)
    plain = net(x, sigma)
    other = plain + H.inverse(y - H(plain)) + (noise(2, 3, 6, 8) - H.inverse(H(noise(2, 3, 6, 8))))
    assert (D(x, sigma) - plain).norm() <= (other - plain).norm()


def test_what_agrees_already_is_left_alone() -> None:
    H, x, sigma = Known(WHERE), noise(1, 3, 6, 8), torch.ones(1, dtype=F64)
    torch.testing.assert_close(Replacement(H, H(net(x, sigma)), net)(x, sigma), net(x, sigma))


def test_known_ends_of_a_chain_are_met_by_the_result() -> None:
    """Two real ends, a Bethe chain between them: the ends stay, the middle continues them."""
    field = GaussianField.autoregressive(40, 0.95)

    def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        part = field.covariance[: x.shape[-1], : x.shape[-1]].to(x.dtype)
        eye = torch.eye(x.shape[-1], dtype=x.dtype)
        return x @ torch.linalg.inv(part + sigma[0] ** 2 * eye) @ part

    chain = compose.bethe(D, layout.chain(40, 8, 4))
    where = torch.zeros(40, dtype=torch.bool)
    where[:4], where[-4:] = True, True
    ends = torch.zeros(1, 1, 40, dtype=F64)
    ends[..., :4], ends[..., -4:] = 3.0, -3.0
    sigmas = schedules.karras(60, 0.01, 80.0)
    x = sigmas[0] * noise(8, 1, 40)
    held = samplers.sample(Replacement(Known(where), ends, chain), x, sigmas, samplers.Heun())
    assert torch.equal(held[..., where], ends[..., where].expand(8, 1, 8))
    # Beside an end the canvas goes on from it; the free run does not.
    free = samplers.sample(chain, x, sigmas, samplers.Heun())
    assert (held[..., 4] - 3).abs().mean() < 0.5 * (free[..., 4] - 3).abs().mean()


def test_reconstruction_follows_the_gradient() -> None:
    """Against finite differences of the misfit, and downhill."""
    H, x, sigma = OPERATORS["downsample"], noise(1, 3, 6, 8), torch.ones(1, dtype=F64)
    y = H(noise(1, 3, 6, 8))

    def misfit(at: Tensor) -> Tensor:
        return (H(net(at, sigma)) - y).square().sum()

    moved = Reconstruction(H, y, 0.7, net)(x, sigma)
    gradient = (net(x, sigma) - moved) / 0.7
    direction = noise(1, 3, 8, 6).reshape(1, 3, 6, 8)
    step = 1e-6
    slope = (misfit(x + step * direction) - misfit(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)
    assert misfit(x - 1e-3 * gradient) < misfit(x)
    assert not moved.requires_grad


def test_reconstruction_of_a_gaussian_moves_to_the_posterior_mean() -> None:
    """For data N(0, 1) known as y, `weight = (sigma^2 + 1) / 2` meets the measurement in one step."""
    sigma, y = 0.8, torch.tensor([[[0.3]]], dtype=F64)

    def D(x: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        return x / (1 + sigma**2)

    everything = Known(torch.tensor([True]))
    x = torch.tensor([[[1.7]]], dtype=F64)
    weight = (1 + sigma**2) / 2
    moved = Reconstruction(everything, y, weight, D)(x, torch.tensor([sigma], dtype=F64))
    torch.testing.assert_close(moved, y)


def test_reconstruction_inside_a_run_through_a_composite() -> None:
    def shrink(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return x / (1 + sigma**2).reshape(-1, 1, 1, 1)

    ring = compose.average(compose.Factor(shrink, layout.grid((6, 8), (6, 4), (6, 2), (False, True))))
    H = Downsample(2)
    y = H(torch.linspace(-2, 2, 144, dtype=F64).reshape(1, 3, 6, 8))
    sigmas = schedules.karras(24, 0.02, 5.0)
    x = sigmas[0] * noise(1, 3, 6, 8)
    free = samplers.sample(ring, x, sigmas, samplers.Euler())
    # A box of four has a quarter of the slope of one element.
    pulled = samplers.sample(Reconstruction(H, y, 2.0, ring), x, sigmas, samplers.Euler())
    assert (H(pulled) - y).norm() < 0.2 * (H(free) - y).norm()
    both = Replacement(H, y, Reconstruction(H, y, 2.0, ring))
    torch.testing.assert_close(H(samplers.sample(both, x, sigmas, samplers.Euler())), y)


def test_gradients_flow_through_both() -> None:
    x = noise(1, 3, 6, 8).requires_grad_()
    sigma = torch.ones(1, dtype=F64)
    y = Downsample(2)(noise(1, 3, 6, 8))
    D = Replacement(Known(WHERE), Known(WHERE)(noise(1, 3, 6, 8)), Reconstruction(Downsample(2), y, 0.5, net))
    (gradient,) = torch.autograd.grad(D(x, sigma).sum(), x)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_interpolated_conditions() -> None:
    keys = {"text": noise(3, 4, 5).float(), "more": [noise(3, 2).float()]}
    at = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    told = conditioning.interpolate(keys, at)
    assert torch.equal(told["text"][[0, 2, 4]], keys["text"])
    assert told["more"][0].shape == (5, 2)
    # On the sphere norms go from one key's to the next one's without a dip.
    norms, ends = told["text"].flatten(1).norm(dim=1), keys["text"].flatten(1).norm(dim=1)
    assert min(ends[0], ends[1]) - 1e-4 <= norms[1] <= max(ends[0], ends[1]) + 1e-4
    straight = conditioning.interpolate(keys, at, kind="linear")["text"]
    torch.testing.assert_close(straight[1], (keys["text"][0] + keys["text"][1]) / 2)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Known(torch.ones(3)), "where must be bool, got torch.float32"),
    (lambda: LowPass(1), "period must be at least 2 elements, got 1"),
    (lambda: LowPass(4, wrap=(True,))(noise(1, 1, 6, 8)), "wrap must have one entry per axis"),
    (lambda: Downsample(4)(noise(1, 1, 6, 8)), "got 6 by 4 on axis 0"),
    (lambda: Downsample((2, 2))(noise(1, 1, 6)), "factor must be one whole number for each of 1 axes"),
    (
        lambda: Replacement(Downsample(2), noise(1, 3, 6, 8), net)(noise(1, 3, 6, 8), torch.ones(1)),
        r"Replacement: y must have shape \[1, 3, 3, 4\].*got \[1, 3, 6, 8\]",
    ),
    (lambda: Reconstruction(Downsample(2), noise(1, 1), -1.0, net), "weight must not be negative, got -1.0"),
    (lambda: conditioning.interpolate(noise(1, 3), torch.zeros(2)), "at least two rows"),
    (lambda: conditioning.interpolate(torch.arange(4), torch.zeros(2)), "floating tensors"),
    (lambda: conditioning.interpolate(noise(2, 3), torch.tensor([1.5])), "within 0 and 1"),
    (lambda: conditioning.interpolate(noise(2, 3), torch.zeros(2), kind="cubic"), "kind must be"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
