# SPDX-License-Identifier: Apache-2.0
"""One network of diffusers as a denoiser: every prediction type, its own scale, its keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from intarsia import Factor, compose, guidance, layout, samplers, schedules
from intarsia.adapters.diffusers import denoiser
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

VP = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
UNCLIPPED = {**VP, "clip_sample": False}
CLEAN = torch.linspace(-1, 1, 2 * 3 * 16, dtype=torch.float64).reshape(2, 3, 4, 4)
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Knows:
    """A network that knows the clean canvas and the noise, and says so in its own way."""

    dtype = torch.float64

    def __init__(self, prediction: str) -> None:
        self.prediction = prediction
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        assert not return_dict
        self.seen.append((x, t))
        table = diffusers.DDIMScheduler(**VP).alphas_cumprod.double()
        low = t.floor().long().clamp(max=998)
        ratio = ((1 - table) / table).sqrt().log()
        sigma = torch.lerp(ratio[low], ratio[low + 1], t.double() - low).exp().reshape(-1, 1, 1, 1)
        a = (1 + sigma**2).rsqrt()
        s = sigma * a
        answers = {
            "epsilon": NOISE,
            "sample": CLEAN,
            "v_prediction": a * NOISE - s * CLEAN,
            "flow_prediction": NOISE - CLEAN,
        }
        return (answers[self.prediction],)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_estimate_is_the_clean_canvas(prediction: str) -> None:
    network = Knows(prediction)
    D = denoiser(network, diffusers.DDIMScheduler(**VP, prediction_type=prediction))
    sigma = torch.tensor([0.3, 7.0], dtype=torch.float64)
    x = CLEAN + sigma.reshape(-1, 1, 1, 1) * NOISE
    torch.testing.assert_close(D(x, sigma), CLEAN, rtol=1e-6, atol=1e-6)
    seen, _ = network.seen[0]
    torch.testing.assert_close(seen, x / (1 + sigma**2).sqrt().reshape(-1, 1, 1, 1))


def test_flow_prediction() -> None:
    network = Knows("flow_prediction")
    D = denoiser(network, diffusers.FlowMatchEulerDiscreteScheduler())
    sigma = torch.tensor([0.25, 3.0], dtype=torch.float64)
    torch.testing.assert_close(D(CLEAN + sigma.reshape(-1, 1, 1, 1) * NOISE, sigma), CLEAN)
    torch.testing.assert_close(network.seen[0][1], torch.tensor([200.0, 750.0], dtype=torch.float64))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "CosineDPMSolverMultistepScheduler"])
def test_edm_preconditioning(prediction: str, kind: str) -> None:
    """Equal to the scheduler's own maps between what the network says and the estimate."""
    scheduler = getattr(diffusers, kind)(prediction_type=prediction, sigma_data=0.7)
    told: list[Tensor] = []

    def network(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        told.append(t)
        return torch.sin(3 * x)

    D = denoiser(network, scheduler, call=network)
    sigma = torch.tensor([0.5, 0.5], dtype=torch.float64)
    x = CLEAN + 0.5 * NOISE
    scaled = scheduler.precondition_inputs(x, sigma[0])
    want = scheduler.precondition_outputs(x, torch.sin(3 * scaled), sigma[0])
    torch.testing.assert_close(D(x, sigma), want)
    torch.testing.assert_close(told[0], scheduler.precondition_noise(sigma))


def test_native_and_call_agree_through_a_run() -> None:
    """DDIM through the scheduler, and our own solver over the same levels, make the same canvas."""

    def network(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return torch.tanh(x) * (0.5 + 1e-4 * t.to(x.dtype).reshape(-1, 1, 1, 1))

    scheduler = diffusers.DDIMScheduler(**UNCLIPPED)
    scheduler.set_timesteps(10)
    D = compose.average(
        Factor(denoiser(network, scheduler, call=network), layout.grid((8, 12), (8, 8), (8, 4)))
    )
    noise = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    solver = samplers.FromDiffusers(scheduler)
    a, s = solver.marginals()[0]
    own = samplers.sample(D, noise / a, solver.levels(), samplers.DDIM())
    via = samplers.sample(D, noise, None, solver)
    # The scheduler's table has float32 entries.
    torch.testing.assert_close(own, via / solver.marginals()[-1][0], rtol=1e-3, atol=1e-3)


def unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**{**given, **changes}).eval().requires_grad_(False)


def test_the_keyword_arguments_are_the_networks_own() -> None:
    network = unet()
    D = denoiser(network, diffusers.DDIMScheduler(**VP))
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([7, 700]), torch.randn(2, 5, 16)
    want = network(x, t, encoder_hidden_states=text).sample
    assert torch.equal(D.native(x, t, {"encoder_hidden_states": text}), want)
    assert torch.equal(D.native(x, t, text), want)
    labelled = denoiser(unet(class_embed_type="timestep"), diffusers.DDIMScheduler(**VP))
    told = {"encoder_hidden_states": text, "class_labels": torch.tensor([1, 2])}
    assert labelled.native(x, t, told).shape == x.shape


def test_a_predicted_variance_is_cut_off() -> None:
    network = unet(out_channels=8)
    D = denoiser(network, diffusers.DDIMScheduler(**VP))
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 16)
    assert torch.equal(D.native(x, t, text), network(x, t, text).sample[:, :4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_networks_and_a_whole_canvas(dtype: torch.dtype) -> None:
    """The canvas and its sums stay float32, whatever the network computes in."""
    full, half = unet(), unet().to(dtype)
    ring = layout.grid((8, 16), (8, 8), (8, 4), wrap=(False, True))
    scheduler = diffusers.DDIMScheduler(**VP)
    scheduler.set_timesteps(4)
    text = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(3))
    canvases = []
    for network, told in ((full, text), (half, text.to(dtype))):
        D = denoiser(network, scheduler)
        guided = guidance.CFG(D, {"encoder_hidden_states": torch.zeros_like(told)}, 2.0)
        pano = compose.average(Factor(guided, ring, layout.gaussian, max_batch=3))
        x = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(1))
        cond = {"encoder_hidden_states": told}
        canvases.append(samplers.sample(pano, x, None, samplers.FromDiffusers(scheduler), cond=cond))
    assert canvases[1].dtype == torch.float32 and torch.isfinite(canvases[1]).all()
    first, second = (canvas.flatten() for canvas in canvases)
    assert 1 - torch.nn.functional.cosine_similarity(first, second, dim=0) < 5e-2


