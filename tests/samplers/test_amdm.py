# SPDX-License-Identifier: Apache-2.0
"""Aggregation of models: what it leaves alone, what it preserves, whom it calls, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from analytic import Gaussian
from intarsia import Factor, compose, layout, samplers, schedules
from intarsia.samplers import AMDM, DDIM, DPMpp2M, Euler, EulerAncestral, Heun, amdm
from intarsia.types import Info, State
from torch import Tensor

SIGMAS = schedules.karras(12, 0.02, 20.0)
SHAPE = (3, 2, 4, 6)
SOLVERS = [Euler(), DDIM(), Heun(), DPMpp2M()]


def start(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (SIGMAS[0] * noise).to(dtype)


class Counted:
    """A Gaussian's exact denoiser that counts its calls."""

    def __init__(self, mean: float, variance: float = 0.25) -> None:
        self.inner, self.calls = Gaussian(mean, variance), 0

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        self.calls += 1
        return self.inner(x, sigma) + (0 if cond is None else cond.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("solver", [*SOLVERS, EulerAncestral()])
def test_no_step_is_model_1_alone_bit_for_bit(solver: Any) -> None:
    models = [Counted(0.3), Counted(-2.0)]
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    got = amdm(models, start(), SIGMAS, steps=0, solver=solver, generator=generators[0])
    plain = samplers.sample(models[0], start(), SIGMAS, solver, generator=generators[1])
    assert torch.equal(got, plain) and models[1].calls == 0


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("fold", ["sequential", "karcher"])
def test_identical_models_are_one_model(count: int, solver: Any, fold: Any) -> None:
    model = Gaussian(0.3, 0.25)
    weights = [0.5] * (count - (fold == "sequential"))
    got = amdm([model] * count, start(), SIGMAS, weights=weights, steps=8, solver=solver, fold=fold)
    torch.testing.assert_close(got, samplers.sample(model, start(), SIGMAS, solver), rtol=1e-6, atol=1e-6)


def test_identical_models_with_noise_are_one_model_without_deviation() -> None:
    model = Gaussian(0.3, 0.25)
    run = partial(amdm, [model, model], start(), SIGMAS, steps=8, solver=EulerAncestral())
    plain = samplers.sample(
        model, start(), SIGMAS, EulerAncestral(), generator=torch.Generator().manual_seed(2)
    )
    with_eta, without = (run(eta=eta, generator=torch.Generator().manual_seed(2)) for eta in (0.3, 0.0))
    torch.testing.assert_close(without, plain, rtol=1e-6, atol=1e-6)
    # The deviation step goes towards the mean, so it takes some of the noise away.
    assert not torch.allclose(with_eta, plain, atol=1e-3)


def test_every_model_is_called_once_a_step_and_not_any_more_afterwards() -> None:
    models = [Counted(0.0), Counted(1.0), Counted(2.0)]
    infos: list[Info] = []
    amdm(
        models,
        start(),
        SIGMAS,
        weights=[0.5, 0.65],
        steps=5,
        callback=lambda step, state, info: infos.append(info),
    )
    assert [model.calls for model in models] == [12, 5, 5]
    assert [info.evaluations for info in infos] == [3] * 5 + [1] * 7


def by_hand(models: list[Any], x: Tensor, weights: list[float], eta: float, steps: int) -> Tensor:
    """Algorithm 1 with DDIM, written in loops over models and samples."""
    states = [x.clone() for _ in models]
    levels = SIGMAS.tolist()
    for step, (sigma, after) in enumerate(itertools.pairwise(levels)):
        if step >= steps:
            states = states[:1]
        level = torch.full((len(x),), sigma, dtype=x.dtype)
        ratio = after / sigma
        moved = [ratio * s + (1 - ratio) * model(s, level) for s, model in zip(states, models, strict=False)]
        if step >= steps:
            states = moved
            continue
        scale = (1 + after**2) ** -0.5
        together = scale * moved[0]
        for weight, other in zip(weights, moved[1:], strict=True):
            one, two = together.flatten(1), scale * other.flatten(1)
            rows = []
            for a, b in zip(two, one, strict=True):
                angle = torch.acos((a @ b) / (a.norm() * b.norm()))
                direction = (
                    torch.sin((1 - weight) * angle) * a / a.norm() + torch.sin(weight * angle) * b / b.norm()
                ) / torch.sin(angle)
                rows.append(direction * a.norm() ** (1 - weight) * b.norm() ** weight)
            together = torch.stack(rows).reshape(x.shape)
        states = []
        for mean in moved:
            apart = together - scale * mean
            far = apart.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            states.append((together - far.clamp(max=eta) * apart / far) / scale)
    return states[0]


@pytest.mark.parametrize("count", [2, 3])
def test_equal_to_algorithm_1_by_hand(count: int) -> None:
    def model(k: int) -> Callable[..., Tensor]:
        pattern = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(k), dtype=torch.float64)

        def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
            return pattern + (x - pattern) * (0.3 / (0.3 + sigma**2)).reshape(-1, 1, 1, 1)

        return D

    models, weights = [model(k) for k in range(count)], [0.5, 0.65][: count - 1]
    got = amdm(models, start(), SIGMAS, weights=weights, eta=0.3, steps=7)
    torch.testing.assert_close(got, by_hand(models, start(), weights, 0.3, 7), rtol=1e-9, atol=1e-9)


