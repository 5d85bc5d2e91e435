# SPDX-License-Identifier: Apache-2.0
"""Operators between a canvas and its patches, and the backends that compute them."""

from intarsia.ops._backend import backends, reason, use_backend
from intarsia.ops._check import CoverageError
from intarsia.ops.canvas_noise import canvas_noise
from intarsia.ops.extract_patches import extract_patches
from intarsia.ops.gaussian_weights import gaussian_weights
from intarsia.ops.leapfrog import LeapfrogBegin, drift, kick, kick_drift, leapfrog_begin, leapfrog_end
from intarsia.ops.metropolis_select import PhasePoint, Selected, metropolis_select
from intarsia.ops.momentum import kinetic_energy, langevin, refresh
from intarsia.ops.rope import rope
from intarsia.ops.rope_table import rope_frequencies, rope_table
from intarsia.ops.scatter_average import scatter_average
from intarsia.ops.slerp import slerp
from intarsia.ops.spherical_aggregate import spherical_aggregate
from intarsia.ops.weight_total import weight_total

__all__ = [
    "CoverageError",
    "LeapfrogBegin",
    "PhasePoint",
    "Selected",
    "backends",
    "canvas_noise",
    "drift",
    "extract_patches",
    "gaussian_weights",
    "kick",
    "kick_drift",
    "kinetic_energy",
    "langevin",
    "leapfrog_begin",
    "leapfrog_end",
    "metropolis_select",
    "reason",
    "refresh",
    "rope",
    "rope_frequencies",
    "rope_table",
    "scatter_average",
    "slerp",
    "spherical_aggregate",
    "use_backend",
    "weight_total",
]
