# SPDX-License-Identifier: Apache-2.0
"""Every family on tiny shapes: its peers agree with its truth, and a wrong result is refused."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measure, philox, run, suite, worker
from benchmarks.families import alloc, amdm, hmc, merge, rng, rope
from benchmarks.families.e2e import growth, loops, step
from benchmarks.families.regions.cases import case as regions
from benchmarks.suite import FAMILIES, Call, Case, Out, cases_of

FORMS = ("fresh", "out", "inplace")
CPU = torch.device("cpu")
GRID = regions("avg.tiny", "average", 2, (12, 20), (8, 8), "test", (4, 4))
CHAIN = regions("avg.chain", "average", 3, (31,), (7,), "test", (6,))
AMDM = [amdm.Case(f"amdm.k{k}", models=k, batch=3, shape=(4, 8, 8)) for k in (2, 3)]
HMC = [
    hmc.Case(f"hmc.{kind}", kind=kind, batch=5, shape=(3, 12, 12), form="inplace" if kind == "mid" else None)
    for kind in ("step", "given_noise", "mid")
]
ROPE = [
    rope.Case(f"rope.{axes}d.{form}", axes=axes, tokens=16, batch=2, heads=2, form=form)
    for axes in (1, 2)
    for form in FORMS
]
MERGE = [merge.Case("merge.tiny", grid=GRID), merge.Case("merge.chain", grid=CHAIN)]
RNG = [rng.Case("rng.tiny", size=(16, 50))]
SMALL: dict[str, Any] = {"size": (12, 20), "patch": (8, 8), "counts": (2, 4)}
E2E = [
    step.Case("e2e.canvas", network="null", loops=(suite.Peer(loops.CANVAS, loops.canvas),), **SMALL),
    step.Case("e2e.panorama", network="null", window="uniform", loops=loops.PANORAMA, **SMALL),
    step.Case("e2e.unet", network="unet", loops=(suite.Peer(loops.CANVAS, loops.canvas),), **SMALL),
    step.Case(
        "e2e.motion", network="motion", channels=5, size=(20,), patch=(8,), counts=(4,), guided=False,
        loops=(suite.Peer(loops.LOOP, loops.windows),),
    ),
]  # fmt: skip
TINY: list[Case] = [*AMDM, *HMC, *ROPE, *MERGE, *RNG, *E2E]
DIFFUSERS = importlib.util.find_spec("diffusers") is not None
OWN = {"(restated)", "diffusers"}
SPEC = {"modes": ["neutral"], "threads": [1], "device": "cpu", "any_threads": False, "quick": True}
SPEC |= {"rounds": 1}
BOUNDS = {"float32": 1e-6, "bfloat16": 2e-2}


def _forms(case: Case) -> list[str]:
    return [case.form] if case.form else ["fresh", "out"]


def _out(problem: suite.Problem, form: str) -> Out:
    return {"fresh": lambda: None, "out": problem.buffers, "inplace": problem.state}[form]()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_every_peer_agrees_with_the_truth(case: Case, dtype: str) -> None:
    if dtype == "bfloat16" and (case in E2E or case in RNG or case in HMC):
        pytest.skip("this family is in float32")
    problem = case.problem(dtype, CPU)
    seen = 0
    for form in _forms(case):
        for peer in problem.peers():
            if peer.compiled or form not in peer.forms:
                continue
            if not DIFFUSERS and not OWN.isdisjoint(peer.name.split()):
                continue
            out = _out(problem, form)
            error = measure.check(peer.name, peer.build(problem, out), problem, out, form)
            assert error is not None and error < BOUNDS[dtype], peer.name
            seen += 1
    assert seen or not DIFFUSERS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_ours_agrees_with_the_truth(case: Case, dtype: str) -> None:
    if dtype == "bfloat16" and (case in E2E or case in RNG or case in HMC):
        pytest.skip("this family is in float32")
    problem = case.problem(dtype, CPU)
    for form in _forms(case):
        out = _out(problem, form)
        try:
            call = problem.ours(out)
        except suite.Missing as reason:
            pytest.skip(str(reason))
        assert measure.check("intarsia", call, problem, out, form) is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif("INTARSIA_COMPILED_PEERS" not in os.environ, reason="compiles for a minute")
@pytest.mark.parametrize("case", [*AMDM[:1], *HMC, *ROPE[3:], *MERGE[:1]], ids=lambda case: case.name)
def test_every_compiled_peer_agrees_with_the_truth(case: Case) -> None:
    problem = case.problem("float32", CPU)
    for form in _forms(case):
        for peer in problem.peers():
            if peer.compiled and form in peer.forms:
                torch._dynamo.reset()
                out = _out(problem, form)
                error = measure.check(peer.name, peer.build(problem, out), problem, out, form)
                assert error is not None and error < 1e-6, peer.name


def _right(problem: Any, out: Out) -> tuple[Tensor, ...]:
    """A right answer without the library, in the dtype and on the scale of ours."""
    if isinstance(problem, rng.Problem):
        height, width = problem.case.size
        found = philox.canvas_normals(rng.SEED, rng.STREAM, range(height), width)
        return (found[None, None].float(),)
    if isinstance(problem, rope.Problem):
        return tuple(problem.turned(x.double(), True).to(x.dtype) for x in problem.first)
    if isinstance(problem, step.Problem):
        return (problem.truth / problem.levels[1] ** 0.5,)
    return tuple(t.to(problem.out_dtype) for t in problem.truth_of("the definition"))


@pytest.mark.parametrize("fault", ["none", "factor", "nan", "element", "shape", "fewer"])
@pytest.mark.parametrize(
    "case", [AMDM[0], HMC[1], HMC[2], ROPE[0], MERGE[0], RNG[0], E2E[0]], ids=lambda case: case.name
)
def test_a_wrong_result_of_any_family_is_refused(case: Case, fault: str) -> None:
    problem = case.problem("float32", CPU)

    def ours(problem: Any, out: Out) -> Call:
        results = [t.clone() for t in _right(problem, out)]
        last = results[-1]
        if fault == "factor":
            last.mul_(1.00003)
        elif fault in ("nan", "element"):
            last.view(-1)[-1] = float("nan") if fault == "nan" else 99.0
        elif fault == "shape":
            results[-1] = last[..., 1:]
        elif fault == "fewer":
            results.pop()
        return lambda: tuple(results) if len(results) != 1 else results[0]

    def check() -> float | None:
        form = _forms(case)[0]
        out = _out(problem, form)
        return measure.check("intarsia", ours(problem, out), problem, out, form)

    if fault == "none":
        assert check() is not None
    elif fault == "fewer" and isinstance(problem, (rng.Problem, step.Problem)):
        pytest.skip("one result alone")
    else:
        with pytest.raises(measure.WrongResult, match="intarsia must agree with the oracle"):
            check()


def test_names_are_unique_and_every_row_has_a_reason_to_run() -> None:
    names = [case.name for family in FAMILIES for case in cases_of(family)]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        for case in cases_of(family):
            runs = [
                (mode, device)
                for device in ("cpu", "cuda")
                for mode in run.MODES[device]
                if device in case.devices and case.runs(mode, 1, case.dtypes[0], device)
            ]
            assert runs, case.name
            assert case.provenance, case.name


@pytest.mark.parametrize(
    "name",
    [
        *(f"amdm.k{k}.{side}.b{b}" for k in (2, 3) for side in (64, 128) for b in (1, 4, 16)),
        *(f"rope.{n}d.t{t}.{form}" for n in (1, 2) for t in (1024, 4096) for form in FORMS),
        *(f"rng.normal.2^{power}" for power in (16, 18, 20, 22, 24)),
        *(f"e2e.null_overhead.{count}" for count in (24, 88, 345)),
        *("merge.cfg_avg_step", "e2e.scaling", "e2e.memory", "e2e.canvas88", "e2e.audio8m", "e2e.motion"),
    ],
)
def test_the_suite_has_the_cases_it_names(name: str) -> None:
    family = name.split(".")[0]
    assert name in [case.name for case in cases_of(family)]


def test_a_missing_op_leaves_its_row_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Callable[..., Any]:
        raise suite.Missing(f"intarsia.ops has no {name}")

    monkeypatch.setattr(amdm, "public_op", missing)
    (row,) = worker._rows(AMDM[0], "float32", SPEC, float("inf"))
    assert row["skipped"] == "intarsia.ops has no spherical_aggregate" and "ms" not in row


def test_a_crash_is_a_refused_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amdm, "public_op", lambda name: lambda: None)
    (row,) = worker._rows(AMDM[0], "float32", SPEC, float("inf"))
    assert row["refused"].startswith("TypeError")


def test_families_share_the_time_and_pass_on_what_they_leave() -> None:
    ends = worker.shares({"regions": 3.0, "rng": 1.0}, 100.0, 10.0)
    assert ends == {"regions": 107.5, "rng": 110.0}


def test_allocations_are_counted_inside_operators() -> None:
    from benchmarks import counting

    x = torch.ones(1000)
    fresh = counting.on_cpu(lambda: x * x, many=True)
    reused = counting.on_cpu(lambda: torch.mul(x, x, out=x), many=True)
    assert fresh["allocations"]["per_call"] == 1 and fresh["peak_bytes"] >= 4000
    assert reused["allocations"]["per_call"] == 0 and reused["peak_bytes"] == 0


def test_a_reused_result_is_raced_against_a_fresh_one() -> None:
    tiny = alloc.Case("alloc.tiny", of=GRID, form="out", modes=("out",), targets=alloc.CASES[0].targets)
    row = measure.measure(
        tiny.problem("float32", CPU), mode="out", threads=1, slow=False, rounds=1, round_seconds=0.0
    )
    assert row["figures"][alloc.NONE] == 0 and row["figures"][alloc.GAIN] > 0
    assert row["target"][alloc.NONE]["met"] is True and row["ratios"] == {}


def test_growth_reads_a_line() -> None:
    scaling = growth.Scaling(growth.ScalingCase("x"), torch.float32, CPU)
    times = {"intarsia": 34.5, "24 regions": 2.4, "88 regions": 8.8, "1380 regions": 138.0}
    figures = scaling.figures({"ms": times})
    assert figures[growth.GROWS] == pytest.approx(1.0) and figures[growth.LINEAR] == pytest.approx(1.0)
