# SPDX-License-Identifier: Apache-2.0
"""A guide overwrites its box at the level just reached, for its share of the steps, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from intarsia import samplers, schedules
from intarsia.conditioning import ImageGuide
from intarsia.types import Info, State, marginal
from torch import Tensor

SHAPE = (2, 3, 8, 12)
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
IMAGE = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
BOX = ((2, 3), (4, 5))
INSIDE = (..., slice(2, 6), slice(3, 8))
INFO = Info(1.0, 0.5)


def shrink(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
    return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


@pytest.mark.parametrize(
    ("strength", "steps"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 5), (0.99, 9), (1.0, 10)]
)
def test_it_acts_for_its_share_of_the_steps(strength: float, steps: int) -> None:
    guide = ImageGuide(IMAGE, BOX, strength, noise=NOISE)
    sigmas = schedules.karras(10, 0.05, 5.0)
    seen: list[bool] = []

    def watch(step: int, state: State, info: Info) -> None:
        a, s = marginal(state)
        guided = a * IMAGE + s * NOISE[INSIDE]
        seen.append(torch.equal(state.x[INSIDE], guided))

    x = sigmas[0].float() * NOISE
    samplers.sample(shrink, x, sigmas, samplers.Euler(), callback=[guide, watch])
    assert seen == [True] * steps + [False] * (10 - steps)


def test_strength_one_ends_as_the_image_and_leaves_the_rest_to_the_solver() -> None:
    sigmas = schedules.karras(6, 0.05, 5.0)
    x = sigmas[0].float() * NOISE
    guide = ImageGuide(IMAGE, BOX, 1.0, noise=NOISE)
    got = samplers.sample(shrink, x, sigmas, samplers.DPMpp2M(), callback=guide)
    plain = samplers.sample(shrink, x, sigmas, samplers.DPMpp2M())
    assert torch.equal(got[INSIDE], IMAGE)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[INSIDE] = False
    # A pointwise network carries nothing across the border.
    torch.testing.assert_close(got[outside], plain[outside])


def test_the_given_state_is_not_changed() -> None:
    state = State(torch.zeros(SHAPE), sigma=0.5, step=1, num_steps=2)
    after = ImageGuide(IMAGE, BOX, 1.0, noise=NOISE)(0, state, INFO)
    assert after is not None and after.x is not state.x and not state.x.any()


def test_it_follows_the_scale_of_the_state() -> None:
    state = State(torch.zeros(SHAPE), sigma=2.0, step=1, num_steps=2, marginal=(0.25, 0.5))
    after = ImageGuide(IMAGE, BOX, 1.0, noise=NOISE)(0, state, INFO)
    assert after is not None
    torch.testing.assert_close(after.x[INSIDE], 0.25 * IMAGE + 0.5 * NOISE[INSIDE])


def test_across_the_seam_of_a_closed_axis() -> None:
    guide = ImageGuide(IMAGE, ((2, 10), (4, 5)), 1.0, noise=NOISE, wrap=(False, True))
    after = guide(0, State(torch.zeros(SHAPE), sigma=0.0, step=1, num_steps=1), INFO)
    assert after is not None
    rolled = after.x.roll(2, -1)
    assert torch.equal(rolled[..., 2:6, :5], IMAGE)
    assert not rolled[..., 5:].any() and not rolled[..., :2, :].any()


def test_a_soft_weight_blends() -> None:
    weight = torch.linspace(0, 1, 20).reshape(4, 5)
    guide = ImageGuide(IMAGE, BOX, 1.0, noise=NOISE, weight=weight)
    after = guide(0, State(torch.ones(SHAPE), sigma=0.0, step=1, num_steps=1), INFO)
    assert after is not None
    torch.testing.assert_close(after.x[INSIDE], weight * IMAGE + (1 - weight))


def test_one_image_and_one_dimension() -> None:
    guide = ImageGuide(torch.ones(1, 2, 3), ((1,), (3,)), 1.0, noise=torch.zeros(1, 2, 6))
    after = guide(0, State(torch.zeros(4, 2, 6), sigma=0.0, step=1, num_steps=1), INFO)
    assert after is not None
    assert after.x.sum() == 4 * 2 * 3 and after.x[..., 1:4].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 1.5}, "strength must be within 0 and 1, got 1.5"),
        ({"box": ((0, 0), (4, 4))}, r"box must have the image's size \(4, 5\), got \(4, 4\)"),
        ({"box": ((5, 0), (4, 5))}, r"box must lie on the canvas \(8, 12\), got 5 to 9 on axis 0"),
        ({"weight": torch.ones(3)}, r"weight must have shape \[4, 5\], got \[3\]"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"image": IMAGE, "box": BOX, "strength": 0.5, "noise": NOISE, **change}
    with pytest.raises(ValueError, match=message):
        ImageGuide(**given)


def test_refused_states() -> None:
    guide = ImageGuide(IMAGE, BOX, 1.0, noise=NOISE)
    with pytest.raises(ValueError, match="must know how many steps"):
        guide(0, State(torch.zeros(SHAPE), sigma=0.5), INFO)
    with pytest.raises(ValueError, match=r"noise must have the canvas \[2, 3, 8, 8\]"):
        guide(0, State(torch.zeros(2, 3, 8, 8), sigma=0.5, step=1, num_steps=1), INFO)
    with pytest.raises(ValueError, match="must have a noise level"):
        guide(0, State(torch.zeros(SHAPE), step=1, num_steps=1), INFO)
