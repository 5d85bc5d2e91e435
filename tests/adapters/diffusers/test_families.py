# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 3, FLUX, Stable Audio and Wan: alone as their own pipelines, together as a double loop."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import pytest
import tiny
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from intarsia.adapters.diffusers import Composer, Region
from torch import Tensor

SHORT = {"max_sequence_length": 12}


@dataclass
class Case:
    """One family: how its pipeline is built and called, and its network called by hand.

    Attributes:
        build: makes the tiny pipeline.
        one: arguments of a canvas of one region, for the pipeline as for the composer.
        plain: what the pipeline is told besides.
        extra: what the composer is told in `extra`.
        wide: arguments of a canvas of several patches, for the composer.
        regions: two that overlap, and leave something.
        network: (pipe, x, t, embeddings, place, guidance) to the model output, as the pipeline does it.
        schedulers: by name, each made from the pipeline's own.
    """

    build: Callable[[], Any]
    one: dict[str, Any]
    wide: dict[str, Any]
    regions: list[Region]
    network: Callable[..., Tensor]
    embed: Callable[[Any, str, bool], tuple[Tensor, ...]]
    schedulers: dict[str, Callable[[Any], Any]]
    plain: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    guided: dict[str, Any] = field(default_factory=dict)
    number: str = "num_images_per_prompt"


def sd3_network(pipe: Any, x: Tensor, t: Tensor, told: Any, place: Any, guidance: float) -> Tensor:
    return pipe.transformer(x, told[0], told[1], t.expand(1), return_dict=False)[0]


def sd3_embed(pipe: Any, text: str, negative: bool) -> tuple[Tensor, ...]:
    out = pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False, max_sequence_length=12)
    return out[0], out[2]


def flux_network(pipe: Any, x: Tensor, t: Tensor, told: Any, place: Any, guidance: float) -> Tensor:
    _, channels, height, width = x.shape
    packed = pipe._pack_latents(x, 1, channels, height, width)
    ids = pipe._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", x.dtype)
    scale = torch.tensor([guidance]) if pipe.transformer.config.guidance_embeds else None
    out = pipe.transformer(
        packed, told[0], told[1], t.expand(1) / 1000, ids, told[2], scale, return_dict=False
    )
    return pipe._unpack_latents(out[0], height * 8, width * 8, 8)


def flux_embed(pipe: Any, text: str, negative: bool) -> tuple[Tensor, ...]:
    return pipe.encode_prompt(text, None, max_sequence_length=12)


def audio_network(pipe: Any, x: Tensor, t: Tensor, told: Any, place: Any, guidance: float) -> Tensor:
    begin = place[0][0] * 16 / 400
    first, last = pipe.encode_duration(begin, place[1], "cpu", False, 1)
    return pipe.transformer(
        x,
        t[None],
        encoder_hidden_states=torch.cat([told[0], first, last], dim=1),
        global_hidden_states=torch.cat([first, last], dim=2),
        rotary_embedding=get_1d_rotary_pos_embed(
            pipe.rotary_embed_dim, x.shape[2] + 1, use_real=True, repeat_interleave_real=False
        ),
        return_dict=False,
    )[0]


def audio_embed(pipe: Any, text: str, negative: bool) -> tuple[Tensor, ...]:
    return (pipe.encode_prompt(text, "cpu", False),)


def wan_network(pipe: Any, x: Tensor, t: Tensor, told: Any, place: Any, guidance: float) -> Tensor:
    return pipe.transformer(x, t.expand(1), told[0], return_dict=False)[0]


def wan_embed(pipe: Any, text: str, negative: bool) -> tuple[Tensor, ...]:
    return (pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=12)[0],)


def own(pipe: Any) -> Any:
    return pipe.scheduler


def made(kind: str, **config: Any) -> Callable[[Any], Any]:
    return lambda pipe: getattr(diffusers, kind).from_config(pipe.scheduler.config, **config)


def heun(pipe: Any) -> Any:
    return diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)


