# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the ops: for GPUs the build has no compiled kernels for, and for CPUs by interpretation.

Every function writes into its first argument, trusts its caller's checks and takes tensors of one device.
"""

from .extract_patches import extract_patches
from .gaussian_weights import gaussian_weights
from .leapfrog import leapfrog, metropolis_select
from .noise import canvas_noise
from .rope import rope
from .scatter_average import scatter_average, weight_total
from .slerp import slerp
from .spherical_aggregate import spherical_aggregate

__all__ = [
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
