# SPDX-License-Identifier: Apache-2.0
"""Where regions lie on a canvas, and the windows that weigh their elements."""

from intarsia.layout._check import check_cover
from intarsia.layout.box_set import BoxSet, boxes
from intarsia.layout.cubemap import CubeMap, Part, cubemap
from intarsia.layout.gathered import Gathered, Regions
from intarsia.layout.grids import chain, checkerboard, grid, loop
from intarsia.layout.regions import Box, Layout, Weight
from intarsia.layout.separators import counting_numbers, legal_sizes, separators
from intarsia.layout.windows import Window, cosine, gaussian, quartic, triangle, uniform

__all__ = [
    "Box",
    "BoxSet",
    "CubeMap",
    "Gathered",
    "Layout",
    "Part",
    "Regions",
    "Weight",
    "Window",
    "boxes",
    "chain",
    "check_cover",
    "checkerboard",
    "cosine",
    "counting_numbers",
    "cubemap",
    "gaussian",
    "grid",
    "legal_sizes",
    "loop",
    "quartic",
    "separators",
    "triangle",
    "uniform",
]
