# SPDX-License-Identifier: Apache-2.0
"""The Triton backend: kernels/triton, on a GPU, or on the CPU through Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia import _triton
from intarsia._triton import (
    extract_patches,
    gaussian_weights,
    metropolis_select,
    rope,
    scatter_average,
    slerp,
    spherical_aggregate,
    weight_total,
)
from intarsia.ops._leapfrog_check import canvas
from intarsia.ops._reference_noise import noise_key

__all__ = [
    "DEVICES",
    "canvas_integers",
    "canvas_noise",
    "extract_patches",
    "gaussian_weights",
    "leapfrog",
    "metropolis_select",
    "rope",
    "scatter_average",
    "slerp",
    "spherical_aggregate",
    "weight_total",
]

# Triton decides when it is imported whether it compiles or interprets.
_interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
DEVICES = ("cpu", "cuda") if _interpreted else ("cuda",)

if not _interpreted and not torch.cuda.is_available():
    raise ImportError("PyTorch sees no GPU, and TRITON_INTERPRET=1 was not set before Triton loaded")


def canvas_noise(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S], the noise of a box of places, with one seed per sample."""
    _triton.canvas_noise(out, [noise_key(number, purpose, step) for number in seed], offset)


canvas_integers = canvas_noise  # int64 takes the integers


def leapfrog(*arguments: Any) -> None:
    """One pass over states [B, *s], as `reference.leapfrog`; noise to be drawn has a launch of its own."""
    *given, parts, key = arguments
    if key is not None:
        noise = torch.empty_like(given[5])
        canvas_noise(canvas(noise), *key)
        given[7] = noise
    _triton.leapfrog(*given, parts)
