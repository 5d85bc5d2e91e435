# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from intarsia.metrics import frechet_distance, random_features


def test_gaussians_of_known_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    first, second = x * torch.tensor([1.0, 2.0]), x * torch.tensor([3.0, 1.0]) + 1
    # Diagonal covariances: |m|^2 + sum (s1 - s2)^2.
    assert frechet_distance(first, second) == pytest.approx(2 + 4 + 1, rel=0.02)
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(first, first.flip(0)) == pytest.approx(0, abs=1e-9)


def test_singular_covariances_are_no_trouble() -> None:
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(50, 6)
    assert frechet_distance(x, 2 * x) == pytest.approx(
        6 * float(x[:, 0].double().var() + x[:, 0].mean() ** 2), rel=1e-5
    )


def test_features_are_fixed_and_tell_sets_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(1200, 4, 64, generator=generator)
    smooth = sum(rough.roll(k, 2) for k in range(4)) / 2
    a, b, c = (random_features(x) for x in (rough[:600], rough[600:], smooth[600:]))
    assert torch.equal(a, random_features(rough)[:600])
    assert not torch.equal(a, random_features(rough[:600], seed=1))
    assert frechet_distance(a, c) > 5 * frechet_distance(a, b)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="random_features: windows must be"):
        random_features(torch.zeros(3, 4, 8))
    with pytest.raises(ValueError, match="frechet_distance: first and second must be"):
        frechet_distance(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="must be finite"):
        frechet_distance(torch.full((3, 2), torch.nan), torch.zeros(3, 2))
