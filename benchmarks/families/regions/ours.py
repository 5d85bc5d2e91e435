# SPDX-License-Identifier: Apache-2.0
"""Our side of the race: the public ops, called as a user calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.families.regions.cases import SIGMA_FRACTION

if TYPE_CHECKING:
    from benchmarks.families.regions.problem import Problem

__all__ = ["build"]


def build(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    """Return the call that does the case's op, into `out` unless that is None."""
    return BUILDERS[problem.case.op](problem, out)


def _extract(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    from intarsia.ops import extract_patches

    canvas, offsets, size = problem.canvas, problem.offsets, problem.case.patch
    return lambda: extract_patches(canvas, offsets=offsets, size=size, out=out)


def _extract_cfg(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    from intarsia.ops import extract_patches

    canvas, offsets, size = problem.canvas, problem.offsets, problem.case.patch
    if "copies" in inspect.signature(extract_patches).parameters:
        one = torch.full((1,), problem.scale, device=problem.device)
        kind, target = problem.out_dtype, None if out is None else out.unsqueeze(0)
        options = {"dtype": kind} if out is None else {"out": target}
        return lambda: extract_patches(canvas, offsets=offsets, size=size, scale=one, copies=2, **options)[0]
    scale, pair = torch.full((2,), problem.scale, device=problem.device), (2, *canvas.shape[1:])
    dtype = problem.out_dtype if out is None else None
    return lambda: extract_patches(
        canvas.expand(pair), offsets=offsets, size=size, scale=scale, dtype=dtype, out=out
    )


def _average(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    from intarsia.ops import scatter_average

    patches, offsets, size, weight = problem.patches, problem.offsets, problem.case.size, problem.factors
    return lambda: scatter_average(patches, offsets=offsets, weight=weight, size=size, out=out)


def _sliding(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    from intarsia.ops import extract_patches, scatter_average

    canvas, offsets, case, weight = problem.canvas, problem.offsets, problem.case, problem.factors

    def call() -> object:
        patches = extract_patches(canvas, offsets=offsets, size=case.patch)
        return scatter_average(patches, offsets=offsets, weight=weight, size=case.size, out=out)

    return call


def _plan(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    from intarsia.ops import _plan as plan

    offsets, case = problem.offsets, problem.case
    wrap = (False,) * len(case.size)

    def call() -> object:
        plan._cached.cache_clear()
        return plan.get_plan("benchmark", offsets, case.size, case.patch, wrap).coverage

    return call


def _weights(problem: Problem, out: Tensor | None) -> Callable[[], object]:
    from intarsia.ops import gaussian_weights

    size = problem.case.patch
    return lambda: gaussian_weights(size, sigma_fraction=SIGMA_FRACTION)


BUILDERS: dict[str, Callable[[Problem, Tensor | None], Callable[[], object]]] = {
    "extract": _extract,
    "extract_cfg": _extract_cfg,
    "average": _average,
    "sliding": _sliding,
    "plan": _plan,
    "weights": _weights,
}
