# SPDX-License-Identifier: Apache-2.0
"""The Triton backend: kernels/triton, on a GPU, or on the CPU through Triton's interpreter."""

from __future__ import annotations

import os

import torch

from intarsia._triton import extract_patches, gaussian_weights, rope, scatter_average, weight_total

__all__ = ["DEVICES", "extract_patches", "gaussian_weights", "rope", "scatter_average", "weight_total"]

# Triton decides when it is imported whether it compiles or interprets.
_interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
DEVICES = ("cpu", "cuda") if _interpreted else ("cuda",)

if not _interpreted and not torch.cuda.is_available():
    raise ImportError("PyTorch sees no GPU, and TRITON_INTERPRET=1 was not set before Triton loaded")
