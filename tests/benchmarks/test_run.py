# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: cases are what they say, a wrong kernel is refused, a small run works from end to end."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import floor, measure, report, run, timing
from benchmarks.families.regions import peers, truth
from benchmarks.families.regions.cases import CASES, Case, case
from benchmarks.families.regions.problem import Problem, build
from benchmarks.suite import Target, select

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
GRID = case("avg.tiny", "average", 2, (12, 20), (8, 8), "test", (4, 4), targets=(Target(best=1e-9),))
RAGGED = case("avg.ragged", "average", 2, (40, 50), (20, 20), "test", ragged=(4, 5))
CHAIN = case("avg.chain", "average", 3, (31,), (7,), "test", (6,))
CROPS = case("extract.tiny", "extract", 2, (13, 21), (8, 8), "test", (4, 4))
CHAIN_CROPS = case("extract.chain", "extract", 3, (31,), (7,), "test", (6,))
FUSED = case("extract.fused", "extract_cfg", 2, (13, 21), (8, 8), "test", (4, 4), dtypes=("float32",))


def plain(problem: Problem, out: Tensor | None) -> Callable[[], Tensor]:
    """A right answer without the library."""
    assert problem.truth is not None
    right = problem.truth.to(problem.out_dtype)
    return lambda: right.clone() if out is None else out.copy_(right)


def test_names_are_unique_and_selectable() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert [case.name for _, case in select("avg.motion,plan", "cpu", quick=True)] == [
        "avg.motion",
        "plan.build_98",
        "plan.build_1378",
    ]
    assert not any(case.name == "avg.audio64M" for _, case in select("", "cpu", quick=False))


@pytest.mark.parametrize("case", [c for c in CASES if c.size[0] < 2**22], ids=lambda case: case.name)
def test_regions_lie_inside_and_averages_are_covered(case: Case) -> None:
    offsets = case.offsets()
    assert offsets.dtype == torch.int64 and offsets.shape == (case.regions(), len(case.size))
    assert (offsets >= 0).all() and (offsets + torch.tensor(case.patch) <= torch.tensor(case.size)).all()
    if case.op in ("average", "sliding"):
        assert case.covered() == torch.Size(case.size).numel()


@pytest.mark.parametrize(
    ("name", "dtype", "read", "written"),
    [
        ("extract.latent4k_s32", "float32", 4 * 256 * 480 * 4, 98 * 4 * 64 * 64 * 4),
        ("extract.latent4k_s8", "bfloat16", 4 * 264 * 480 * 2, 1378 * 4 * 64 * 64 * 2),
        ("extract.pixel4k", "bfloat16", 3 * 2048 * 3840 * 2, 98 * 3 * 512 * 512 * 2),
        ("extract.cfg_fused", "float32", 4 * 256 * 480 * 4, 2 * 351 * 4 * 64 * 64 * 2),
        ("avg.ragged88", "bfloat16", 88 * 4 * 64 * 64 * 2, 4 * 270 * 480 * 2),
        ("avg.latent4k_s16", "float32", 351 * 4 * 64 * 64 * 4, 4 * 256 * 480 * 4),
        ("avg.motion", "float32", 40 * 263 * 196 * 4, 263 * 4018 * 4),
        ("avg.audio1M", "float32", 5 * 4 * 2**18 * 4, 4 * 2**20 * 4),
        ("avg.audio8M", "bfloat16", 42 * 4 * 2**18 * 2, 4 * 8323072 * 2),
        ("avg.latent8k", "bfloat16", 345 * 4 * 64 * 64 * 2, 4 * 540 * 960 * 2),
    ],
)
def test_byte_counts(name: str, dtype: str, read: int, written: int) -> None:
    (case,) = [case for case in CASES if case.name == name]
    assert case.traffic(dtype) == (read, written)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", [GRID, RAGGED, CHAIN, CROPS, CHAIN_CROPS, FUSED], ids=lambda case: case.name)
def test_every_peer_agrees_with_the_oracle(case: Case, dtype: str) -> None:
    problem = build(case, dtype if len(case.dtypes) > 1 else "float32", CPU)
    for out in (None, torch.empty(problem.out_shape(), dtype=problem.out_dtype)):
        found = [peer for peer in peers.candidates(problem) if peer.name != "torch.compile"]
        assert len(found) >= 2
        for peer in found:
            error = measure.check(peer.name, peer.build(problem, out), problem, out)
            assert error is not None and error < (1e-6 if problem.out_dtype == torch.float32 else 2e-2)


