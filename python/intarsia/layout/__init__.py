# SPDX-License-Identifier: Apache-2.0
"""Where regions lie on a canvas, and the windows that weigh their elements."""

from intarsia.layout._check import check_cover
from intarsia.layout.box_set import BoxSet, boxes
from intarsia.layout.grids import chain, grid, loop
from intarsia.layout.regions import Box, Layout, Weight
from intarsia.layout.windows import Window, cosine, gaussian, quartic, triangle, uniform

__all__ = [
    "Box",
    "BoxSet",
    "Layout",
    "Weight",
    "Window",
    "boxes",
    "chain",
    "check_cover",
    "cosine",
    "gaussian",
    "grid",
    "loop",
    "quartic",
    "triangle",
    "uniform",
]