def test_our_own_solvers_run_a_network_of_diffusers() -> None:
    network = unet()
    D = denoiser(network, diffusers.EulerDiscreteScheduler(**VP))
    pano = compose.average(Factor(D, layout.grid((8, 24), (8, 8), (8, 4)), layout.gaussian))
    sigmas = schedules.karras(4, 0.03, 14.0)
    x = sigmas[0].float() * torch.randn(1, 4, 8, 24)
    cond = {"encoder_hidden_states": torch.randn(1, 5, 16)}
    got = samplers.sample(pano, x, sigmas, samplers.DPMpp2M(), cond=cond)
    assert got.shape == x.shape and torch.isfinite(got).all()


def test_processes_that_differ_are_told_apart() -> None:
    ddim, other = diffusers.DDIMScheduler(**VP), diffusers.DDIMScheduler()
    first, same, second = (denoiser(unet(), scheduler) for scheduler in (ddim, ddim, other))
    assert first.process == same.process != second.process
    regions = layout.grid((8, 8), (8, 8), (8, 8))
    assert compose.average(Factor(first, regions), Factor(same, regions)).native is not None
    with pytest.raises(AttributeError, match="share one process"):
        _ = compose.average(Factor(first, regions), Factor(second, regions)).native


def test_a_table_that_ends_in_nothing_loses_its_last_entry() -> None:
    scheduler = diffusers.DDIMScheduler(**VP, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    D = denoiser(unet(), scheduler)
    x = torch.randn(1, 4, 8, 8)
    assert torch.isfinite(D(x, torch.tensor([500.0]), torch.randn(1, 5, 16))).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="scheduler must be a scheduler of diffusers, got NoneType"):
        denoiser(unet(), None)
    with pytest.raises(ValueError, match="prediction must be one of epsilon.*got 'noise'"):
        denoiser(unet(), diffusers.DDIMScheduler(**VP), prediction="noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be epsilon or v_prediction in EDM's preconditioning"):
        denoiser(unet(), diffusers.EDMEulerScheduler(), prediction="sample")
    with pytest.raises(ValueError, match="must have a table alphas_cumprod, got IPNDMScheduler"):
        denoiser(unet(), diffusers.IPNDMScheduler())
    D = denoiser(unet(), diffusers.DDIMScheduler(**VP))
    with pytest.raises(ValueError, match=r"t must have shape \[B\] = \[2\], got \[1\]"):
        D.native(torch.zeros(2, 4, 8, 8), torch.tensor([3]), torch.zeros(2, 5, 16))
