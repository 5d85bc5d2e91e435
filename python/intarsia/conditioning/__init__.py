# SPDX-License-Identifier: Apache-2.0
"""What a run is held to besides its prompts: guides, measurements, and conditions that change on the way."""

from __future__ import annotations

from intarsia.conditioning.image_guide import ImageGuide
from intarsia.conditioning.interpolation import interpolate
from intarsia.conditioning.measurements import Reconstruction, Replacement
from intarsia.conditioning.operators import Downsample, Known, Linear, LowPass, Operator

__all__ = [
    "Downsample",
    "ImageGuide",
    "Known",
    "Linear",
    "LowPass",
    "Operator",
    "Reconstruction",
    "Replacement",
    "interpolate",
]