def test_the_oracle_on_a_table_by_hand() -> None:
    patches = torch.tensor([[[[1.0, 2.0]], [[4.0, 6.0]]]])
    mean = truth.average(patches, [(0,), (1,)], torch.tensor([1.0, 3.0]), (3,))
    assert torch.equal(mean, torch.tensor([[[1.0, (3 * 2 + 4) / 4, 6.0]]], dtype=torch.float64))


@pytest.mark.parametrize("mode", ["neutral", "out"])
@pytest.mark.parametrize("fault", ["factor", "nan", "element", "shape", "nothing written"])
def test_a_wrong_kernel_is_refused(fault: str, mode: str) -> None:
    def wrong(problem: Problem, out: Tensor | None) -> Callable[[], Tensor]:
        assert problem.truth is not None
        result = problem.truth.float()
        if fault == "factor":
            result = result * 1.00001
        elif fault == "shape":
            result = result[..., 1:]
        elif fault == "nothing written" and out is not None:
            return lambda: out
        else:
            result[0, 1, 3, 4] = float("nan") if fault == "nan" else 9.0
        return lambda: result

    with pytest.raises(
        measure.WrongResult, match="avg.tiny: intarsia must agree with the oracle to 1e-06, got"
    ):
        measure.measure(
            build(GRID, "float32", CPU), mode=mode, threads=1, slow=False, rounds=1, build_ours=wrong
        )


def test_a_row_has_every_figure() -> None:
    row = measure.measure(
        build(GRID, "float32", CPU),
        mode="neutral",
        threads=1,
        slow=True,
        rounds=2,
        round_seconds=0.0,
        build_ours=plain,
    )
    assert set(row["ms"]) >= {"intarsia", "value/count loop", "addcmul loop", "F.fold pair", "index_add_"}
    assert row["ratio_best"] == pytest.approx(row["ms"][row["best"]] / row["ms"]["intarsia"])
    assert row["floor_factor"] == pytest.approx(row["ms"]["intarsia"] / row["floor_ms"])
    assert row["calls"]["addcmul loop"] > row["calls"]["addcmul, disjoint groups"] >= 4
    assert row["target"]["best"]["met"] is True
    assert row["target"]["best"]["floor_allows"] == pytest.approx(row["ratio_best"] * row["floor_factor"])
    assert json.loads(json.dumps(row)) == row


def test_targets_hold_for_the_neutral_mode_alone() -> None:
    row = measure.measure(
        build(GRID, "float32", CPU),
        mode="out",
        threads=1,
        slow=False,
        rounds=1,
        round_seconds=0.0,
        build_ours=plain,
    )
    assert "target" not in row and row["allocations"]["per_call"] == 0


def test_captured_rows_are_divided_by_the_calls_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def captured(call: Callable[[], object], calls: int) -> Callable[[], object]:
        graphs.append(calls)
        if len(graphs) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")
        return call

    def race(candidates: dict[str, Callable[[], object]], **_: object) -> timing.Race:
        return timing.Race({name: [0.02] for name in candidates}, [True])

    monkeypatch.setattr(measure, "captured", captured)
    monkeypatch.setattr(measure, "race", race)
    problem = build(GRID, "float32", CPU)
    row = measure.measure(problem, mode="captured", threads=1, slow=False, rounds=1, build_ours=plain)
    assert row["left_out"] == {"value/count loop": "operation not permitted when stream is capturing"}
    assert set(graphs) == {20} and row["ms"]["intarsia"] == pytest.approx(1.0)


def test_the_race_rotates_and_retires() -> None:
    order: list[str] = []

    def runner(name: str, work: int) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            sum(range(work))

        return call

    names = {"a": 200, "b": 200, "slow": 200_000}
    found = timing.race(
        {name: runner(name, work) for name, work in names.items()},
        optional=("b", "slow"), rounds=4, sample_seconds=0.0, round_seconds=0.0,
    )  # fmt: skip
    timed = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name][3:]
    assert timed[:6] == ["a", "b", "slow", "b", "slow", "a"]
    assert "slow" in found.retired and len(found.samples["slow"]) == 2 and len(found.samples["a"]) >= 3


