# SPDX-License-Identifier: Apache-2.0
"""Checks that every layout shares."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor

from intarsia.ops import CoverageError

_MAX_DIMS = 3
_LEAST_WEIGHT = 1e-30


def fail(where: str, argument: str, requirement: str, got: object, remedy: str) -> NoReturn:
    """Raise the ValueError `<where>: <argument> must <requirement>, got <got>. <remedy>`."""
    raise ValueError(f"{where}: {argument} must {requirement}, got {got}. {remedy}")


def check_sizes(where: str, name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Positive integers, one for each of 1 to 3 axes."""
    try:
        sizes = tuple(operator.index(value) for value in values)
    except TypeError:
        fail(where, name, "hold integers", values, "Round them to whole elements.")
    if not 1 <= len(sizes) <= _MAX_DIMS:
        fail(
            where, name, f"have 1 to {_MAX_DIMS} axes", len(sizes), "Give one integer per axis of the canvas."
        )
    if min(sizes) < 1:
        fail(where, name, "be positive on every axis", sizes, "Count elements, starting from 1.")
    return sizes


def check_wrap(where: str, wrap: Sequence[bool] | None, ndim: int) -> tuple[bool, ...]:
    """One bool per axis; None means that no axis is closed."""
    wraps = (False,) * ndim if wrap is None else tuple(bool(value) for value in wrap)
    if len(wraps) != ndim:
        remedy = "Write e.g. wrap=(False, True) for a picture that closes left to right."
        fail(where, "wrap", f"have one entry per axis ({ndim})", len(wraps), remedy)
    return wraps


def check_cover(where: str, total: Tensor) -> Tensor:
    """A total weight `[*S]` again, or CoverageError if some element has none that float32 can divide by."""
    bare = ~(total >= _LEAST_WEIGHT)
    if bool(bare.any()):
        first = tuple(int(i) for i in bare.nonzero()[0])
        least = float(total[first])
        raise CoverageError(
            f"{where}: regions must cover every canvas element with a positive weight, "
            f"{int(bare.sum())} of {total.numel()} are uncovered (first at {first}, weight {least:.3g}). "
            "Pull the last region to the edge, use a smaller stride, or a wider window."
        )
    return total
