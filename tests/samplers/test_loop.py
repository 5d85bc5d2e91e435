# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace

import pytest
import torch
from analytic import Gaussian
from intarsia import samplers, schedules
from intarsia.types import Info, NonFiniteError, State, StopSampling
from torch import Tensor

SIGMAS = schedules.karras(6, 0.02, 10.0)
X = 10 * torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
D = Gaussian()
SOLVERS = [
    samplers.Euler(),
    samplers.DDIM(0.7),
    samplers.EulerAncestral(),
    samplers.Heun(),
    samplers.Heun(s_churn=2.0),
    samplers.DPMpp2M(),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
class TestEverySolver:
    def test_sample_is_the_end_of_the_trajectory(self, solver: object) -> None:
        states = [s for s, _ in samplers.trajectory(D, X, SIGMAS, solver, generator=seeded())]
        out = samplers.sample(D, X, SIGMAS, solver, generator=seeded())
        assert torch.equal(out, states[-1].x)
        assert [s.step for s in states] == [1, 2, 3, 4, 5, 6]
        assert [s.sigma for s in states] == SIGMAS[1:].tolist()

    def test_a_resumed_run_is_the_same_run_to_the_bit(self, solver: object) -> None:
        whole = samplers.sample(D, X, SIGMAS, solver, generator=seeded())
        for pause in (1, 3, 6):
            g = seeded()
            run = samplers.trajectory(D, X, SIGMAS, solver, generator=g)
            state = [next(run)[0] for _ in range(pause)][-1]
            run.close()
            assert torch.equal(samplers.sample(D, state, SIGMAS, solver, generator=g), whole)

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self, solver: object) -> None:
        first, again, other = (samplers.sample(D, X, SIGMAS, solver, generator=seeded(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        draws = solver in (SOLVERS[1], SOLVERS[2], SOLVERS[4])
        assert torch.equal(first, other) == (not draws)

    def test_a_solver_without_noise_leaves_the_generator_alone(self, solver: object) -> None:
        g = seeded()
        samplers.sample(D, X, SIGMAS, solver, generator=g)
        drew = not torch.equal(g.get_state(), seeded().get_state())
        assert drew == (solver in (SOLVERS[1], SOLVERS[2], SOLVERS[4]))

    def test_a_sample_alone_is_the_sample_in_a_batch(self, solver: object) -> None:
        both = samplers.sample(D, X, SIGMAS, solver, generator=[seeded(1), seeded(2)])
        alone = samplers.sample(D, X[1:], SIGMAS, solver, generator=seeded(2))
        assert torch.equal(both[1:], alone)

    def test_arguments_stay_as_they_were(self, solver: object) -> None:
        x, sigmas = X.clone(), SIGMAS.clone()
        samplers.sample(lambda x, sigma, cond=None: x, x, sigmas, solver, generator=seeded())
        assert torch.equal(x, X) and torch.equal(sigmas, SIGMAS)

    def test_the_denoiser_is_told_sigma_per_sample_in_the_dtype_of_the_state(self, solver: object) -> None:
        for dtype, expected in (
            (torch.float32, torch.float32),
            (torch.float64, torch.float64),
            (torch.bfloat16, torch.float32),
        ):
            seen: set[object] = set()

            def spy(x: Tensor, sigma: Tensor, cond: object = None, seen: set[object] = seen) -> Tensor:
                seen.update([x.dtype, sigma.dtype, tuple(sigma.shape), x.requires_grad])
                return x / 2

            out = samplers.sample(spy, X.to(dtype), SIGMAS, solver, generator=seeded())
            assert seen == {expected, (2,), False} and out.dtype == expected

    def test_the_state_is_float32_whatever_the_estimate_is(self, solver: object) -> None:
        half = lambda x, sigma, cond=None: D(x, sigma).half()  # noqa: E731
        assert samplers.sample(half, X, SIGMAS, solver, generator=seeded()).dtype == torch.float32


def test_info_says_what_happened() -> None:
    infos = [i for _, i in samplers.trajectory(D, X, SIGMAS, samplers.Heun(s_churn=1.2), generator=seeded())]
    assert [i.sigma for i in infos] == SIGMAS[:-1].tolist()
    assert [i.sigma_next for i in infos] == SIGMAS[1:].tolist()
    assert [i.evaluations for i in infos] == [2] * 5 + [1]
    assert infos[0].sigma_hat == pytest.approx(SIGMAS[0].item() * 1.2)
    assert all(i.denoised.shape == X.shape and i.corrector is None for i in infos)


def test_the_first_estimate_of_a_step_is_kept() -> None:
    _, info = next(samplers.trajectory(D, X, SIGMAS, samplers.Heun()))
    assert torch.equal(info.denoised, D(X, torch.tensor([10.0, 10.0])))


class Fused:
    """A denoiser with an update of its own that nobody can mistake."""

    def __init__(self) -> None:
        self.fused = self.plain = 0

    def __call__(self, x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        self.plain += 1
        return x / 2

    def affine(self, x: Tensor, sigma: Tensor, cond: object, *, a, b, c=0.0, noise=None) -> Tensor:
        self.fused += 1
        return a * x + b * x / 2


def test_fused_updates_are_taken_where_nobody_asks_for_the_estimate() -> None:
    quiet, watched, multistep = Fused(), Fused(), Fused()
    samplers.sample(quiet, X, SIGMAS, samplers.Heun())
    samplers.sample(watched, X, SIGMAS, samplers.Heun(), callback=lambda *_: None)
    samplers.sample(multistep, X, SIGMAS, samplers.DPMpp2M())
    assert (quiet.fused, quiet.plain) == (11, 0)
    assert (watched.fused, watched.plain) == (0, 11)
    assert (multistep.fused, multistep.plain) == (1, 5)


def test_callbacks_see_each_step_in_order_and_may_replace_the_state() -> None:
    log: list[tuple[str, int, float]] = []

    def first(step: int, state: State, info: Info) -> State:
        log.append(("first", step, state.sigma))
        assert state.step == step + 1 and info.denoised is not None
        return State(torch.full_like(state.x, float(step)))

    def second(step: int, state: State, info: Info) -> None:
        log.append(("second", step, state.x.mean().item()))

    out = samplers.sample(D, X, SIGMAS, samplers.Euler(), callback=[first, second])
    assert torch.equal(out, torch.full_like(X, 5.0))
    assert [entry[:2] for entry in log] == [(who, i) for i in range(6) for who in ("first", "second")]
    assert [entry[2] for entry in log[1::2]] == [0, 1, 2, 3, 4, 5]


def test_a_replaced_canvas_is_what_the_next_step_starts_from() -> None:
    def reset(step: int, state: State, info: Info) -> State | None:
        return replace(state, x=X * 0) if step == 2 else None

    out = samplers.sample(D, X, SIGMAS, samplers.Euler(), callback=reset)
    torch.testing.assert_close(out, samplers.sample(D, X * 0, SIGMAS[3:], samplers.Euler()))


def test_stop_ends_cleanly_with_the_current_canvas() -> None:
    states = [s.x for s, _ in samplers.trajectory(D, X, SIGMAS, samplers.Euler())]

    def stop(step: int, state: State, info: Info) -> None:
        if step == 2:
            raise StopSampling

    assert torch.equal(samplers.sample(D, X, SIGMAS, samplers.Euler(), callback=stop), states[2])
    seen: list[int] = []
    watchers = [stop, lambda step, state, info: seen.append(step)]
    assert len(list(samplers.trajectory(D, X, SIGMAS, samplers.Euler(), callback=watchers))) == 3
    assert seen == [0, 1]


def test_a_denoiser_may_stop_the_run_as_well() -> None:
    def tired(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        if sigma[0] < 1:
            raise StopSampling
        return D(x, sigma)

    assert torch.equal(samplers.sample(tired, X, [0.5, 0.0], samplers.Euler()), X)
    expected = samplers.sample(D, X, [4.0, 0.5], samplers.Euler())
    assert torch.equal(samplers.sample(tired, X, [4.0, 0.5, 0.0], samplers.Euler()), expected)


@dataclass(frozen=True)
class Nudge:
    """A corrector that can be recognised: it adds one, and says at which level."""

    def init(self, x: Tensor) -> State:
        return State(x)

    def step(self, D, state, sigma, sigma_next, cond, generator) -> tuple[State, Info]:  # noqa: ANN001
        assert state.sigma == sigma == sigma_next > 0 and state.num_steps == 6 and state.step > 0
        return replace(state, x=state.x + 1), Info(sigma, sigma_next, evaluations=5)


def test_the_corrector_runs_at_the_level_reached_and_never_at_0() -> None:
    run = samplers.trajectory(D, X, SIGMAS, samplers.DPMpp2M(), corrector=Nudge())
    states, infos = zip(*run, strict=True)
    assert [i.corrector and i.corrector.sigma for i in infos] == [*SIGMAS[1:-1].tolist(), None]
    assert [s.step for s in states] == [1, 2, 3, 4, 5, 6] and len(states[0].history) == 2
    plain, _ = next(samplers.trajectory(D, X, SIGMAS, samplers.DPMpp2M()))
    torch.testing.assert_close(states[0].x, plain.x + 1)


def test_a_condition_of_one_row_reaches_the_denoiser_with_one_row_per_sample() -> None:
    seen: list[object] = []

    def spy(x: Tensor, sigma: Tensor, cond: dict[str, object]) -> Tensor:
        seen.append(cond)
        return x / 2

    cond = {"one": torch.ones(1, 3), "each": torch.arange(2), "plain": "text", "none": None}
    samplers.sample(spy, X, [1.0, 0.0], samplers.Euler(), cond=cond)
    assert seen[0]["one"].shape == (2, 3) and seen[0]["each"].tolist() == [0, 1]
    assert seen[0]["plain"] == "text" and seen[0]["none"] is None


def test_a_run_builds_no_graph_but_a_denoiser_may() -> None:
    gain = torch.tensor(0.5, requires_grad=True)

    def guided(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad((leaf**2).sum(), leaf)
        return gain * slope / 2

    out = samplers.sample(guided, X, [1.0, 0.5], samplers.Euler())
    assert not out.requires_grad and gain.grad is None
    torch.testing.assert_close(out, 0.75 * X)
    assert torch.is_grad_enabled()


def test_an_error_says_in_which_step_it_happened() -> None:
    def broken(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        if sigma[0] < 1:
            raise RuntimeError("out of luck")
        return x

    with pytest.raises(RuntimeError, match="out of luck") as caught:
        samplers.sample(broken, X, [4.0, 0.5, 0.0], samplers.Euler())
    assert caught.value.__notes__ == ["in step 1 of 2, from sigma 0.5"]


def test_non_finite_values_stop_the_run_and_name_the_step() -> None:
    def spoil(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        out = D(x, sigma)
        out[0, 0, 0] = float("nan") if sigma[0] < 1 else 0.0
        return out

    levels = [4.0, 2.0, 0.5, 0.2, 0.0]
    with pytest.raises(
        NonFiniteError, match=r"1 of 16 elements NaN or infinite after step 2 \(sigma 0\.2\)"
    ) as e:
        samplers.sample(spoil, X, levels, samplers.Euler())
    assert e.value.step == 2
    out = samplers.sample(spoil, X, levels, samplers.Euler(), on_nonfinite="ignore")
    assert out.isnan().sum() == 1
    with pytest.raises(NonFiniteError, match="at the start") as e:
        samplers.sample(D, X / 0, levels, samplers.Euler())
    assert e.value.step == -1
    bad = lambda step, state, info: replace(state, x=state.x * float("inf"))  # noqa: E731
    with pytest.raises(NonFiniteError, match="after step 0"):
        samplers.sample(D, X, levels, samplers.Euler(), callback=bad)


def test_a_finite_canvas_whose_sum_overflows_is_not_refused() -> None:
    huge = torch.full((1, 1, 4), 3e38)
    out = samplers.sample(lambda x, sigma, cond=None: x, huge, [2.0, 1.0], samplers.Euler())
    torch.testing.assert_close(out, huge)


def test_a_denoisers_own_complaint_learns_the_step() -> None:
    def refuse(x: Tensor, sigma: Tensor, cond: object = None) -> Tensor:
        if sigma[0] < 1:
            raise NonFiniteError("region 3 is not finite", step=-1)
        return x

    with pytest.raises(NonFiniteError, match="region 3") as caught:
        samplers.sample(refuse, X, [4.0, 0.5, 0.0], samplers.Euler())
    assert caught.value.step == 1


class Terminal:
    def __init__(self, interactive: bool) -> None:
        self.interactive, self.text = interactive, ""

    def isatty(self) -> bool:
        return self.interactive

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("progress", "interactive", "shown"),
    [(True, False, True), (None, True, True), (None, False, False), (False, True, False)],
)
def test_the_bar_shows_where_it_is_wanted(
    progress: bool | None, interactive: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(interactive)
    monkeypatch.setattr(sys, "stderr", terminal)
    samplers.sample(D, X, SIGMAS, samplers.Euler(), progress=progress)
    assert ("6/6" in terminal.text) == shown and bool(terminal.text) == shown


def test_a_resumed_bar_starts_where_the_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    state = [s for s, _ in samplers.trajectory(D, X, SIGMAS, samplers.Euler())][3]
    samplers.sample(D, state, SIGMAS, samplers.Euler(), progress=True)
    text = capsys.readouterr().err
    assert "4/6" in text and "6/6" in text and "0/6" not in text


@pytest.mark.parametrize("where", ["denoiser", "callback"])
def test_an_interrupt_goes_through_and_leaves_nothing_behind(where: str) -> None:
    from tqdm import tqdm

    def interrupt(*_: object) -> Tensor:
        raise KeyboardInterrupt

    threads, bars = threading.active_count(), len(tqdm._instances)
    denoiser = interrupt if where == "denoiser" else D
    callback = interrupt if where == "callback" else None
    with pytest.raises(KeyboardInterrupt):
        samplers.sample(denoiser, X, SIGMAS, samplers.Euler(), callback=callback, progress=True)
    assert threading.active_count() == threads and len(tqdm._instances) == bars


def test_an_abandoned_trajectory_closes_its_bar() -> None:
    from tqdm import tqdm

    bars = len(tqdm._instances)
    run = samplers.trajectory(D, X, SIGMAS, samplers.Euler(), progress=True)
    next(run)
    assert len(tqdm._instances) == bars + 1
    run.close()
    assert len(tqdm._instances) == bars


def test_without_tqdm_only_a_demanded_bar_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    samplers.sample(D, X, SIGMAS, samplers.Euler())
    with pytest.raises(ImportError, match=r"progress must be False or None .* Install tqdm"):
        samplers.sample(D, X, SIGMAS, samplers.Euler(), progress=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_cpu_generator_gives_the_same_picture_on_cuda(solver: object) -> None:
    here = samplers.sample(D, X, SIGMAS, solver, generator=seeded())
    there = samplers.sample(D, X.cuda(), SIGMAS, solver, generator=seeded())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