def test_medians_leave_disturbed_rounds_out() -> None:
    times = timing.Race({"a": [1.0, 1.0, 9.0, 9.0, 1.0, 1.0]}, [True, True, False, False, True, True])
    assert times.median("a") == 1.0 and not times.disturbed
    few = dataclasses.replace(times, quiet=[False, True, True, False, False, False])
    assert few.disturbed and few.median("a") == 1.0


@pytest.mark.skipif(floor.probe() is None, reason="no C++ compiler")
@pytest.mark.parametrize("streaming", [0, 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_floor_probe_reads_and_writes_every_byte(streaming: int, threads: int) -> None:
    probe = floor.probe()
    assert probe is not None
    source, target = torch.zeros(8192, dtype=torch.uint8), torch.zeros(64 * 1001, dtype=torch.uint8)
    source.view(torch.int64).copy_(torch.arange(1024))
    total = probe(source.data_ptr(), 8192, target.data_ptr(), target.numel(), streaming, threads)
    assert total == 1024 * 1023 // 2
    assert (target != 0).all()


def test_the_table_says_what_falls_short_and_what_was_disturbed() -> None:
    row = {"case": "x", "dtype": "float32", "threads": 1, "mode": "neutral", "ms": {"intarsia": 1.5}}
    row |= {
        "disturbed": True,
        "best": "copy",
        "strongest": "other",
        "ratio_best": 1.2,
        "ratio_strongest": 1.1,
    }
    row["target"] = {"best": {"must": 2.0, "reached": 1.2, "met": False, "floor_allows": 1.7}}
    skipped = {"case": "y", "dtype": "float32", "threads": 1, "mode": "out", "skipped": "no time"}
    text = report.table([row, skipped])
    assert "1.5*" in text and "1.20x  copy" in text and "SHORT of best 2 (the floor allows 1.70)" in text
    assert text.splitlines()[-1].endswith("no time")


def test_the_markdown_has_every_figure_of_a_row() -> None:
    row = measure.measure(
        build(GRID, "float32", CPU), mode="neutral", threads=1, slow=False, rounds=1, round_seconds=0.0,
        build_ours=plain,
    )  # fmt: skip
    skipped = {"case": "y", "dtype": "float32", "threads": 1, "mode": "out", "skipped": "no time"}
    lines = report.markdown({"device": "a CPU", "torch": "2"}, [row, skipped]).splitlines()
    assert lines[0] == "# a CPU, torch 2" and len({line.count("|") for line in lines[4:]}) == 1
    assert "| avg.tiny | f32 | 1 | neutral |" in lines[6] and "value/count loop" in lines[6]
    assert lines[7].endswith("| no time |")


def test_a_target_may_ask_for_a_peer_and_for_a_figure() -> None:
    ask = Target(versus=(("value/count loop", 1e9),), figures=(("spread", 2.0), ("fit >=", 0.9)))
    problem = build(dataclasses.replace(GRID, targets=(ask,)), "float32", CPU)
    problem.figures = lambda row: {"spread": 1.0, "fit": 0.5}  # type: ignore[method-assign]
    row = measure.measure(
        problem, mode="neutral", threads=1, slow=False, rounds=1, round_seconds=0.0, build_ours=plain
    )
    assert {key: verdict["met"] for key, verdict in row["target"].items()} == {
        "value/count loop": False,
        "spread": True,
        "fit >=": False,
    }


def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.run",
        "--quick",
        "--only",
        "extract.ragged88",
        "--rounds",
        "1",
    ]
    done = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "extract.ragged88" in done.stdout and done.stdout.splitlines()[-1].startswith("must: ")
    written = json.loads(path.read_text())
    assert written["about"]["device"] and written["about"]["torch"] and written["about"]["commit"]
    (row,) = written["rows"]
    assert row["mode"] == "neutral" and row["errors"]["intarsia"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modes", "fresh"], "--modes must be among neutral, default-fresh, out on cpu, got fresh"),
        (["--dtypes", "float16"], "--dtypes must be among float32, bfloat16, got float16"),
        (["--threads", "1,4096"], "the cores this process may use, got [1, 4096]"),
    ],
)
def test_bad_options_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run.main(options)
    assert message in " ".join(capsys.readouterr().err.split())
