# SPDX-License-Identifier: Apache-2.0
"""Training of the small networks that intarsia bundles."""

from intarsia.training.ema import EMA
from intarsia.training.image import ImageTraining, train
from intarsia.training.photos import Crops, PhotoFolder
from intarsia.training.sheet import draw, write_sheet

__all__ = ["EMA", "Crops", "ImageTraining", "PhotoFolder", "draw", "train", "write_sheet"]
