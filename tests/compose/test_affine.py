# SPDX-License-Identifier: Apache-2.0
"""The update fused into the merge equals the update in steps of its own, and makes no canvas besides."""

from __future__ import annotations

import pytest
import torch
from intarsia import compose, denoisers, layout, samplers, schedules
from intarsia.compose import Factor
from intarsia.guidance import CFG
from intarsia.types import affine
from torch.utils._python_dispatch import TorchDispatchMode

SIZE = (24, 40)
GRID = layout.grid(SIZE, (16, 16), (8, 8))
B, C = 2, 3


def smooth(x, sigma, cond=None):
    gain = 1.0 if cond is None else cond["gain"].reshape(-1, 1, 1, 1)
    return torch.tanh(x * gain) / (1 + sigma.reshape(-1, 1, 1, 1))


def raw(x, time, cond=None):
    return torch.sin(x + time.reshape(-1, 1, 1, 1)) * (
        1.0 if cond is None else cond["gain"].reshape(-1, 1, 1, 1)
    )


def guided(denoiser, scale):
    return CFG(denoiser, uncond={"gain": torch.zeros(1)}, scale=scale)


EDM = denoisers.from_edm(raw, sigma_data=0.5)
GAINS = {"gain": torch.linspace(0.5, 1.5, GRID.num_regions)}
REGIONAL = torch.linspace(1, 8, GRID.num_regions)
COMPOSITES = {
    "average": lambda: compose.average(Factor(smooth, GRID, layout.gaussian)),
    "guided": lambda: compose.average(Factor(guided(smooth, REGIONAL), GRID, layout.gaussian, cond=GAINS)),
    "nested": lambda: compose.average(
        Factor(guided(guided(smooth, 2.0), 3.0), GRID, cond=GAINS, max_batch=7)
    ),
    "network": lambda: compose.average(Factor(EDM, GRID, layout.gaussian)),
    "guided network": lambda: compose.average(
        Factor(guided(EDM, REGIONAL), GRID, layout.gaussian, cond=GAINS, max_batch=5)
    ),
    "two factors": lambda: compose.average(Factor(smooth, GRID), Factor(EDM, GRID, layout.gaussian)),
    "signed": lambda: compose.weighted_sum(
        Factor(EDM, layout.grid(SIZE, (24, 20), (24, 20)), coefficient=1.0)
    ),
    "boxes": lambda: compose.average(
        Factor(smooth, layout.boxes(SIZE, [((0, 0), SIZE), ((4, 4), (8, 16))]), layout.cosine)
    ),
}


class Hidden:
    """A composite whose fused update nobody can see."""

    def __init__(self, composite):
        self.composite = composite

    def __call__(self, x, sigma, cond=None):
        return self.composite(x, sigma, cond)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COMPOSITES)
@torch.no_grad()
def test_equals_the_separate_steps(name, dtype):
    composite = COMPOSITES[name]()
    x, noise = torch.randn(B, C, *SIZE, dtype=dtype), torch.randn(B, C, *SIZE, dtype=dtype)
    sigma = torch.tensor([0.7, 2.0], dtype=dtype)
    for numbers in (
        {"a": 0.25, "b": 0.75},
        {"a": 0.0, "b": 1.0},
        {"a": 0.5, "b": -1.5, "c": 2.0, "noise": noise},
    ):
        fused = affine(composite, x, sigma, None, **numbers)
        steps = affine(Hidden(composite), x, sigma, None, **numbers)
        assert fused.dtype is dtype
        torch.testing.assert_close(fused, steps, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["guided", "guided network"])
def test_gradients_take_the_separate_steps(name):
    composite = COMPOSITES[name]()
    x = torch.randn(1, C, *SIZE, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.7], dtype=torch.float64)
    for denoiser in (composite, Hidden(composite)):
        value = affine(denoiser, x, sigma, None, a=0.25, b=0.75).square().sum()
        (gradient,) = torch.autograd.grad(value, x)
        if denoiser is composite:
            expected = gradient
    torch.testing.assert_close(gradient, expected)


SOLVERS = {
    "Euler": samplers.Euler(),
    "DDIM": samplers.DDIM(eta=0.7),
    "EulerAncestral": samplers.EulerAncestral(),
    "Heun": samplers.Heun(s_churn=5.0),
    "DPMpp2M": samplers.DPMpp2M(),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["guided", "guided network"])
def test_samplers_use_it_with_the_same_result(name, solver):
    composite = COMPOSITES[name]()
    sigmas = schedules.karras(8)
    start = sigmas[0] * torch.randn(B, C, *SIZE, dtype=torch.float64)

    def run(denoiser):
        g = torch.Generator().manual_seed(3)
        return samplers.sample(denoiser, start, sigmas, SOLVERS[solver], generator=g, progress=False)

    torch.testing.assert_close(run(composite), run(Hidden(composite)), rtol=1e-9, atol=1e-9)


class Canvases(TorchDispatchMode):
    """Counts the operations that return a whole canvas."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and tuple(result.shape) == (B, C, *SIZE):
            self.seen.append(function)
        return result


@pytest.mark.parametrize("name", ["average", "guided", "guided network"])
def test_an_euler_step_makes_one_canvas(name):
    composite = COMPOSITES[name]()
    x = torch.randn(B, C, *SIZE)
    state = samplers.Euler().init(x)
    counter = Canvases()
    with torch.no_grad(), counter:
        samplers.Euler().step(composite, state, 2.0, 1.0)
    merge = torch.ops.intarsia.scatter_average_fused.default
    assert [function for function in counter.seen if "alias" not in str(function)] == [merge]


def test_results_are_never_memory_that_is_used_again():
    composite = COMPOSITES["guided network"]()
    x, sigma = torch.randn(B, C, *SIZE), torch.ones(B)
    with torch.no_grad():
        first = composite.affine(x, sigma, a=0.5, b=0.5)
        kept = first.clone()
        composite.affine(2 * x, sigma, a=0.5, b=0.5)
    assert torch.equal(first, kept)
