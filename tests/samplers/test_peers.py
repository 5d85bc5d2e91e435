# SPDX-License-Identifier: Apache-2.0
"""The same tiny eps-network through the schedulers of diffusers and through our solvers."""

from __future__ import annotations

import warnings

import pytest
import torch
from intarsia import denoisers, samplers
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

# numpy 2 warns of the way in which diffusers turns tensors into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TRAINING = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
STEPS = 10


def eps(x: Tensor, t: Tensor) -> Tensor:
    """Bounded, smooth in t, and different at every element."""
    weight = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0)) / 4
    time = torch.cos(t.float() / 300).reshape(-1, 1, 1, 1)
    return torch.nn.functional.conv2d(torch.tanh(x), weight, padding=1) + 0.3 * x + 0.2 * time


def noise() -> Tensor:
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def theirs(scheduler: object, x: Tensor, **options: object) -> Tensor:
    for t in scheduler.timesteps:
        out = eps(scheduler.scale_model_input(x, t), t.reshape(1))
        x = scheduler.step(out, t, x, **options).prev_sample
    return x


def ours(scheduler: object, x: Tensor, sigmas: Tensor, solver: object) -> Tensor:
    D = denoisers.from_eps(eps, alphas_cumprod=scheduler.alphas_cumprod)
    return samplers.sample(D, x, sigmas, solver, generator=torch.Generator().manual_seed(2))


def assert_same(a: Tensor, b: Tensor) -> None:
    assert a.isfinite().all() and b.std() > 0.1
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


# linspace falls on whole steps only where STEPS - 1 divides 999.
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("EulerDiscreteScheduler", samplers.Euler()),
        ("EulerAncestralDiscreteScheduler", samplers.EulerAncestral()),
        ("HeunDiscreteScheduler", samplers.Heun()),
    ],
)
def test_schedulers_in_sigma_space(name: str, solver: object) -> None:
    scheduler = getattr(diffusers, name)(**TRAINING, timestep_spacing="linspace")
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.unique().flip(0)
    assert len(sigmas) == STEPS + 1 and sigmas[-1] == 0
    x = noise() * sigmas[0]
    options = {"generator": torch.Generator().manual_seed(2)} if "Ancestral" in name else {}
    assert_same(theirs(scheduler, x, **options), ours(scheduler, x, sigmas, solver))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**TRAINING, clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    abar = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = torch.cat([((1 - abar) / abar).sqrt(), abar.new_zeros(1)])
    start = noise()
    expected = theirs(scheduler, start, eta=eta, generator=torch.Generator().manual_seed(2))
    assert_same(expected, ours(scheduler, start / abar[0].sqrt().float(), sigmas, samplers.DDIM(eta)))


@pytest.mark.parametrize("steps", [STEPS, 20])
def test_dpm_solver_multistep(steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TRAINING, algorithm_type="dpmsolver++", solver_order=2
    )
    scheduler.set_timesteps(steps)
    abar = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = torch.cat([((1 - abar) / abar).sqrt(), abar.new_zeros(1)])
    start = noise()
    expected = theirs(scheduler, start)
    assert_same(expected, ours(scheduler, start / abar[0].sqrt().float(), sigmas, samplers.DPMpp2M()))


def test_the_comparison_can_fail() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**TRAINING, timestep_spacing="linspace")
    scheduler.set_timesteps(STEPS)
    x = noise() * scheduler.sigmas[0]
    with pytest.raises(AssertionError):
        assert_same(theirs(scheduler, x), ours(scheduler, x, scheduler.sigmas, samplers.Heun()))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_spacings_pick_the_same_levels(spacing: str) -> None:
    from intarsia import schedules

    scheduler = diffusers.EulerDiscreteScheduler(**TRAINING, timestep_spacing=spacing)
    scheduler.set_timesteps(STEPS)
    sigmas = schedules.from_alphas_cumprod(scheduler.alphas_cumprod, STEPS, spacing=spacing)
    torch.testing.assert_close(sigmas.float(), scheduler.sigmas.float(), rtol=1e-4, atol=1e-5)
