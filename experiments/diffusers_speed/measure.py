# SPDX-License-Identifier: Apache-2.0
"""One process of the experiment: check that all agree, then time them in turns; or look at memory.

Started by `run.py` once for each number of threads, because the allocator is set from outside.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

import diffusers  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from experiments.diffusers_speed import ours, peers  # noqa: E402
from experiments.diffusers_speed.clock import Clocked, clocked, peak_bytes  # noqa: E402
from experiments.diffusers_speed.scene import CONFIG, Run, Task, network, task  # noqa: E402

__all__ = ["Candidate", "WrongResult", "candidates", "check", "main"]

Row = dict[str, Any]
# Steps that are compared: the first begins at half of the noise, so that errors of predictions show.
CHECKED = 2
# Relative L2; the panorama keeps its canvas in the network's dtype.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.03}


class WrongResult(AssertionError):
    """Two sides that should make the same picture do not: no time is taken."""


@dataclass(frozen=True)
class Candidate:
    """Somebody who makes the picture of a scene.

    Attributes:
        scene: "mixture" or "panorama"; all of one scene make the same picture.
        who: "intarsia", "mixture_canvas", "mixture_tiling" or "panorama".
        rows: of the network in one call.
        run: makes it.
        main: whether it is timed in every round, and to the end.
    """

    scene: str
    who: str
    rows: int
    run: Run
    main: bool = False

    @property
    def name(self) -> str:
        """For rows and messages."""
        return f"{self.scene}: {self.who}, {self.rows} rows"


def candidates(unet: Any, spec: Row) -> tuple[list[Candidate], Candidate, Candidate]:
    """Everybody, and two who are compared but not timed: ours and theirs with the map of mixture_tiling."""
    scene, best = CONFIG["scenes"][spec["scene"]], spec["best"]
    mixed = task(unet, scene["pixels"], scene["patch"], scene["counts"])
    about = scene["panorama"]
    place = {"window": about["window"], "stride": about["stride"]}
    wide = task(unet, about["pixels"], [8 * about["window"]] * 2, [1, 1])
    found = [
        Candidate("mixture", "intarsia", batch, ours.mixture(mixed, batch=batch), batch == best)
        for batch in sorted({*spec["batches"], best})
    ]
    tiling = Candidate("tiling", "mixture_tiling", 2, peers.tiling(mixed))
    found += [
        Candidate("mixture", "mixture_canvas", 2, peers.canvas(mixed), True),
        tiling,
        Candidate("panorama", "intarsia", best, ours.multidiffusion(wide, **place, batch=best), True),
    ]
    found += [
        Candidate("panorama", "panorama", 2 * views, peers.panorama(wide, **place, views=views), views == 1)
        for views in spec["views"]
    ]
    same = ours.mixture(mixed, batch=best, window=peers.tiling_window)
    return found, Candidate("tiling", "intarsia", best, same), tiling


def error(found: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; NaN is infinitely far."""
    distance = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(distance.nan_to_num(nan=torch.inf))


def check(found: dict[str, Tensor], scene: str, dtype: str) -> dict[str, float]:
    """Return how far each picture of a scene is from the first one.

    Raises:
        WrongResult: If that is too far, or a picture is not finite.
    """
    names = list(found)
    errors = {name: error(found[name], found[names[0]]) for name in names}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE[dtype]:
        raise WrongResult(
            f"{scene}: {worst} must agree with {names[0]} to {TOLERANCE[dtype]:.0e}, got "
            f"{errors[worst]:.2e}. Nothing is timed before this is repaired."
        )
    return errors


