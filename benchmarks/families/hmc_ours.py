# SPDX-License-Identifier: Apache-2.0
"""The leapfrog step by the public ops."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.suite import Call, Missing, Out

__all__ = ["build", "noise_of"]


def noise_of(problem: Any) -> Tensor:
    """Return the normals that our refresh draws."""
    raise Missing("intarsia.ops has no leapfrog")


def build(problem: Any, out: Out) -> Call:
    """Return our call."""
    raise Missing("intarsia.ops has no leapfrog")
