# SPDX-License-Identifier: Apache-2.0
"""Where no angle is to be had: equal, nearly equal, opposite, zero and far-scaled vectors, 200 seeds each."""

from __future__ import annotations

import pytest
import torch
from intarsia import ops

SEEDS = 200
HALVES = (torch.float16, torch.bfloat16)


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def pairs(kind, dtype, device, seeds=SEEDS):
    large = 1e3 if dtype is torch.float16 else 1e20
    x0 = unit(torch.randn(seeds, 96, dtype=torch.float64))
    noise = torch.randn(seeds, 96, dtype=torch.float64)
    x1 = {
        "equal": x0,
        "near": x0 + 1e-7 * unit(noise),
        "close": x0 + 1e-3 * unit(noise),
        "opposite": -x0,
        "almost opposite": -x0
        + 10 ** -torch.linspace(0, 6, seeds, dtype=torch.float64)[:, None] * unit(noise),
        "zero": 0 * x0,
        "both zero": 0 * x0,
        "large": large * unit(noise),
        "small": 1e-20 * unit(noise),
        "any": unit(noise),
    }[kind]
    if kind == "both zero":
        x0 = x1
    if kind in ("large", "small"):
        x0 = x0 * (large if kind == "large" else 1e-20)
    return x0.to(device, dtype), x1.to(device, dtype)


KINDS = (
    "equal",
    "near",
    "close",
    "opposite",
    "almost opposite",
    "zero",
    "both zero",
    "large",
    "small",
    "any",
)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_exact_ends_and_norms_kept(backend, dtype, kind):
    backend.keep_to(dtype is torch.float32 and kind in ("near", "opposite", "large"))
    seeds = 3 if backend.slow else SEEDS
    x0, x1 = pairs(kind, dtype, backend.device, seeds)
    assert torch.equal(ops.slerp(x0, x1, 0.0), x0) and torch.equal(ops.slerp(x0, x1, 1.0), x1)
    n0, n1 = (x.double().norm(dim=1) for x in (x0, x1))
    for w in (0.1, 0.5, 0.9):
        between = ops.slerp(x0, x1, w)
        assert bool(between.isfinite().all())
        bound = {torch.float16: 2e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6, torch.float64: 1e-7}[dtype]
        floor = 1e-7 if dtype is torch.float16 else 0.0
        torch.testing.assert_close(
            between.double().norm(dim=1), n0 ** (1 - w) * n1**w, rtol=bound, atol=96 * floor
        )
    ends = torch.tensor([0.0, 1.0] * seeds, device=backend.device)[:seeds]
    mixed = ops.slerp(x0, x1, ends)
    assert torch.equal(mixed, torch.where(ends[:, None] == 0, x0, x1))


def test_ends_are_exact_bit_for_bit(backend, dtype):
    x0 = torch.tensor([[-0.0, 1.0, 0.0, 65504.0]], device=backend.device).to(dtype)
    x1 = torch.tensor([[3.0, -0.0, 7.0, 1.0]], device=backend.device).to(dtype)
    for w, end in ((0.0, x0), (1.0, x1)):
        result = ops.slerp(x0, x1, w)
        assert torch.equal(result, end) and torch.equal(result.signbit(), end.signbit())


def test_opposite_vectors_keep_the_nearer_direction(backend):
    x0 = torch.randn(3, 8, device=backend.device)
    x1 = -4 * x0
    shares = torch.tensor([0.25, 0.5, 0.75], device=backend.device)
    expected = 4 ** shares[:, None] * x0 * torch.tensor([[1.0], [1.0], [-1.0]], device=backend.device)
    torch.testing.assert_close(ops.slerp(x0, x1, shares), expected)


def test_zero_has_no_direction(backend):
    x0 = torch.randn(2, 8, device=backend.device)
    assert not ops.slerp(x0, torch.zeros_like(x0), 0.3).any()
    assert not ops.slerp(torch.zeros_like(x0), x0, 0.3).any()


def test_the_naive_formula_fails_here():
    x0, x1 = pairs("near", torch.float32, "cpu")
    angle = (x0 * x1).sum(1, keepdim=True).acos()
    naive = (torch.sin(0.5 * angle) * x0 + torch.sin(0.5 * angle) * x1) / torch.sin(angle)
    assert bool(naive.isnan().any())


@pytest.mark.parametrize("kind", KINDS)
def test_aggregates_are_finite(backend, dtype, kind):
    backend.keep_to(dtype is torch.float32 and kind == "near")
    x0, x1 = pairs(kind, dtype, backend.device, 3 if backend.slow else SEEDS)
    states = torch.stack([x0, x1, x0])
    for fold, weights in (("sequential", [0.5, 0.65]), ("mean", [1.0, 1.0, 1.0])):
        result = ops.spherical_aggregate(states, states, weights, 0.3, fold=fold)
        assert bool(result.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_long_vectors_are_as_safe(backend, dtype, kind):
    """Long ones are summed in single precision first, where that will do."""
    backend.keep_to(False)
    x0, x1 = (x.repeat(1, 50) for x in pairs(kind, dtype, "cpu", 24))
    turn = torch.randperm(x0.shape[1])
    x0, x1 = x0[:, turn].to(backend.device), x1[:, turn].to(backend.device)
    n0, n1 = (x.double().norm(dim=1) for x in (x0, x1))
    ours = ops.slerp(x0, x1, 0.4)
    with ops.use_backend("reference"):
        exact = ops.slerp(x0.double(), x1.double(), 0.4)
    bound = {torch.float16: 2e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6, torch.float64: 1e-7}[dtype]
    floor = 1e-5 if dtype is torch.float16 else 0.0
    torch.testing.assert_close(ours.double().norm(dim=1), n0**0.6 * n1**0.4, rtol=bound, atol=floor)
    if kind != "almost opposite":  # there the last digits of the input decide on which side of the branch
        away = (ours.double() - exact).norm(dim=1)
        assert bool((away <= 2 * bound * exact.norm(dim=1) + floor).all())
    states = torch.stack([x0, x1, x0])
    for mu in (states, states.roll(1, 0), 0.99 * states):
        result = ops.spherical_aggregate(states, mu, [0.5, 0.65], 0.3)
        assert bool(result.isfinite().all())
        with ops.use_backend("reference"):
            exact = ops.spherical_aggregate(states.double(), mu.double(), [0.5, 0.65], 0.3)
        if kind in ("equal", "near", "close", "any", "large", "small"):
            away = (result.double() - exact).flatten(2).norm(dim=2)
            assert bool((away <= 2 * bound * exact.flatten(2).norm(dim=2) + floor).all())