PICTURE = {"height": 64, "width": 64, "patch": 64}
WIDE = {"height": 64, "width": 112, "patch": 64, "overlap": 32}
PARTS = [
    Region((0, 0, 64, 64), prompt="blue boats", guidance_scale=3.0),
    Region((32, 0, 96, 48), prompt="an old harbour", weight=0.5, negative_prompt="fog"),
]
CASES = {
    "stable_diffusion_3": Case(
        partial(tiny.stable_diffusion_3, dynamic_shifting=True),
        PICTURE,
        WIDE,
        PARTS,
        sd3_network,
        sd3_embed,
        {
            "flow euler": own,
            "flow euler, one shift": made("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=False),
            "flow heun": heun,
            "unipc, shifted": lambda pipe: diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, use_dynamic_shifting=True
            ),
        },
        plain=SHORT,
        extra=SHORT,
    ),
    "flux": Case(
        tiny.flux,
        PICTURE,
        WIDE,
        PARTS,
        flux_network,
        flux_embed,
        {
            "flow euler": own,
            "flow euler, one shift": made("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=False),
            "unipc": lambda pipe: diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            "flow euler, beta": made("FlowMatchEulerDiscreteScheduler", use_beta_sigmas=True),
        },
        plain=SHORT,
        extra=SHORT,
        guided={"true_cfg_scale": 3.0},
    ),
    "stable_audio": Case(
        tiny.stable_audio,
        {"audio_end_in_s": 1.28},
        {"audio_end_in_s": 2.56, "overlap": 0.64},
        [
            Region((0.0, 1.28), prompt="blue boats", guidance_scale=3.0),
            Region((0.8, 1.8), prompt="an old harbour", weight=0.5, negative_prompt="fog"),
        ],
        audio_network,
        audio_embed,
        {
            "edm dpm++": own,
            "cosine dpm++": lambda pipe: diffusers.CosineDPMSolverMultistepScheduler(),
            "edm euler": lambda pipe: diffusers.EDMEulerScheduler(prediction_type="v_prediction"),
        },
        number="num_waveforms_per_prompt",
    ),
    "wan": Case(
        tiny.wan,
        {"num_frames": 9, "height": 32, "width": 48},
        {"num_frames": 17, "height": 32, "width": 64, "patch": (9, 32, 48), "overlap": (4, 16, 16)},
        [
            Region((0, 0, 48, 32), frames=(0, 9), prompt="blue boats", guidance_scale=3.0),
            Region(
                (16, 0, 64, 32), frames=(5, 13), prompt="an old harbour", weight=0.5, negative_prompt="fog"
            ),
        ],
        wan_network,
        wan_embed,
        {
            "unipc": own,
            "flow euler": lambda pipe: diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
            "dpm++": made("DPMSolverMultistepScheduler"),
        },
        plain=SHORT,
        extra=SHORT,
        number="num_videos_per_prompt",
    ),
}
LOOPS = [
    ("stable_diffusion_3", "flow euler", "gaussian"),
    ("stable_diffusion_3", "flow heun", "uniform"),
    ("flux", "flow euler", "gaussian"),
    ("flux", "flow heun", "uniform"),
    ("stable_audio", "edm dpm++", "gaussian"),
    ("stable_audio", "cosine dpm++", "uniform"),
    ("wan", "unipc", "gaussian"),
    ("wan", "dpm++", "uniform"),
]
RUNS = [(name, scheduler) for name, case in CASES.items() for scheduler in case.schedulers]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(case: Case, pipe: Any, prompt: Any = "a red barn", **told: Any) -> Tensor:
    size = {key: value for key, value in case.one.items() if key != "patch"}
    given = {"num_inference_steps": 3, "generator": seeded(), "output_type": "pt", "return_dict": False}
    return pipe(prompt, **{**size, **case.plain, **given, **told})[0]


def ours(case: Case, pipe: Any, prompt: Any = "a red barn", **told: Any) -> Any:
    return called(case, pipe, prompt, return_dict=False, **told)[0]


def called(case: Case, pipe: Any, prompt: Any = "a red barn", *, wide: bool = False, **told: Any) -> Any:
    extra = {**case.extra, **told.pop("extra", {})}
    given = {"num_inference_steps": 3, "generator": seeded(), "output_type": "pt"}
    size = case.wide if wide else case.one
    return Composer.from_pipe(pipe)(prompt, **{**size, "extra": extra, **given, **told})


@pytest.mark.parametrize(("name", "scheduler"), RUNS)
def test_one_region_is_the_plain_pipeline(name: str, scheduler: str) -> None:
    case = CASES[name]
    pipe, other = case.build(), case.build()
    other.scheduler = case.schedulers[scheduler](other)
    pipe.scheduler = case.schedulers[scheduler](pipe)
    before = copy.deepcopy(vars(pipe.scheduler))
    scale = {"guidance_scale": 1.0} if name != "flux" else {}
    assert torch.equal(ours(case, pipe, max_batch=1, **scale), plain(case, other, **scale))
    # Timesteps set on the plain pipeline's own scheduler stay there; ours is as it was.
    assert {key for key, value in vars(pipe.scheduler).items() if not same(value, before[key])} == set()


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return bool(first == second) or first is second


@pytest.mark.parametrize("negative", [None, "fog"])
@pytest.mark.parametrize("name", CASES)
def test_guidance_is_the_plain_pipelines(name: str, negative: str | None) -> None:
    case = CASES[name]
    pipe = case.build()
    told = {"guidance_scale": 4.0, "negative_prompt": negative}
    told["output_type"] = "latent"
    expected = plain(case, pipe, **told, **case.guided)
    if name == "flux":
        expected = pipe._unpack_latents(expected, 64, 64, 8)
    actual = ours(case, pipe, extra=case.guided, **told)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_generators_and_counts_are_the_plain_pipelines(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    generators = [seeded(seed) for seed in range(4)]
    expected = plain(case, pipe, ["a red barn", "hills"], generator=generators, **{case.number: 2})
    generators = [seeded(seed) for seed in range(4)]
    actual = ours(case, pipe, ["a red barn", "hills"], generator=generators, num_images_per_prompt=2)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    alone = ours(case, pipe, "hills", generator=[seeded(3)])
    torch.testing.assert_close(actual[3:], alone, rtol=1e-5, atol=1e-5)


def naive(case: Case, pipe: Any, scales: tuple[float, float], true_scale: float | None) -> Tensor:
    """The double loop: every patch by itself, weights summed by hand, one step per canvas."""
    composer = Composer.from_pipe(pipe)
    plan = composer.plan(case.regions, **case.wide)
    flow = composer.family.schedule(3, patch=plan.patch)
    channels = composer.family.channels
    x = torch.randn(1, channels, *plan.size, generator=seeded()) * getattr(flow, "init_noise_sigma", 1.0)
    boxes = plan.layout.boxes()
    maps = plan.layout.weights(plan.weight, dtype=torch.float64)
    weights: list[Tensor] = [torch.empty(0)] * len(boxes)
    for (part, index), factors in zip(plan.layout.groups, maps, strict=True):
        for place, r in enumerate(index.tolist()):
            if len(factors) == len(part.patch) and factors[0].ndim == 1:
                full = torch.ones((), dtype=torch.float64)
                for factor in factors:
                    full = full[..., None] * factor
            else:
                full = factors[0][place % factors[0].shape[0]]
            weights[r] = full * float(plan.coefficient[r])
    length = case.wide.get("audio_end_in_s")
    for t in flow.timesteps:
        total, norm = torch.zeros(x.shape, dtype=torch.float64), torch.zeros(plan.size, dtype=torch.float64)
        scaled = flow.scale_model_input(x, t) if hasattr(flow, "scale_model_input") else x
        for (offset, extent), weight, owner in zip(boxes, weights, plan.owner.tolist(), strict=True):
            at = tuple(slice(o, o + e) for o, e in zip(offset, extent, strict=True))
            region = case.regions[owner] if owner >= 0 else Region((0, 1), prompt="a red barn")
            scale = region.guidance_scale or scales[0]
            call = partial(case.network, pipe, scaled[(..., *at)], t)
            place = (offset, length)
            positive = call(case.embed(pipe, region.prompt or "", False), place, scale)
            used = scale if true_scale is None else true_scale
            if used > 1:
                negative = call(case.embed(pipe, region.negative_prompt or "sleet", True), place, scale)
                positive = negative + used * (positive - negative)
            total[(..., *at)] += weight * positive.double()
            norm[at] += weight
        drawn = {"generator": seeded()} if "generator" in inspect.signature(flow.step).parameters else {}
        x = flow.step((total / norm).float(), t, x, return_dict=False, **drawn)[0]
    return x


@pytest.mark.parametrize(("name", "scheduler", "window"), LOOPS)
@torch.no_grad()
def test_overlapping_regions_are_a_double_loop(name: str, scheduler: str, window: str) -> None:
    case = copy.copy(CASES[name])
    case.wide = {**case.wide, "window": window}
    pipe = case.build()
    pipe.scheduler = case.schedulers.get(scheduler, heun)(pipe)
    told: dict[str, Any] = {"guidance_scale": 4.0, "negative_prompt": "sleet", "extra": case.guided}
    actual = ours(case, pipe, wide=True, regions=case.regions, output_type="latent", max_batch=5, **told)
    expected = naive(case, pipe, (4.0, 3.0), case.guided.get("true_cfg_scale"))
    assert actual.isfinite().all()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_results_are_the_pipelines_own(name: str) -> None:
    case = CASES[name]
    pipe = case.build()
    size = {key: value for key, value in case.one.items() if key != "patch"}
    expected = pipe("a red barn", num_inference_steps=1, generator=seeded(), **size, **case.plain)
    actual = called(case, pipe, num_inference_steps=1, output_type=None, return_dict=True)
    assert type(actual) is type(expected)
    assert actual.keys() == expected.keys()
    first, second = next(iter(actual.values())), next(iter(expected.values()))
    assert type(first) is type(second) and len(first) == len(second) == 1
    tuple_of = ours(case, pipe, num_inference_steps=1, output_type=None)
    assert type(tuple_of) is type(first)
