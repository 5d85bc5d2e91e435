# SPDX-License-Identifier: Apache-2.0
"""Extraction, averaging, plans and windows: everything about regions but the fused merge."""

from benchmarks.families.regions.cases import CASES

__all__ = ["CASES"]
