# SPDX-License-Identifier: Apache-2.0
"""Measures of composed pictures and motions: seams, jolts, and distances to real ones."""

from intarsia.metrics.frechet import frechet_distance, random_features
from intarsia.metrics.mmd import mmd
from intarsia.metrics.motion import (
    bone_length_error,
    foot_sliding,
    jerk,
    motion_spectrum,
    spectral_distance,
    transition_jerk,
)
from intarsia.metrics.seam import Border, SeamReport, seam_report
from intarsia.metrics.wasserstein import random_patches, sliced_wasserstein

__all__ = [
    "Border",
    "SeamReport",
    "bone_length_error",
    "foot_sliding",
    "frechet_distance",
    "jerk",
    "mmd",
    "motion_spectrum",
    "random_features",
    "random_patches",
    "seam_report",
    "sliced_wasserstein",
    "spectral_distance",
    "transition_jerk",
]
