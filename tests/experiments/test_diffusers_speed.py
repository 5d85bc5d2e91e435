# SPDX-License-Identifier: Apache-2.0
"""The experiment: all make the same picture, who does not is not timed, and tables say what rows say."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("diffusers")
    from experiments.diffusers_speed import measure, ours, peers, run, scene, tables
    from experiments.diffusers_speed.clock import clocked

pytestmark = pytest.mark.filterwarnings("ignore")
SPEC: dict[str, Any] = {"device": "cpu", "threads": 1, "network": "tiny", "scene": "tiny", "dtype": "float32"}
SPEC |= {"best": 8, "batches": [3], "views": [1, 4], "seconds": 60, "rounds": 1, "few": 2, "whole": 2}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    return scene.network("tiny", device="cpu", dtype="float32")


def told(capsys: pytest.CaptureFixture[str], **spec: object) -> list[dict[str, Any]]:
    measure.main(json.dumps(SPEC | spec))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return told(capsys, job="time")


def test_everybody_agrees_and_is_timed(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [(row["scene"], row["who"], row["rows"]) for row in rows] == [
        ("mixture", "intarsia", 3),
        ("mixture", "intarsia", 8),
        ("mixture", "mixture_canvas", 2),
        ("tiling", "mixture_tiling", 2),
        ("panorama", "intarsia", 8),
        ("panorama", "panorama", 2),
        ("panorama", "panorama", 8),
    ]
    assert all(row["error"] <= 1e-5 and row["steps"] >= 1 for row in rows)
    assert all(0 < row["network_ms"] <= row["step_ms"] for row in rows)
    assert {row["who"] for row in rows if "run_s" in row} == {"intarsia", "mixture_canvas", "panorama"}

    memory = [{"who": "network alone", "regions": 0, "rows": 8, "peak_mib": 10.0}]
    memory += [{"who": w, "regions": 12, "peak_mib": 16.0} for w in ("intarsia", "mixture_canvas")]
    found = {"facts": run.facts(run.parse(["--scene", "tiny"])), "time": rows, "memory": memory}
    for row, step in zip(rows, (6.0, 5.0, 10.0, 9.0, 4.0, 5.0, 3.0), strict=True):
        row |= {"step_ms": step, "overhead_percent": 0.3}
    found["targets"] = tables.targets(found)
    assert [(row["reached"], row["met"]) for row in found["targets"]] == [
        (0.3, True),
        (2.0, True),
        (1.25, True),
    ]
    text = tables.markdown(found)
    assert "| **intarsia, mixture** | 1 | 8 | 5.0" in text and "| 12 | 10 | 16 | 0.50 | 16 |" in text
    late = {key: row[key] for key in ("step_ms", "overhead_percent") for row in rows[1:2]}
    for key in late:
        del rows[1][key]
    unknown = {**found, "targets": tables.targets(found)}
    assert [row["met"] for row in unknown["targets"]] == [None, None, True]
    assert tables.markdown(unknown).count("not measured") == 2
    rows[1] |= late
    gpu = {**found, "facts": {**found["facts"], "device": "cuda", "machine": "a GPU", "best": 8}}
    gpu["targets"] = tables.targets(gpu)
    assert [(row["must"], row["met"]) for row in gpu["targets"]] == [(0.5, True), (3.0, False), (3.0, False)]
    assert "| **intarsia, mixture** | 8 | 5.0" in tables.markdown(gpu)
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- cpu -->\nold\n<!-- end of cpu -->\nafter\n")
    tables.into_page(page, "cuda", text)
    assert "old" in page.read_text()
    tables.into_page(page, "cpu", text)
    assert page.read_text() == f"before\n<!-- cpu -->\n{text}<!-- end of cpu -->\nafter\n"


def test_a_wrong_picture_is_not_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "canvas_window", peers.tiling_window)
    (row,) = told(capsys, job="time")
    assert "mixture_canvas, 2 rows must agree with mixture: intarsia, 3 rows" in row["refused"]


def test_memory_has_a_row_for_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, job="memory")
    assert [(row["who"], row["regions"]) for row in found] == [
        ("network alone", 0),
        ("intarsia", 6),
        ("mixture_canvas", 6),
        ("intarsia", 12),
        ("mixture_canvas", 12),
    ]


def test_regions_lie_from_edge_to_edge(unet: torch.nn.Module) -> None:
    settings = scene.CONFIG["scenes"]["4k"]
    mixed = scene.task(unet, settings["pixels"], settings["patch"], settings["counts"])
    assert len(mixed.boxes) == 88 and mixed.boxes[0] == (0, 0, 640, 480)
    assert mixed.boxes[1][0] == 320 and mixed.boxes[11][1] == 240 and mixed.boxes[-1][2:] == (3840, 2160)
    growth = settings["growth"].items()
    assert all(int(count) == rows * columns for count, (_, (rows, columns)) in growth)


def test_the_scheduler_of_one_run_is_not_that_of_the_next(unet: torch.nn.Module) -> None:
    settings = scene.CONFIG["scenes"]["tiny"]
    mixed = scene.task(unet, settings["pixels"], settings["patch"], settings["counts"])
    mine = ours.mixture(mixed, batch=8)
    first, _, again = mine(2, lambda: None), mine(3, lambda: None), mine(2, lambda: None)
    assert torch.equal(first, again)
    assert measure.error(peers.canvas(mixed)(2, lambda: None), first) < 1e-5


class Slow(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self) -> None:
        time.sleep(0.002)


def test_the_clock_tells_the_network_from_the_rest() -> None:
    net = Slow()

    def two_calls_a_step(steps: int, on_step: Any) -> torch.Tensor:
        for _ in range(steps):
            net()
            time.sleep(0.004)
            net()
            on_step()
        return net.weight

    result = clocked(two_calls_a_step, net, 4)
    assert len(result.steps) == len(result.network) == 3 and result.seconds > sum(result.steps)
    for inside, whole in zip(result.network, result.steps, strict=True):
        assert 0.004 <= inside < whole - 0.004
    assert result.overhead > 20 and not net._forward_hooks and not net._forward_pre_hooks


def test_the_command_line_is_told_by_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    asked = run.parse(["--steps", "5", "--batches", "4,8"])
    assert (asked.network, asked.scene, asked.steps, asked.batches) == ("reduced", "quarter", 5, [4, 8])
    with pytest.raises(SystemExit):
        run.parse(["--few", "1"])
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            run.parse(["--device", "cuda"])
        assert "needs a GPU" in capsys.readouterr().err
