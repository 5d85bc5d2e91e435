# SPDX-License-Identifier: Apache-2.0
"""The script for a machine with a GPU: what it runs, in which order, and what it calls a failure."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "gpu_check.sh"
NEEDED = ("bash", "cut", "dirname", "mkdir", "sed", "sleep", "tail", "timeout")
STEPS = ["look", "tests", "memcheck", "racecheck", "initcheck", "bench"]

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)} on the path"
)

# Says what it was asked for; `broken` and `slow` name the steps to fail and to hang in.
STUB = """#!/bin/bash
case "$*" in
  "-m pip"*) step=build ;; "-m pytest"*) step=tests ;; "-m bench"*) step=bench ;;
  "--tool "*) step=$2 ;; *) step=look ;;
esac
echo "$step|${INTARSIA_REQUIRE:-}|${PYTORCH_NO_CUDA_MEMORY_CACHING:-}|${*//$'\\n'/ }" >>"$CALLED"
case " $SLOW " in *" $step "*) sleep 30 ;; esac
echo "$step: something was done"
case " $BROKEN " in *" $step "*) echo "$step: it broke" && exit 3 ;; esac
"""


class Machine:
    """A path that holds nothing but stubs and what the script needs."""

    def __init__(self, folder: Path, *, sanitizer: bool = True) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name in NEEDED:
            (self.bin / name).symlink_to(shutil.which(name) or name)
        for name in ("python3", *(["compute-sanitizer"] if sanitizer else [])):
            (self.bin / name).write_text(STUB)
            (self.bin / name).chmod(0o755)

    def run(self, *options: str, broken: str = "", slow: str = "", seconds: int = 60):
        environment = {"PATH": str(self.bin), "BROKEN": broken, "SLOW": slow, "HOME": str(self.folder)}
        environment |= {"CALLED": str(self.folder / "called"), "GPU_CHECK_SECONDS": str(seconds)}
        command = [str(self.bin / "bash"), str(SCRIPT), "--logs", str(self.folder / "logs"), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        table = done.stdout.split("\nstep ")[1].splitlines()[1:]
        rows = {row[:10].strip(): row[10:19].strip() for row in table}
        called = (self.folder / "called").read_text().splitlines()
        return done, rows, {line.split("|")[0]: line.split("|", 1)[1] for line in called}


def test_all_steps_in_order_and_a_table_last(tmp_path: Path) -> None:
    done, rows, called = Machine(tmp_path).run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(rows) == [*STEPS, "all"] and set(rows.values()) == {"pass"}
    assert list(called) == STEPS
    assert called["tests"].startswith("cuda,triton||-m pytest")
    for tool in ("memcheck", "racecheck", "initcheck"):
        assert called[tool].startswith(f"|1|--tool {tool} --error-exitcode 1 python3 tools/small_calls.py")
    assert "--device cuda --quick" in called["bench"]
    assert "initcheck: something was done" in done.stdout.splitlines()[-3]


def test_building_is_asked_for_and_comes_first(tmp_path: Path) -> None:
    _, rows, called = Machine(tmp_path).run("--build")
    assert list(rows)[0] == "build"
    assert "-m pip install --no-build-isolation --no-deps" in called["build"]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_fails_all_and_stops_nothing(tmp_path: Path, step: str) -> None:
    done, rows, called = Machine(tmp_path).run(broken=step)
    assert done.returncode == 1
    assert rows == {name: "FAIL" if name in (step, "all") else "pass" for name in rows}
    assert list(called) == STEPS and f"{step}: it broke" in done.stdout


def test_a_step_that_hangs_is_stopped_and_the_whole_ends_in_time(tmp_path: Path) -> None:
    done, rows, _ = Machine(tmp_path).run(slow="tests", seconds=2)
    assert done.returncode == 1
    assert rows["look"] == "pass" and rows["tests"] == "TIMEOUT" and rows["bench"] == "NO TIME"


def test_a_missing_checker_is_said_and_counts_only_when_demanded(tmp_path: Path) -> None:
    machine = Machine(tmp_path, sanitizer=False)
    done, rows, _ = machine.run()
    assert done.returncode == 0 and rows["memcheck"] == rows["initcheck"] == "missing"
    done, rows, _ = machine.run("--demand-sanitizer")
    assert done.returncode == 1 and rows["all"] == "FAIL" and rows["bench"] == "pass"


def test_steps_can_be_chosen(tmp_path: Path) -> None:
    _, rows, called = Machine(tmp_path).run("--steps", "look,bench")
    assert list(called) == ["look", "bench"] and list(rows) == ["look", "bench", "all"]


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT), "--all"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "unknown option --all" in done.stderr
    assert "tools/gpu_check.sh [--build]" in done.stderr


def test_the_limits_of_all_steps_fit_into_nine_minutes() -> None:
    text = SCRIPT.read_text()
    limits = {name.strip('"$'): int(limit) for name, limit in re.findall(r"\brun (\S+) (\d+) ", text)}
    assert set(limits) == {"build", "look", "tests", "1", "bench"}
    assert sum(limits.values()) + 2 * limits["1"] <= 530


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
@pytest.mark.parametrize("script", sorted((ROOT / "tools").glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_small_calls_reach_every_operator() -> None:
    command = [sys.executable, str(ROOT / "tools" / "small_calls.py"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "backend cpu: " in done.stderr:
        pytest.skip("not compiled")
    assert done.returncode == 0, done.stdout + done.stderr
