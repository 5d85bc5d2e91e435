# SPDX-License-Identifier: Apache-2.0
"""Canvas noise is standard normal and independent in every argument; each measure must catch a fault."""

from __future__ import annotations

import math

import pytest
import torch
from intarsia import ops
from intarsia.ops._reference_noise import box_muller
from torch import Tensor

SIZE = (1024, 1024)
DEVIATIONS = 4.5


def draw(seed: int = 1, purpose: int = 0, step: int = 0, offset: tuple[int, int] = (0, 0), **more) -> Tensor:
    return ops.canvas_noise(seed, (purpose, step), offset, SIZE, **more)[0, -1].double()


def shape_faults(z: Tensor) -> set[str]:
    """Which of a sample's moments, distribution and tails lie too far from those of a standard normal."""
    n, found = z.numel(), set()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        if abs((z**power).mean().item() - mean) > DEVIATIONS * math.sqrt(variance / n):
            found.add(f"moment {power}")
    ordered = z.flatten().sort().values
    normal = torch.special.ndtr(ordered)
    ranks = torch.arange(n, dtype=torch.float64)
    distance = torch.maximum(normal - ranks / n, (ranks + 1) / n - normal).max().item()
    if distance * math.sqrt(n) > 2.0:  # a chance of 7e-4
        found.add("distribution")
    for bound in (2.0, 3.0, 4.0):
        chance = math.erfc(bound / math.sqrt(2))
        count = int((z.abs() > bound).sum())
        if abs(count - n * chance) > DEVIATIONS * math.sqrt(n * chance):
            found.add(f"tail {bound:.0f}")
    return found


def tied(one: Tensor, other: Tensor) -> bool:
    """Whether two samples are correlated, as they are or in their squares."""
    bound = DEVIATIONS / math.sqrt(one.numel())
    plain = (one * other).mean().abs().item()
    squares = ((one**2 - 1) * (other**2 - 1)).mean().abs().item() / 2
    crossed = (one * (other**2 - 1)).mean().abs().item() / math.sqrt(2)
    return max(plain, squares, crossed) > bound


@pytest.mark.parametrize("seed", [1, 2**40, -3])
def test_the_noise_is_standard_normal(seed: int) -> None:
    for dtype in (torch.float32, torch.float64):
        z = draw(seed, dtype=dtype)
        assert shape_faults(z) == set()
        for lane in range(4):
            assert shape_faults(z[:, lane::4]) == set()


@pytest.mark.parametrize(
    "broken,fault",
    [
        (lambda z: z + 0.005, "moment 1"),
        (lambda z: z * 1.005, "moment 2"),
        (lambda z: torch.where(z.abs() > 4, 0, z), "tail 4"),
        (lambda z: z.clamp(-3, 3), "tail 3"),
        (lambda z: torch.where(z > 0, z * 1.02, z * 0.98), "moment 3"),
        (lambda z: (z * 8).round() / 8, "distribution"),
        (lambda z: torch.rand(z.shape, dtype=z.dtype) * math.sqrt(12) - math.sqrt(3), "distribution"),
    ],
)
def test_the_measures_catch_a_fault(broken, fault: str) -> None:
    assert fault in shape_faults(broken(draw()))


def test_everything_else_makes_independent_noise() -> None:
    z = draw()
    for lag in (1, 2, 3, 4, 5, 8, 64):
        assert not tied(z[:, lag:], z[:, :-lag]) and not tied(z[lag:], z[:-lag])
    assert not tied(z, z.T)
    others = [draw(seed=2), draw(seed=1 + 2**32), draw(purpose=1), draw(step=1), draw(purpose=1, step=1)]
    others += [draw(channels=2), draw(offset=(0, 1024)), draw(offset=(-1024, 0)), draw(offset=(2**20, -4096))]
    for other in others:
        assert not tied(z, other)


def test_a_tie_is_seen() -> None:
    z = draw()
    assert tied(z, z) and tied(z, -z)
    assert tied(z, 0.01 * z + 0.99995 * draw(seed=2))
    assert tied(z, z.abs() * draw(seed=2).sign()), "equal sizes, free signs"


def test_the_ends_of_the_integers_are_finite() -> None:
    words = torch.tensor([0, 1, 2, 2**24, 2**31 - 1, 2**31, 2**32 - 129, 2**32 - 2, 2**32 - 1])
    a, b = (grid.flatten() for grid in torch.meshgrid(words, words, indexing="ij"))
    for dtype in (torch.float32, torch.float64):
        z0, z1 = box_muller(a, b, dtype)
        radius = (z0.double() ** 2 + z1.double() ** 2).sqrt()
        assert bool(radius.isfinite().all())
        assert radius.max().item() == pytest.approx(math.sqrt(64 * math.log(2)), rel=1e-6)
        assert radius.min().item() == 0  # the largest words round up to u = 1


def test_the_far_tail_is_there() -> None:
    z = ops.canvas_noise(range(8), (0, 0), (0, 0), (1024, 2048))
    chance = math.erfc(5 / math.sqrt(2))
    assert abs(int((z.abs() > 5).sum()) - z.numel() * chance) < 5 * math.sqrt(z.numel() * chance) + 1
    assert 5 < z.abs().max().item() <= 6.67
