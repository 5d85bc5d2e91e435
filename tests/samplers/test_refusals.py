# SPDX-License-Identifier: Apache-2.0
"""What a run refuses, and how it says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from analytic import Gaussian
from intarsia import samplers, schedules
from intarsia.types import PerCanvas, State

SIGMAS = schedules.karras(6, 0.02, 10.0)
X = 10 * torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
D = Gaussian()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def resumed(**changes: object) -> State:
    state, _ = next(samplers.trajectory(D, X, SIGMAS, samplers.Euler()))
    return replace(state, **changes)


@pytest.mark.parametrize("run", [samplers.sample, samplers.trajectory], ids=["sample", "trajectory"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": []}, r"sigmas must hold at least two levels \(one step\), got 0\. schedules\.karras"),
        ({"sigmas": [1.0]}, r"sigmas must hold at least two levels \(one step\), got 1"),
        ({"sigmas": SIGMAS[None]}, r"sigmas must have shape \[N \+ 1\], got \[1, 7\]"),
        ({"sigmas": [1.0, 1.0, 0.0]}, r"sigmas must fall, got 1 and then 1 at index 0"),
        ({"sigmas": [1.0, 2.0]}, r"sigmas must fall, got 1 and then 2"),
        ({"sigmas": [1.0, -1.0]}, r"sigmas must not be negative, got -1\. End at 0"),
        ({"sigmas": [1.0, float("nan"), 0.0]}, r"sigmas must not hold NaN, got one at index 1"),
        (
            {"sigmas": [float("inf"), 1.0, 0.0]},
            r"sigmas must be finite, got inf .* flow-match .* large finite",
        ),
        ({"x": X[0]}, r"x must have shape \[B, C, \*S\] .* got \[1, 8\]"),
        ({"x": X.long()}, r"x must have a floating dtype, got torch\.int64"),
        ({"x": [1.0]}, r"x must be a tensor, got list"),
        ({"x": resumed(step=7)}, r"x must be a State of this run of 6 steps, got one at step 7"),
        ({"x": resumed(step=2)}, r"x must be a State of this run of 6 steps, got one at step 2 of 6, sigma"),
        ({"x": resumed(num_steps=9)}, r"got one at step 1 of 9"),
        ({"solver": samplers.Heun}, r"solver must be an object with init and step, .* got the class Heun"),
        ({"solver": "heun"}, r"solver must be an object with init and step, .* got 'heun'"),
        ({"corrector": samplers.Heun}, r"corrector must be an object with init and step"),
        ({"generator": [seeded()]}, r"generator must be one, or one for each of the 2 samples, got 1"),
        ({"generator": 42}, r"generator must be a torch\.Generator, .* got 42\. Use torch\.Generator"),
        (
            {"cond": {"style": torch.ones(3)}},
            r"cond\['style'\] must have a leading axis of 1 or 2, got \[3\]",
        ),
        ({"cond": PerCanvas(torch.ones(2, 3))}, r"cond must be a plain tensor here, got PerCanvas"),
        ({"on_nonfinite": "mask"}, r"on_nonfinite must be 'raise' or 'ignore', got 'mask'"),
    ],
)
def test_bad_arguments_are_named_at_once(run: object, changes: dict[str, object], message: str) -> None:
    arguments = {"denoiser": D, "x": X, "sigmas": SIGMAS, "solver": samplers.Euler(), **changes}
    with pytest.raises(ValueError, match=f"^{run.__name__}: .*{message}"):
        run(**arguments)


class Far(torch.Generator):
    """Says that it lives on an accelerator, so that the check can be tested without one."""

    device = torch.device("cuda", 0)


def test_a_generator_of_another_accelerator_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"generator must live on the CPU or with x on cpu, got cuda:0\. A CPU"
    ):
        samplers.sample(D, X, SIGMAS, samplers.Euler(), generator=[torch.Generator(), Far()])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda s: s.x, r"callback: the result must be a State or None, got Tensor"),
        (
            lambda s: replace(s, x=s.x[..., :4]),
            r"callback: the new x must keep \[2, 1, 8\], .* got \[2, 1, 4\]",
        ),
        (lambda s: replace(s, x=s.x.double()), r"callback: the new x must keep .* got .* torch\.float64"),
    ],
)
def test_what_a_callback_returns_is_checked(result: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        samplers.sample(D, X, SIGMAS, samplers.Euler(), callback=lambda step, state, info: result(state))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x[:, :, :4], r"denoiser must return the shape of x, \[2, 1, 8\], got \[2, 1, 4\]"),
        (lambda x: (x,), r"denoiser must return the shape of x, .* got tuple"),
    ],
)
@pytest.mark.parametrize("solver", [samplers.Heun(), samplers.DPMpp2M()], ids=repr)
def test_what_a_denoiser_returns_is_checked(answer: object, message: str, solver: object) -> None:
    with pytest.raises(ValueError, match=message):
        samplers.sample(lambda x, sigma, cond=None: answer(x), X, SIGMAS, solver)