def timings(spec: Row) -> Iterator[Row]:
    """Check everybody with a short run, then time them in turns; a row for each."""
    began = time.monotonic()
    unet = network(spec["network"], device=spec["device"], dtype=spec["dtype"])
    everybody, same, _ = candidates(unet, spec)
    pictures: dict[str, dict[str, Tensor]] = {}
    once: dict[str, float] = {}
    for one in [*everybody, same]:
        result = clocked(partial(_kept, one, pictures.setdefault(one.scene, {})), unet, CHECKED)
        once[one.name] = result.seconds / CHECKED
    errors: dict[str, float] = {}
    for scene, found in pictures.items():
        errors |= check(found, scene, spec["dtype"])
    timed: dict[str, list[Clocked]] = {one.name: [] for one in everybody}

    def left(one: Candidate, steps: int) -> bool:
        # The first call of a network is slower than the others: this errs on the safe side.
        return time.monotonic() - began + once[one.name] * steps < spec["seconds"]

    sweep = [one for one in everybody if not one.main]
    for number in range(spec["rounds"]):
        turn = [one for one in everybody if one.main] + sweep[number :: spec["rounds"]]
        turn = turn[number % len(turn) :] + turn[: number % len(turn)]
        for one in turn:
            if left(one, spec["few"]):
                timed[one.name].append(clocked(one.run, unet, spec["few"]))
    whole: dict[str, float] = {}
    for one in everybody:
        if one.main and spec["whole"] == spec["few"] and timed[one.name]:
            whole[one.name] = min(result.seconds for result in timed[one.name])
        elif one.main and one.scene == "mixture" and left(one, spec["whole"]):
            whole[one.name] = clocked(one.run, unet, spec["whole"]).seconds
    for one in everybody:
        yield _row(one, timed[one.name], whole.get(one.name), errors[one.name], spec)


def _kept(one: Candidate, found: dict[str, Tensor], steps: int, on_step: Any) -> Tensor:
    found[one.name] = one.run(steps, on_step)
    return found[one.name]


def _row(one: Candidate, timed: list[Clocked], whole: float | None, distance: float, spec: Row) -> Row:
    row: Row = {"scene": one.scene, "who": one.who, "rows": one.rows, "error": distance}
    row |= {"threads": spec["threads"], "main": one.main}
    quiet = [result for result in timed if result.quiet]
    used = quiet or timed
    if used:
        steps = sorted(step for result in used for step in result.steps)
        overheads = sorted(result.overhead for result in used)
        inside = sorted(seconds for result in used for seconds in result.network)
        row |= {"step_ms": 1e3 * steps[len(steps) // 2], "network_ms": 1e3 * inside[len(inside) // 2]}
        row |= {"overhead_percent": overheads[len(overheads) // 2], "steps": len(steps)}
    if whole is not None:
        row |= {"run_s": whole, "run_steps": spec["whole"]}
    return row | {"runs": len(timed), "quiet_runs": len(quiet)}


def memory(spec: Row) -> Iterator[Row]:
    """What a step holds at most, for canvases of more and more regions, and what a network call does."""
    unet = network(spec["network"], device=spec["device"], dtype=spec["dtype"])
    scene, batch, cuda = CONFIG["scenes"][spec["scene"]], spec["best"], spec["device"] == "cuda"
    tasks = {int(n): task(unet, size, scene["patch"], k) for n, (size, k) in scene["growth"].items()}
    first = next(iter(tasks.values()))
    alone = partial(_one_call, first, batch)
    ours.mixture(first, batch=batch)(1, _nothing)
    rows = [("network alone", 0, alone)]
    for regions, one in tasks.items():
        rows += [("intarsia", regions, partial(_one_step, partial(ours.mixture, one, batch=batch)))]
        rows += [("mixture_canvas", regions, partial(_one_step, partial(peers.canvas, one)))]
    for who, regions, call in rows:
        gc.collect()
        held = peak_bytes(call, cuda=cuda)
        batch_of = 2 if who == "mixture_canvas" else batch
        yield {"who": who, "regions": regions, "rows": batch_of, "peak_mib": held / 2**20}


@torch.no_grad()
def _one_call(task: Task, rows: int) -> None:
    height, width = (length // 8 for length in task.patch)
    x = torch.randn(rows, task.noise.shape[1], height, width, device=task.noise.device)
    told = task.empty.expand(rows, -1, -1)
    task.unet(x.to(task.unet.dtype), torch.tensor(500, device=x.device), encoder_hidden_states=told)


def _one_step(make: Any) -> None:
    make()(1, _nothing)


def _nothing() -> None:
    pass


def main(argument: str) -> None:
    """Do what a JSON object describes; print one JSON line per row. A wrong result is the only row then."""
    spec = json.loads(argument)
    if spec["device"] == "cpu":
        torch.set_num_threads(spec["threads"])
        # The allocator keeps what it is given back: touched here once, it costs the first runs nothing.
        torch.ones(spec.get("kept_bytes", 0), dtype=torch.uint8)
    try:
        for row in (timings if spec["job"] == "time" else memory)(spec):
            print(json.dumps(row), flush=True)
    except WrongResult as reason:
        print(json.dumps({"refused": str(reason)}), flush=True)


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    main(sys.argv[1])
