# SPDX-License-Identifier: Apache-2.0
"""Composing a diffusers pipeline: ours against diffusers' own panorama and its community's mixtures, timed.

Usage: python -m experiments.diffusers_speed.run [--device cuda] [--steps 50] [--output FOLDER]

From the root of the repository. Nothing is downloaded: networks are built from config.json, with random
weights. Writes results-<device>.json and .md and the part of README.md for that device into --output, and
prints the tables. Under 6 minutes on two cores, under 8 on a GPU: no run is begun that would end after
--seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from intarsia import __version__

from benchmarks.report import device_name, usable_cores
from benchmarks.run import KEPT, NEUTRAL
from experiments.diffusers_speed import tables
from experiments.diffusers_speed.scene import CONFIG

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = {"cpu": 350.0, "cuda": 440.0}
# What a run may take: one thread, two threads, memory.
SHARES = {"cpu": (0.52, 0.33, 0.15), "cuda": (0.85, 0.0, 0.15)}
# Whatever is freed goes back at once, so that the resident size is what is held.
HONEST = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
Row = dict[str, Any]


def _worker(spec: Row, environment: dict[str, str]) -> Iterator[Row]:
    paths = [str(ROOT), *(path for path in sys.path if path)]
    inherited = {k: v for k, v in os.environ.items() if k not in {*NEUTRAL, *HONEST}}
    inherited |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "experiments.diffusers_speed.measure", json.dumps(spec)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=inherited | environment, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"measure: must end with status 0, got {process.returncode}. See above.")


def run(asked: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Return the rows of time and of memory.

    Raises:
        SystemExit: If somebody's picture is wrong.
        RuntimeError: If a process crashes.
    """
    cuda = asked.device == "cuda"
    spec: Row = {
        key: getattr(asked, key) for key in ("device", "network", "scene", "dtype", "best", "rounds")
    }
    spec |= {"batches": asked.batches, "views": asked.views, "few": asked.few, "whole": asked.steps}
    shares = dict(zip((1, 2, 0), SHARES[asked.device], strict=True))
    timed: list[Row] = []
    for threads in asked.threads:
        told = {"job": "time", "threads": threads, "seconds": asked.seconds * shares.get(threads, 0.4)}
        told |= {} if cuda else {"kept_bytes": KEPT}
        timed += _worker(spec | told, {} if cuda else NEUTRAL)
    refused = [row["refused"] for row in timed if "refused" in row]
    if refused:
        sys.exit("\n".join(refused))
    held = [*_worker(spec | {"job": "memory", "threads": max(asked.threads)}, {} if cuda else HONEST)]
    return timed, held


def facts(asked: argparse.Namespace) -> Row:
    """What the figures belong to."""
    scene = CONFIG["scenes"][asked.scene]
    return {
        "device": asked.device,
        "machine": device_name(asked.device),
        "cores": usable_cores(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "intarsia": __version__,
        "network": asked.network,
        "dtype": asked.dtype,
        "scene": {key: scene[key] for key in ("pixels", "patch", "counts", "panorama")},
        "best": asked.best,
        "steps": asked.steps,
    }


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what is left out comes from config.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = {"type": lambda text: [int(number) for number in text.split(",")], "metavar": "N,N,..."}
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", choices=tuple(CONFIG["networks"]), help="of config.json")
    parser.add_argument("--scene", choices=tuple(CONFIG["scenes"]), help="of config.json")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--steps", type=int, help="of a whole run")
    parser.add_argument("--few", type=int, help="steps of the other runs, at least 2")
    parser.add_argument("--rounds", type=int, default=0, help="in which everybody has a turn")
    parser.add_argument("--best", type=int, help="rows of a call, of ours in the main comparison")
    parser.add_argument("--batches", **listed, default=CONFIG["batches"], help="rows of a call, of ours")
    parser.add_argument("--views", **listed, default=CONFIG["views"], help="view_batch_size of the panorama")
    parser.add_argument("--threads", **listed, help="on the CPU")
    parser.add_argument("--seconds", type=float, default=0, help="after which no run is begun")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="for the results")
    asked = parser.parse_args(words)
    for key, value in CONFIG["devices"][asked.device].items():
        setattr(asked, key, getattr(asked, key, None) or value)
    cuda = asked.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can see")
    asked.rounds = asked.rounds or (2 if cuda else 4)
    asked.threads = asked.threads or ([1] if cuda or usable_cores() < 2 else [1, 2])
    asked.seconds = asked.seconds or SECONDS[asked.device]
    if asked.few < 2:
        parser.error(f"--few must be at least 2, got {asked.few}: the first step is never timed")
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """Check, time, look at memory, write, print."""
    asked, began = parse(words), time.monotonic()
    timed, held = run(asked)
    found = {"facts": facts(asked), "time": timed, "memory": held}
    found["targets"] = tables.targets(found)
    text = tables.markdown(found)
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / f"results-{asked.device}.json").write_text(json.dumps(found, indent=1) + "\n")
    (asked.output / f"results-{asked.device}.md").write_text(text)
    tables.into_page(asked.output / "README.md", asked.device, text)
    print(text + f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
