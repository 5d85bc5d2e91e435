# SPDX-License-Identifier: Apache-2.0
"""Two loops written to k-diffusion's calling convention, against our own samplers; and the package itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from analytic import Gaussian
from intarsia import Factor, compose, guidance, layout, samplers, schedules
from intarsia.adapters import k_diffusion
from torch import Tensor

SIGMAS = schedules.karras(12, sigma_min=0.02, sigma_max=10.0)


def euler(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> Tensor:
    """Order 1 in derivative form, calling the model and the callback as the package's samplers do."""
    extra_args, s_in = extra_args or {}, x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * s_in, **extra_args)
        if callback is not None:
            told = {"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised}
            callback(told)
        slope = (x - denoised) / sigmas[i]
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


def heun(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
) -> Tensor:
    """Order 2: the trapezoidal rule, skipped on a step to 0."""
    extra_args, s_in = extra_args or {}, x.new_ones([x.shape[0]])
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - model(x, sigma * s_in, **extra_args)) / sigma
        ahead = x + slope * (after - sigma)
        if after > 0:
            slope = (slope + (ahead - model(ahead, after * s_in, **extra_args)) / after) / 2
            ahead = x + slope * (after - sigma)
        x = ahead
    return x


class Smooth:
    """Looks at its neighbours and believes its label, so that regions disagree."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: dict[str, Tensor]) -> Tensor:
        s2 = (sigma**2).reshape(-1, 1, 1, 1)
        near = (x + x.roll(1, -1) + x.roll(1, -2)) / 3
        return (near + s2 * cond["mean"].reshape(-1, 1, 1, 1)) / (1 + s2)


def scene() -> compose.Composite:
    """Nine regions with a label and a guidance scale of their own."""
    grid = layout.grid(size=(12, 16), patch=(8, 8), stride=(4, 4))
    rows = grid.num_regions
    guided = guidance.CFG(Smooth(), uncond={"mean": torch.zeros(1)}, scale=torch.linspace(1, 3, rows))
    place = {"mean": torch.linspace(-1, 1, rows)}
    return compose.average(Factor(guided, grid, layout.gaussian, cond=place, max_batch=4))


def noise(dtype: torch.dtype, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return SIGMAS[0] * torch.randn(batch, 3, 12, 16, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("loop", "solver"), [(euler, samplers.Euler()), (heun, samplers.Heun())])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_composite_runs_in_their_loops(loop: Any, solver: Any, dtype: torch.dtype) -> None:
    composite, x = scene(), noise(dtype)
    theirs = loop(k_diffusion.model(composite), x, SIGMAS.to(dtype))
    ours = samplers.sample(composite, x, SIGMAS, solver)
    assert theirs.dtype == dtype and ours.std() > 0.1
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


def test_their_extra_args_are_our_cond() -> None:
    x, style = noise(torch.float64), {"mean": torch.tensor([0.5, -0.5], dtype=torch.float64)}
    grid = layout.grid(size=(12, 16), patch=(8, 8), stride=(4, 4))
    composite = compose.average(Factor(Smooth(), grid))
    theirs = euler(k_diffusion.model(composite), x, SIGMAS, extra_args=style)
    ours = samplers.sample(composite, x, SIGMAS, samplers.Euler(), cond=style)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    always = euler(k_diffusion.model(composite, cond=style), x, SIGMAS)
    assert torch.equal(always, theirs)
    with pytest.raises(ValueError, match="must not give a key twice, got mean"):
        k_diffusion.model(composite, cond=style)(x, x.new_ones(2), **style)


def test_their_callback_sees_what_ours_sees() -> None:
    seen: list[dict[str, Any]] = []
    told: list[tuple[float, Tensor]] = []
    composite, x = scene(), noise(torch.float64)
    euler(k_diffusion.model(composite), x, SIGMAS, callback=seen.append)

    def note(step: int, state: object, info: Any) -> None:
        told.append((info.sigma_hat, info.denoised))

    samplers.sample(composite, x, SIGMAS, samplers.Euler(), callback=note)
    assert [entry["i"] for entry in seen] == list(range(len(SIGMAS) - 1))
    for entry, (sigma_hat, denoised) in zip(seen, told, strict=True):
        assert float(entry["sigma_hat"]) == pytest.approx(sigma_hat)
        torch.testing.assert_close(entry["denoised"], denoised, rtol=0, atol=1e-6)


def test_their_model_is_a_leaf_of_ours() -> None:
    calls: list[tuple[torch.Size, torch.dtype, torch.dtype]] = []

    def net(x: Tensor, sigma: Tensor, mean: Tensor, quiet: bool = False) -> Tensor:
        calls.append((sigma.shape, x.dtype, sigma.dtype))
        assert quiet
        return Smooth()(x, sigma, {"mean": mean})

    grid = layout.grid(size=(12, 16), patch=(8, 8), stride=(4, 4))
    cond = {"mean": torch.linspace(-1, 1, grid.num_regions, dtype=torch.float64), "quiet": True}
    leaf = k_diffusion.denoiser(net, sizes=((8, 8),))
    made = compose.average(Factor(leaf, grid, layout.gaussian, cond=cond, max_batch=4))
    plain = compose.average(Factor(Smooth(), grid, layout.gaussian, cond=cond, max_batch=4))
    x = noise(torch.float64)
    results = [samplers.sample(D, x, SIGMAS, samplers.Heun()) for D in (made, plain)]
    assert torch.equal(*results)
    assert {shape for shape, *_ in calls} == {torch.Size([4])}

    calls.clear()
    half = k_diffusion.denoiser(net, dtype=torch.bfloat16)
    out = half(noise(torch.float32), torch.ones(2), {"mean": torch.zeros(2), "quiet": True})
    assert calls == [(torch.Size([2]), torch.bfloat16, torch.bfloat16)] and out.dtype == torch.float32


def test_there_and_back() -> None:
    data, x = Gaussian(), noise(torch.float64)
    again = k_diffusion.denoiser(k_diffusion.model(data))
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
    assert torch.equal(again(x, sigma), data(x, sigma))


def test_sigma_may_be_one_number() -> None:
    data, x = Gaussian(), noise(torch.float32)
    wanted = data(x, torch.full((2,), 0.5))
    wrapped = k_diffusion.model(data)
    for sigma in (0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.full((2,), 0.5, dtype=torch.float64)):
        assert torch.equal(wrapped(x, sigma), wanted)


def test_gradients_reach_the_canvas() -> None:
    x = noise(torch.float64).requires_grad_()
    k_diffusion.model(scene())(x, x.new_ones(2)).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: k_diffusion.denoiser(3), "denoiser: model must be callable"),
        (lambda x: k_diffusion.model("net"), "model: denoiser must be callable"),
        (
            lambda x: k_diffusion.denoiser(Gaussian())(x, torch.ones(3)),
            r"sigma must have shape \[B\]",
        ),
        (lambda x: k_diffusion.denoiser(Gaussian())(x, torch.ones(2), 7), "cond must be None or a dict"),
        (lambda x: k_diffusion.denoiser(Gaussian())(x[0, 0], torch.ones(1)), "x must have shape"),
        (lambda x: k_diffusion.model(Gaussian())(x, torch.ones(3)), "sigma must have shape"),
        (lambda x: k_diffusion.model(Gaussian())(x, torch.ones(2, 1)), "sigma must have shape"),
        (lambda x: k_diffusion.model(Gaussian())(x, 1.0, mean=torch.ones(5)), r"cond\['mean'\] must have"),
        (lambda x: k_diffusion.model(lambda *_: x[:1])(x, 1.0), "must return the shape of x"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[Tensor], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(noise(torch.float32))


def package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("sample_euler", samplers.Euler()),
        ("sample_heun", samplers.Heun()),
        ("sample_dpmpp_2m", samplers.DPMpp2M()),
    ],
)
def test_the_samplers_of_the_package(name: str, solver: Any) -> None:
    sampling = package()
    composite, x = scene(), noise(torch.float64)
    theirs = getattr(sampling, name)(k_diffusion.model(composite), x, SIGMAS, disable=True)
    torch.testing.assert_close(theirs, samplers.sample(composite, x, SIGMAS, solver), rtol=0, atol=1e-6)