def test_the_order_of_models_does_not_matter_to_karcher() -> None:
    models = [Counted(m) for m in (0.0, 1.0, 3.0)]
    last = AMDM(tuple(models[1:]), (None, None), [1.0, 2.0, 3.0], 0.2, 1, DDIM(), "karcher")
    swapped = AMDM((models[2], models[1]), (None, None), [1.0, 3.0, 2.0], 0.2, 1, DDIM(), "karcher")
    first, second = (
        run.step(models[0], State(run.init(start()).x, 20.0, 0, 12, run.init(start()).history), 20.0, 11.0)[0]
        for run in (last, swapped)
    )
    torch.testing.assert_close(first.x, second.x)


@pytest.mark.parametrize("fold", ["sequential", "karcher"])
def test_equal_norms_are_preserved(fold: Any) -> None:
    """What is agreed on has the norm that all states have; averaging shrinks it."""
    states = torch.randn(3, 4, 512, generator=torch.Generator().manual_seed(0))
    states = 20 * states / states.norm(dim=2, keepdim=True)
    weights = [0.5, 0.65] if fold == "sequential" else [1.0, 1.0, 1.0]
    run = AMDM((), (), weights, 0.0, 1, DDIM(), fold)
    agreed = run._agree(0, [*states], [*states], 0.0)
    for one in agreed:
        torch.testing.assert_close(one.norm(dim=1), torch.full((4,), 20.0), rtol=1e-6, atol=0)
    linear = AMDM((), (), weights, 0.0, 1, DDIM(), fold, "linear")._agree(0, [*states], [*states], 0.0)
    assert float(linear[0].norm(dim=1).max()) < 17


