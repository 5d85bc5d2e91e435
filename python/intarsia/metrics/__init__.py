# SPDX-License-Identifier: Apache-2.0
"""Measures of composed pictures: seams, and the distance to real patches."""

from intarsia.metrics.seam import Border, SeamReport, seam_report
from intarsia.metrics.wasserstein import random_patches, sliced_wasserstein

__all__ = ["Border", "SeamReport", "random_patches", "seam_report", "sliced_wasserstein"]
