# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the ops against the best torch formulations and a measured memory floor."""

__all__: list[str] = []