@pytest.mark.parametrize("aggregate", ["slerp", "linear"])
def test_the_deviation_never_goes_beyond_the_mean(aggregate: Any) -> None:
    states = [torch.randn(4, 64, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    means = [state + 0.01 * torch.randn(4, 64) for state in states]
    run = AMDM((), (), [0.5], 1e6, 1, DDIM(), "sequential", aggregate)
    for one, mean in zip(run._agree(0, states, means, 0.0), means, strict=True):
        torch.testing.assert_close(one, mean, rtol=1e-4, atol=1e-4)


def test_weights_for_every_step_conditions_and_starts_of_their_own() -> None:
    models = [Counted(0.0), Counted(1.0)]
    conds = [None, torch.tensor([5.0])]
    rows = [[0.5]] * 3 + [[1.0]] * 3
    got = amdm(models, [start(0), start(1)], SIGMAS, weights=rows, steps=6, conds=conds)
    again = amdm(models, [start(0), start(1)], SIGMAS, weights=rows, steps=6, conds=conds)
    assert torch.equal(got, again)
    other = amdm(models, [start(0), start(1)], SIGMAS, weights=[0.5], steps=6, conds=conds)
    assert not torch.allclose(got, other)
    # A weight of 1 keeps model 1's state; without a deviation nothing of model 2 is left.
    alone = amdm(models, start(), SIGMAS, weights=[1.0], eta=0.0, steps=12, conds=conds)
    torch.testing.assert_close(alone, samplers.sample(models[0], start(), SIGMAS, DDIM()))


def test_regions_where_they_agree() -> None:
    mask = torch.zeros(SHAPE[2:], dtype=torch.float64)
    mask[:, 3:] = 1
    models = [Gaussian(0.0, 0.25), Gaussian(2.0, 0.25)]
    got = amdm(models, start(), SIGMAS, steps=12, region_mask=mask)
    plain = samplers.sample(models[0], start(), SIGMAS, DDIM())
    torch.testing.assert_close(got[..., :3], plain[..., :3])
    assert float((got[..., 3:] - plain[..., 3:]).abs().mean()) > 0.1


def test_composites_take_part() -> None:
    wide = compose.average(Factor(Gaussian(0.5, 0.25), layout.grid((4, 6), (4, 4), (4, 2)), layout.gaussian))
    plain = Gaussian(0.5, 0.25)
    got = amdm([wide, plain], start(), SIGMAS, steps=6)
    torch.testing.assert_close(got, samplers.sample(plain, start(), SIGMAS, DDIM()), rtol=1e-6, atol=1e-6)


def test_agreeing_moves_each_towards_the_other() -> None:
    """Two experts of one half each: model 1's result takes over what only model 2 knows."""

    def expert(half: slice) -> Callable[..., Tensor]:
        def D(x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
            s2 = (sigma**2).reshape(-1, 1, 1, 1)
            wide = x * (4.0 / (4.0 + s2))
            sure = 1.0 + (x - 1.0) * (0.01 / (0.01 + s2))
            wide[..., half] = sure[..., half]
            return wide

        return D

    left, right = expert(slice(0, 3)), expert(slice(3, 6))
    alone = samplers.sample(left, start(), SIGMAS, DDIM())
    both = amdm([left, right], start(), SIGMAS, steps=9)
    assert (both[..., 3:] - 1).abs().mean() < 0.7 * (alone[..., 3:] - 1).abs().mean()
    # What it knows itself stays nearer than what it hears of.
    assert (both[..., :3] - 1).abs().mean() < 0.5 * (alone[..., 3:] - 1).abs().mean()


def test_release_assumes_right_angles() -> None:
    models = [Gaussian(0.0, 0.25), Gaussian(1.0, 0.25)]
    got = amdm(models, start(), SIGMAS, steps=3, aggregate="release")
    exact = amdm(models, start(), SIGMAS, steps=3)
    # The states are nearly parallel, so weights whose squares sum to one inflate them.
    assert got.norm() > 1.05 * exact.norm()


def test_canvas_noise_is_drawn_once_for_all_models() -> None:
    models = [Gaussian(0.0, 0.25), Gaussian(1.0, 0.25)]
    run = partial(amdm, models, start(), SIGMAS, steps=6, solver=EulerAncestral(), noise="canvas")
    whole = run(seed=[1, 2, 3])
    assert torch.equal(whole, run(seed=[1, 2, 3]))
    assert not torch.equal(whole, run(seed=[1, 2, 4]))


class Sized:
    sizes = ((8, 8),)
    process = ("epsilon", "table b")

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        return x


class Tabled(Sized):
    sizes = ((4, 6),)
    process = ("v_prediction", "table a")


class Alike(Tabled):
    process = ("epsilon", "table a")


class Other(Tabled):
    process = ("epsilon", "table b")


G = Gaussian(0.0, 0.25)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"denoisers": [G]}, "denoisers must be two or more, got 1"),
    ({"denoisers": [Tabled(), Other()]}, "share one process.*table a.*table b"),
    ({"denoisers": [G, Sized()]}, r"x must have a size that model 2 knows, \(\(8, 8\),\), got \(4, 6\)"),
    ({"x": [start()]}, "x must be one for each of 2 models, got 1"),
    ({"x": [start(), start()[..., :4]]}, "x must have one shape for all models"),
    ({"conds": [None]}, "conds must be one for each of 2 models, got 1"),
    ({"weights": [0.5, 0.5]}, "weights must be 1 numbers within 0 and 1"),
    ({"weights": [1.5]}, "weights must be 1 numbers within 0 and 1"),
    ({"weights": [[0.5]], "steps": 3}, "weights must have a row for each of 3 steps, got 1"),
    ({"eta": -0.1}, "eta must be a finite number not below 0, got -0.1"),
    ({"steps": -1}, "steps must not be negative, got -1"),
    ({"fold": "mean"}, "fold must be 'sequential' or 'karcher', got 'mean'"),
    ({"aggregate": "mean"}, "aggregate must be 'slerp', 'linear' or 'release'"),
    ({"aggregate": "release", "fold": "karcher", "weights": [1.0, 1.0]}, "fold must be 'sequential' with"),
    ({"region_mask": torch.ones(3)}, r"region_mask must have the shape of the canvas, \[4, 6\]"),
    ({"solver": samplers.Heun(s_churn=10.0)}, "solver must say how much noise it adds, got Heun"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refusals(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"denoisers": [G, G], "x": start(), "sigmas": SIGMAS, "steps": 2, **change}
    with pytest.raises(ValueError, match=message):
        amdm(given.pop("denoisers"), given.pop("x"), given.pop("sigmas"), **given)


def test_models_may_predict_different_things() -> None:
    assert amdm([Tabled(), Alike()], start().float(), SIGMAS, steps=2).shape == SHAPE
