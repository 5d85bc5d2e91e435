# SPDX-License-Identifier: Apache-2.0
"""Training of the small networks that intarsia bundles."""

from intarsia.training.clips import MotionClips
from intarsia.training.ema import EMA
from intarsia.training.image import ImageTraining, train
from intarsia.training.motion import MotionTraining
from intarsia.training.motion import train as train_motion
from intarsia.training.photos import Crops, PhotoFolder
from intarsia.training.run import Run, Settings
from intarsia.training.sheet import draw, write_sheet

__all__ = [
    "EMA",
    "Crops",
    "ImageTraining",
    "MotionClips",
    "MotionTraining",
    "PhotoFolder",
    "Run",
    "Settings",
    "draw",
    "train",
    "train_motion",
    "write_sheet",
]
