# SPDX-License-Identifier: Apache-2.0
"""Any scheduler of diffusers steps a composite's canvas as it steps a plain network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from intarsia import Factor, compose, guidance, layout, samplers
from intarsia.samplers import FromDiffusers
from intarsia.types import marginal
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

VP = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHAPE = (2, 3, 16, 24)

# Every family: name, arguments, whether it draws noise.
SCHEDULERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "DDIM": ("DDIMScheduler", VP, False),
    "DDIM-eta": ("DDIMScheduler", VP, True),
    "DDIM-one": ("DDIMScheduler", {**VP, "set_alpha_to_one": False, "steps_offset": 1}, False),
    "DDIM-zero-snr": (
        "DDIMScheduler",
        {
            **VP,
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
        },
        False,
    ),
    "DDPM": ("DDPMScheduler", VP, True),
    "PNDM": ("PNDMScheduler", {**VP, "skip_prk_steps": True}, False),
    "PNDM-prk": ("PNDMScheduler", VP, False),
    "LMS": ("LMSDiscreteScheduler", VP, False),
    "Euler": ("EulerDiscreteScheduler", VP, False),
    "Euler-karras": ("EulerDiscreteScheduler", {**VP, "use_karras_sigmas": True}, False),
    "Euler-v": ("EulerDiscreteScheduler", {**VP, "prediction_type": "v_prediction"}, False),
    "EulerAncestral": ("EulerAncestralDiscreteScheduler", VP, True),
    "Heun": ("HeunDiscreteScheduler", VP, False),
    "KDPM2": ("KDPM2DiscreteScheduler", VP, False),
    "KDPM2Ancestral": ("KDPM2AncestralDiscreteScheduler", VP, True),
    "DPM++2M": ("DPMSolverMultistepScheduler", VP, False),
    "DPM++2M-karras": ("DPMSolverMultistepScheduler", {**VP, "use_karras_sigmas": True}, False),
    "DPM++2M-sde": ("DPMSolverMultistepScheduler", {**VP, "algorithm_type": "sde-dpmsolver++"}, True),
    "DPM++3M": ("DPMSolverMultistepScheduler", {**VP, "solver_order": 3}, False),
    "DPMSinglestep": ("DPMSolverSinglestepScheduler", VP, False),
    "DEIS": ("DEISMultistepScheduler", VP, False),
    "UniPC": ("UniPCMultistepScheduler", VP, False),
    "UniPC-flow": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        False,
    ),
    "SA": ("SASolverScheduler", VP, True),
    "LCM": ("LCMScheduler", VP, True),
    "TCD": ("TCDScheduler", VP, True),
    "EDMEuler": ("EDMEulerScheduler", {}, False),
    "EDMDPM": ("EDMDPMSolverMultistepScheduler", {}, False),
    "FlowEuler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, False),
    "FlowHeun": ("FlowMatchHeunDiscreteScheduler", {}, False),
    "IPNDM": ("IPNDMScheduler", {}, False),
}


def scheduler_of(name: str, steps: int) -> Any:
    kind, arguments, _ = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind)(**arguments)
    scheduler.set_timesteps(steps)
    return scheduler


class Network:
    """Pointwise, so that a region's output does not depend on where it was cut; counts its rows."""

    def __init__(self) -> None:
        self.rows = 0

    def native(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.rows += len(x)
        time = 1e-3 * t.to(x.dtype).reshape(-1, 1, 1, 1)
        return torch.tanh(x) * (0.5 + 0.1 * time)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
        raise AssertionError("only native is to be called")


def plain(name: str, steps: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """The loop of diffusers' own pipelines."""
    scheduler, network = scheduler_of(name, steps), Network()
    given: dict[str, Any] = {}
    if SCHEDULERS[name][2] or name == "DDIM-eta":
        given["generator"] = generator
    if name == "DDIM-eta":
        given["eta"] = 0.7
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network.native(scaled, t.expand(len(x)))
        x = scheduler.step(output, t, x, **given, return_dict=False)[0]
    return x


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def shown(scheduler: Any) -> dict[str, str]:
    """All that a scheduler holds, but functions and its configuration, which may hold one."""
    return {
        key: str(value)
        for key, value in vars(scheduler).items()
        if not callable(value) and key != "_internal_dict"
    }


def start(name: str, steps: int) -> Tensor:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    return FromDiffusers(scheduler_of(name, steps)).initial(noise)


def layouts() -> Iterator[tuple[str, layout.Layout, Any]]:
    whole = SHAPE[2:]
    yield "one", layout.grid(whole, whole, whole), layout.uniform
    yield "disjoint", layout.grid(whole, (8, 8), (8, 8)), layout.uniform
    yield "overlapping", layout.grid(whole, (8, 8), (4, 4)), layout.gaussian


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_composites_equal_the_plain_run(name: str, steps: int) -> None:
    if name == "PNDM-prk" and steps < 4:
        pytest.skip("its Runge-Kutta start needs four steps")
    x, eta = start(name, steps), 0.7 if name == "DDIM-eta" else None
    want = plain(name, steps, x, seeded())
    assert torch.isfinite(want).all()
    for kind, regions, window in layouts():
        solver = FromDiffusers(scheduler_of(name, steps), eta=eta)
        D = compose.average(Factor(Network(), regions, window, max_batch=1))
        got = samplers.sample(D, x, None, solver, generator=seeded())
        if kind == "overlapping":
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
        else:
            assert torch.equal(got, want), (kind, (got - want).abs().max())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_state_is_never_changed_and_resumes(name: str) -> None:
    """Every state of a run can be gone on from, twice, although schedulers keep their history inside."""
    steps = 6
    x, eta = start(name, steps), 0.7 if name == "DDIM-eta" else None
    solver, D = FromDiffusers(scheduler_of(name, steps), eta=eta), Network()
    run = partial(samplers.trajectory, D, sigmas=None, solver=solver)
    generator = seeded()
    whole, states, marks = [], [], []
    marks.append(generator.get_state())
    for state, _ in run(x=x, generator=generator):
        whole.append(state.x)
        states.append(state)
        marks.append(generator.get_state())
    for _ in range(2):
        for index in (0, len(states) // 2):
            again = torch.Generator()
            again.set_state(marks[index + 1])
            rest = [s.x for s, _ in run(x=states[index], generator=again)]
            assert len(rest) == len(whole) - index - 1
            assert all(torch.equal(a, b) for a, b in zip(rest, whole[index + 1 :], strict=True))
    fresh = scheduler_of(name, steps)
    assert shown(solver.scheduler) == shown(fresh)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_marginals_are_those_of_the_canvas(name: str) -> None:
    """With a network that knows the clean canvas, the state is `a * x0 + s * n` at the level it names."""
    steps = 8
    scheduler = scheduler_of(name, steps)
    if name == "IPNDM":
        pytest.skip("its process has no noising to ask")
    solver = FromDiffusers(scheduler)
    pairs = solver.marginals()
    assert len(pairs) == len(scheduler.timesteps) + 1 and None not in pairs
    levels = solver.levels()
    assert all(high >= low for high, low in zip(levels[:-1], levels[1:], strict=True)), levels
    a, s = pairs[0]
    # Some start from the noise that unit data would have where a little signal is left.
    begun = float(solver.initial(torch.ones(1)))
    assert begun == pytest.approx(s, rel=5e-3) or begun == pytest.approx((a**2 + s**2) ** 0.5, rel=5e-3)
    # Most end clean, some at the first level of their table.
    a, s = pairs[-1]
    assert s <= 0.03 and a == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "name", ["DDIM", "Euler", "Heun", "DPM++2M", "DEIS", "UniPC", "FlowEuler", "FlowHeun"]
)
def test_states_follow_their_marginals(name: str) -> None:
    """The exact network of a known canvas keeps every state on `a * x0 + s * n`."""
    steps = 8
    solver = FromDiffusers(scheduler_of(name, steps))
    clean = torch.linspace(-1, 1, 32).reshape(1, 1, 4, 8)
    noise = torch.randn(1, 1, 4, 8, generator=seeded())
    a, s = solver.marginals()[0]

    class Exact(Network):
        def native(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return noise - clean if name.startswith("Flow") else noise

    x = a * clean + s * noise
    for state, _ in samplers.trajectory(Exact(), x, None, solver):
        a, s = marginal(state)
        torch.testing.assert_close(state.x, a * clean + s * noise, rtol=2e-4, atol=2e-4)


def test_guidance_is_flattened_and_regional() -> None:
    """A scale for each region, its two terms in one batch, equal to a loop over regions by hand."""

    class Prompted(Network):
        def native(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return super().native(x, t) * cond["gain"].reshape(-1, 1, 1, 1)

    ring = layout.grid(SHAPE[2:], (16, 8), (16, 4), wrap=(False, True))
    scale = torch.linspace(1, 3, ring.num_regions)
    gains = torch.linspace(0.2, 1, ring.num_regions)
    network = Prompted()
    guided = guidance.CFG(network, {"gain": torch.full((1,), 0.1)}, scale)
    D = compose.average(Factor(guided, ring, cond={"gain": gains}))
    x, scheduler = start("DPM++2M", 4), scheduler_of("DPM++2M", 4)
    got = samplers.sample(D, x, None, FromDiffusers(scheduler_of("DPM++2M", 4)))
    assert network.rows == 4 * 2 * 2 * ring.num_regions
    for t in scheduler.timesteps:
        value, count = torch.zeros_like(x), torch.zeros_like(x)
        for r, (offset, _) in enumerate(ring.boxes()):
            columns = (torch.arange(8) + offset[1]) % SHAPE[3]
            crop = x[..., columns]
            bare = Network().native(crop, t.expand(2))
            value[..., columns] += 0.1 * bare + scale[r] * (gains[r] * bare - 0.1 * bare)
            count[..., columns] += 1
        x = scheduler.step(value / count, t, x, return_dict=False)[0]
    torch.testing.assert_close(got, x, rtol=1e-5, atol=1e-5)


def test_composites_nest_and_signed_sums_have_native() -> None:
    whole = SHAPE[2:]
    inner = compose.average(Factor(Network(), layout.grid(whole, (8, 8), (8, 8))))
    outer = compose.weighted_sum(
        Factor(inner, layout.grid(whole, whole, whole), coefficient=2.0),
        Factor(Network(), layout.grid(whole, whole, whole), coefficient=-1.0),
    )
    x = start("DDIM", 3)
    got = samplers.sample(outer, x, None, FromDiffusers(scheduler_of("DDIM", 3)))
    torch.testing.assert_close(got, plain("DDIM", 3, x, None), rtol=1e-4, atol=1e-5)


def test_leaves_of_different_processes_are_refused() -> None:
    first, second = Network(), Network()
    first.process, second.process = ("epsilon", "a"), ("v_prediction", "a")  # type: ignore[attr-defined]
    regions = layout.grid(SHAPE[2:], (8, 8), (8, 8))
    D = compose.average(Factor(first, regions), Factor(second, regions))
    assert getattr(D, "native", None) is None
    with pytest.raises(ValueError, match="share one process and prediction type.*v_prediction"):
        samplers.sample(D, start("DDIM", 2), None, FromDiffusers(scheduler_of("DDIM", 2)))


def test_threads_share_one_solver() -> None:
    solver = FromDiffusers(scheduler_of("DPM++2M", 5))
    x = start("DPM++2M", 5)
    want = plain("DPM++2M", 5, x, None)

    def one(_: int) -> Tensor:
        return samplers.sample(Network(), x, None, solver)

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(got, want) for got in pool.map(one, range(16)))


def test_canvas_noise_where_a_scheduler_takes_it() -> None:
    x = start("DDIM", 4)
    run: Callable[..., Tensor] = partial(samplers.sample, Network(), x, None, noise="canvas", seed=[1, 2])
    first, second = (run(solver=FromDiffusers(scheduler_of("DDIM", 4), eta=1.0)) for _ in range(2))
    assert torch.equal(first, second)
    alone = samplers.sample(
        Network(), x[:1], None, FromDiffusers(scheduler_of("DDIM", 4), eta=1.0), noise="canvas", seed=1
    )
    assert torch.equal(alone, first[:1])
    run(solver=FromDiffusers(scheduler_of("DPM++2M", 4)))
    with pytest.raises(ValueError, match="noise must be 'generator' for EulerAncestralDiscreteScheduler"):
        run(solver=FromDiffusers(scheduler_of("EulerAncestral", 4)))


def test_a_generator_for_each_sample() -> None:
    x = start("EulerAncestral", 4)
    solver = FromDiffusers(scheduler_of("EulerAncestral", 4))
    both = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    got = samplers.sample(Network(), x, None, solver, generator=both)
    alone = samplers.sample(Network(), x[1:], None, solver, generator=[torch.Generator().manual_seed(4)])
    assert torch.equal(got[1:], alone)


def test_callbacks_replace_the_canvas_and_keep_its_level() -> None:
    seen: list[tuple[float, float]] = []

    def halve(step: int, state: Any, info: Any) -> Any:
        seen.append(marginal(state))
        return replace(state, x=state.x / 2, marginal=None)

    solver = FromDiffusers(scheduler_of("FlowEuler", 3))
    got = samplers.sample(Network(), start("FlowEuler", 3), None, solver, callback=halve)
    assert seen == solver.marginals()[1:]
    assert torch.isfinite(got).all()


def ddim() -> FromDiffusers:
    return FromDiffusers(scheduler_of("DDIM", 2))


REFUSED = [
    (lambda: FromDiffusers(diffusers.DDIMScheduler), "must be a scheduler of diffusers, got DDIMScheduler"),
    (lambda: FromDiffusers(diffusers.DDIMScheduler()), "must know its timesteps, got DDIMScheduler"),
    (
        lambda: samplers.sample(
            Network(), start("DDIM", 2), [1.0, 0.0], FromDiffusers(scheduler_of("DDIM", 2))
        ),
        "sigmas must be None for FromDiffusers",
    ),
    (
        lambda: samplers.sample(Network(), start("DDIM", 2), None, samplers.Euler()),
        "sigmas must be given for Euler, got None",
    ),
    (
        lambda: samplers.sample(
            lambda x, s, c=None: x, start("DDIM", 2), None, FromDiffusers(scheduler_of("DDIM", 2))
        ),
        "denoiser must offer native",
    ),
    (
        lambda: samplers.sample(
            Network(),
            start("DDIM", 2),
            None,
            FromDiffusers(scheduler_of("DDIM", 2)),
            corrector=samplers.EulerAncestral(),
        ),
        "corrector must be None with FromDiffusers",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
