# SPDX-License-Identifier: Apache-2.0
"""The Triton backend: kernels/triton, on a GPU, or on the CPU through Triton's interpreter."""

import os

from intarsia._triton import extract_patches, gaussian_weights, scatter_average, weight_total

__all__ = ["DEVICES", "extract_patches", "gaussian_weights", "scatter_average", "weight_total"]

# Triton decides when it is imported whether it compiles or interprets.
DEVICES = ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)
