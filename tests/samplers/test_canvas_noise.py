# SPDX-License-Identifier: Apache-2.0
"""Runs with noise that belongs to places: crops, extensions, batches, resumed runs, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from analytic import Gaussian
from intarsia import Factor, compose, layout, ops, samplers, schedules
from intarsia.types import Info, Purpose, State
from torch import Tensor

SIGMAS = schedules.karras(6, 0.02, 10.0)
D = Gaussian()
DRAWING = [samplers.EulerAncestral(), samplers.DDIM(0.7), samplers.Heun(s_churn=2.0)]
SOLVERS = [*DRAWING, samplers.Euler(), samplers.Heun(), samplers.DPMpp2M()]


@dataclass(frozen=True)
class Jitter:
    """A corrector that draws twice."""

    def init(self, x: Tensor) -> State:
        return State(x)

    def step(self, D, state, sigma, sigma_next, cond, generator) -> tuple[State, Info]:  # noqa: ANN001
        one, two = (samplers.normal_like(state.x, generator) for _ in range(2))
        assert not bool((one == two).any())
        return replace(state, x=state.x + 0.1 * one - 0.1 * two), Info(sigma, sigma_next)


def start(size: tuple[int, ...], seed: object = 7, offset: tuple[int, ...] | None = None, **more) -> Tensor:
    return samplers.initial(SIGMAS, size, channels=2, seed=seed, offset=offset, **more)


def run(size, solver, seed=7, offset=None, denoiser=D, **more) -> Tensor:  # noqa: ANN001
    x = start(size, seed, offset)
    return samplers.sample(
        denoiser, x, SIGMAS, solver, noise="canvas", seed=seed, offset=offset, corrector=Jitter(), **more
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
class TestEverySolver:
    def test_an_extended_canvas_keeps_its_noise(self, solver: object) -> None:
        narrow = run((5, 64), solver)
        for before, after in ((0, 32), (32, 0), (16, 16), (13, 19)):
            wide = run((5, 64 + before + after), solver, offset=(0, -before))
            assert torch.equal(wide[..., before : before + 64], narrow)
        volume = run((3, 4, 16), solver, offset=(-1, -2, -3))
        assert torch.equal(volume[:, :, 1:, 2:, 3:], run((2, 2, 13), solver))

    def test_a_sample_alone_is_the_sample_in_a_batch(self, solver: object) -> None:
        both = run((5, 9), solver, seed=[3, 2**63, -1])
        for index, seed in enumerate((3, 2**63, -1)):
            assert torch.equal(run((5, 9), solver, seed=seed), both[index : index + 1])

    def test_a_resumed_run_needs_the_seed_alone(self, solver: object) -> None:
        options = {"noise": "canvas", "seed": 7, "corrector": Jitter()}
        states = [s for s, _ in samplers.trajectory(D, start((9,)), SIGMAS, solver, **options)]
        for state in states:
            resumed = samplers.sample(D, state, SIGMAS, solver, **options)
            assert torch.equal(resumed, states[-1].x)

    def test_the_same_picture_for_any_batch_of_patches(self, solver: object) -> None:
        ring = layout.grid(size=(8, 24), patch=(8, 8), stride=(8, 4), wrap=(False, True))

        def picture(max_batch: int | None) -> Tensor:
            whole = compose.average(Factor(D, ring, layout.gaussian, max_batch=max_batch))
            return run((8, 24), solver, denoiser=whole)

        assert torch.equal(picture(1), picture(4)) and torch.equal(picture(1), picture(None))

    def test_global_generators_are_left_alone(self, solver: object) -> None:
        before = torch.get_rng_state()
        run((9,), solver)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("solver", DRAWING, ids=repr)
def test_the_seed_and_the_places_make_the_picture(solver: object) -> None:
    x = start((64,))
    draw = lambda **more: samplers.sample(D, x, SIGMAS, solver, noise="canvas", **more)  # noqa: E731
    assert torch.equal(draw(seed=1), draw(seed=[1], offset=(0,)))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert not torch.equal(draw(seed=1), draw(seed=1, offset=(1,)))


def test_steps_and_purposes_have_streams_of_their_own() -> None:
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Watcher(Jitter):
        def step(self, D, state, sigma, sigma_next, cond, generator) -> tuple[State, Info]:  # noqa: ANN001
            seen.extend(samplers.normal_like(state.x, generator) for _ in range(2))
            return state.advance(state.x, sigma_next), Info(sigma, sigma_next)

    x = torch.zeros(1, 2, 40)
    samplers.sample(D, x, SIGMAS[:4], Watcher(), noise="canvas", seed=5, corrector=Watcher())
    expected = [
        ops.canvas_noise(5, (purpose + 256 * draw, step), (0,), (40,), channels=2)
        for step in range(3)
        for purpose in (Purpose.SOLVER, Purpose.CORRECTOR)
        for draw in range(2)
    ]
    assert all(map(torch.equal, seen, expected)) and len(seen) == len(expected) == 12
    first = start((40,), 5) / float(SIGMAS[0])
    assert not any(bool((one == two).any()) for one in seen for two in [first, *seen] if one is not two)


def test_a_loop_of_your_own_draws_the_same() -> None:
    noise, solver = samplers.CanvasNoise([7, 8], offset=(-3,)), samplers.EulerAncestral()
    state = solver.init(start((9,), [7, 8], (-3,)))
    for sigma, sigma_next in zip(SIGMAS[:-1].tolist(), SIGMAS[1:].tolist(), strict=True):
        state, _ = solver.step(D, state, sigma, sigma_next, None, noise.at(Purpose.SOLVER, state.step))
    x = start((9,), [7, 8], (-3,))
    whole = samplers.sample(D, x, SIGMAS, solver, noise="canvas", seed=[7, 8], offset=(-3,))
    assert torch.equal(state.x, whole)


def test_pictures_have_the_law_that_a_generator_gives_them() -> None:
    x = samplers.initial(SIGMAS, (40_000,), channels=1, seed=[1, 2])
    assert x.std().item() == pytest.approx(float(SIGMAS[0]), rel=0.02)
    sigmas = schedules.karras(40, 0.02, 10.0)
    white = lambda x, sigma, cond=None: x / (1 + sigma**2).view(-1, 1, 1)  # noqa: E731
    for solver in DRAWING:
        out = samplers.sample(white, x, sigmas, solver, noise="canvas", seed=[1, 2])
        drawn = torch.Generator().manual_seed(0)
        other = samplers.sample(
            white, 10 * torch.randn(x.shape, generator=drawn), sigmas, solver, generator=drawn
        )
        assert abs(out.mean().item()) < 0.02 and out.std().item() == pytest.approx(
            other.std().item(), abs=0.015
        )
        assert abs(torch.corrcoef(out[:, 0])[0, 1].item()) < 0.02


def test_where_a_run_starts() -> None:
    plain = start((4, 6), [1, 2])
    assert plain.shape == (2, 2, 4, 6) and plain.dtype is torch.float32
    noise = ops.canvas_noise([1, 2], (Purpose.INITIAL, 0), (0, 0), (4, 6), channels=2)
    assert torch.equal(plain, float(SIGMAS[0]) * noise)
    clean = torch.randn(1, 2, 4, 6)
    torch.testing.assert_close(start((4, 6), [1, 2], x0=clean), clean + plain)
    wide = start((4, 6), [1, 2], dtype=torch.float64)
    torch.testing.assert_close(wide, plain.double(), rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"initial: x0 must have shape \[2, 2, 4, 6\], got \[1, 2, 4, 5\]"):
        start((4, 6), [1, 2], x0=clean[..., :5])


@pytest.mark.parametrize("call", [samplers.sample, samplers.trajectory], ids=["sample", "trajectory"])
@pytest.mark.parametrize(
    "changes,message",
    [
        ({"generator": torch.Generator()}, "generator must be None where noise is 'canvas', got Generator"),
        ({"seed": None}, "seed must be given where noise is 'canvas', got None. Pass one for each sample"),
        ({"seed": 1}, "seed must be one for each of the 2 samples, got 1. Pass a list"),
        ({"seed": [1, 2, 3]}, "seed must be one for each of the 2 samples, got 3"),
        ({"seed": [1, 2.5]}, "seed must be an integer, or a sequence of one for each sample, got 2.5"),
        ({"seed": [1, 2**64]}, "seed must fit 64 bits"),
        ({"offset": (0, 0)}, r"offset must have one coordinate for each of the 1 axes, got \(0, 0\)"),
        ({"noise": "pink"}, "noise must be 'generator' or 'canvas', got 'pink'"),
        (
            {"noise": "generator"},
            r"seed must be None where noise is 'generator', got \[1, 2\]. Pass noise='c",
        ),
        ({"noise": "generator", "seed": None, "offset": (0,)}, "offset must be None where noise is 'gen"),
        (
            {"noise": "generator", "seed": None, "generator": samplers.CanvasNoise(1)},
            r"generator must be a torch\.Generator.*Pass noise='canvas' and its seed",
        ),
    ],
)
def test_what_is_refused(call: object, changes: dict[str, object], message: str) -> None:
    arguments = {"noise": "canvas", "seed": [1, 2], **changes}
    with pytest.raises(ValueError, match=f"{call.__name__}: {message}"):
        call(D, torch.zeros(2, 1, 8), SIGMAS, samplers.Euler(), **arguments)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("solver", DRAWING, ids=repr)
def test_the_same_picture_on_cuda(solver: object) -> None:
    there = samplers.initial(SIGMAS, (5, 64), channels=2, seed=7, device="cuda")
    torch.testing.assert_close(there.cpu(), start((5, 64)), rtol=0, atol=1e-5)
    there = samplers.sample(D, there, SIGMAS, solver, noise="canvas", seed=7)
    here = samplers.sample(D, start((5, 64)), SIGMAS, solver, noise="canvas", seed=7)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
