# SPDX-License-Identifier: Apache-2.0
"""The families of benchmarks: each brings its cases, oracles, peers and our side to one runner."""
