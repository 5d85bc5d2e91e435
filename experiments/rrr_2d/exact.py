# SPDX-License-Identifier: Apache-2.0
"""Table 1 of Reduce, Reuse, Recycle with exact component energies: what samplers alone get right and wrong.

Usage: python experiments/rrr_2d/exact.py [--samples 10000 --levels 100 --budget 2000]

Every sampler has the same number of evaluations of the composed score. Writes exact.json, exact.png and the
table in README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from intarsia import media, metrics, samplers, schedules
from intarsia.samplers import HMC, MALA, UHMC, ULA
from intarsia.types import Info
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from densities import Task, mixture, product  # noqa: E402

MARKS = "<!-- exact -->", "<!-- end of exact -->"
LOW, HIGH = 0.002, 20.0


def ways(levels: int, budget: int) -> dict[str, tuple[int, Any, Any]]:
    """Name -> (levels, solver, corrector), all with about `budget` evaluations; steps go with the level."""
    each = max(8, (budget - levels) // levels)
    ancestral = samplers.EulerAncestral()
    # A Metropolis kernel asks once more, where it begins.
    return {
        "reverse": (levels, ancestral, None),
        "reverse, equal evaluations": (budget, ancestral, None),
        "ULA": (levels, ancestral, ULA(0.5, each)),
        "MALA": (levels, ancestral, MALA(0.5, each - 1)),
        "U-HMC": (levels, ancestral, UHMC(0.7, (each - 1) // 3, 3)),
        "HMC": (levels, ancestral, HMC(0.7, (each - 1) // 3, 3)),
    }


def measure(task: Task, x: Tensor, perfect: Tensor, optimum: float) -> dict[str, float]:
    """Log-likelihood, its distance from the optimum, MMD, shares of the modes."""
    logs = task.log_density(x)
    nearest = torch.cdist(x, task.modes).argmin(1)
    shares = torch.bincount(nearest, minlength=len(task.modes)) / len(x)
    inside = torch.isfinite(logs)
    return {
        "log-likelihood": float(logs[inside].mean()),
        "outside": float((~inside).double().mean()),
        "distance": abs(float(logs[inside].mean()) - optimum),
        "ln MMD": math.log(metrics.mmd(x[:1000], perfect[:1000], bandwidth=0.1)),
        "worst share": float((shares - 1 / len(task.modes)).abs().max()),
    }


def run(task: Task, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Way -> measures, evaluations, acceptance, points."""
    perfect = task.draw(arguments.samples, torch.Generator().manual_seed(1))
    again = task.draw(arguments.samples, torch.Generator().manual_seed(3))
    optimum = task.optimum()
    rows: dict[str, dict[str, Any]] = {
        "perfect samples": {**measure(task, perfect, again, optimum), "points": perfect}
    }
    for name, (levels, solver, corrector) in ways(arguments.levels, arguments.budget).items():
        sigmas = schedules.karras(levels, LOW, HIGH)
        generator = torch.Generator().manual_seed(2)
        x = sigmas[0] * torch.randn(arguments.samples, 2, 1, dtype=torch.float64, generator=generator)
        infos: list[Info] = []
        began = time.monotonic()
        x = samplers.sample(
            task.composed,
            x,
            sigmas,
            solver,
            corrector=corrector,
            generator=generator,
            callback=lambda step, state, info, infos=infos: infos.append(info),
        )[..., 0]
        inner = [info.corrector for info in infos if info.corrector is not None]
        accepted = [float(i.acceptance.mean()) for i in inner if i.acceptance is not None]
        rows[name] = {
            **measure(task, x, perfect, optimum),
            "evaluations": sum(i.evaluations for i in infos) + sum(i.evaluations for i in inner),
            "acceptance": sum(accepted) / len(accepted) if accepted else None,
            "seconds": time.monotonic() - began,
            "points": x,
        }
        print(task.name, name, {k: v for k, v in rows[name].items() if k != "points"}, flush=True)
    return rows


def table(results: dict[str, dict[str, dict[str, Any]]], optima: dict[str, float]) -> str:
    """Both tasks as Markdown."""
    lines = []
    for task, rows in results.items():
        lines += [f"**{task}**, optimum {optima[task]:.4f}", ""]
        heads = ["", "log-likelihood", "off by", "outside", "ln MMD", "worst share of a mode"]
        heads += ["evaluations", "accepted"]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for name, row in rows.items():
            accepted = row.get("acceptance")
            cells = [name, f"{row['log-likelihood']:.3f}", f"{row['distance']:.3f}", f"{row['outside']:.4f}"]
            cells += [f"{row['ln MMD']:.2f}", f"{row['worst share']:.3f}", str(row.get("evaluations", ""))]
            cells.append("" if accepted is None else f"{accepted:.2f}")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Sample, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--levels", type=int, default=100)
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--output", default=str(HERE))
    arguments = parser.parse_args()
    tasks = [product(), mixture()]
    results = {task.name: run(task, arguments) for task in tasks}
    optima = {task.name: task.optimum() for task in tasks}
    output = Path(arguments.output)
    plain = {
        task: {way: {k: v for k, v in row.items() if k != "points"} for way, row in rows.items()}
        for task, rows in results.items()
    }
    settings = {k: v for k, v in vars(arguments).items() if k != "output"}
    facts = {"settings": settings, "optima": optima, "rows": plain}
    with media.atomic_file(output / "exact.json") as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())
    readme = output / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text().partition(MARKS[0])
        text = f"{before}{MARKS[0]}\n{table(results, optima)}{MARKS[1]}{rest.partition(MARKS[1])[2]}"
        with media.atomic_file(readme) as file:
            file.write(text.encode())
    draw(results, output / "exact.png")
    print(table(results, optima))


def draw(results: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Points of every way, a row for each task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = max(map(len, results.values()))
    shape = (2.4 * columns, 2.7 * len(results))
    figure, axes = plt.subplots(len(results), columns, figsize=shape, squeeze=False)
    for line, rows in zip(axes, results.values(), strict=True):
        for axis, (name, row) in zip(line, rows.items(), strict=True):
            points = row["points"][:4000]
            axis.plot(points[:, 0], points[:, 1], ",", color="#1b3a5c", alpha=0.6)
            axis.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), xticks=[], yticks=[], aspect="equal")
            axis.set_title(name, fontsize=9)
            for side in axis.spines.values():
                side.set_color("#cccccc")
    figure.tight_layout()
    with media.atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
