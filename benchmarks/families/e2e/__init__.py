# SPDX-License-Identifier: Apache-2.0
"""End to end: a whole denoising step, with no network at all and with small ones."""

from benchmarks.families.e2e.cases import CASES

__all__ = ["CASES"]
