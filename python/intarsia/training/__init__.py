# SPDX-License-Identifier: Apache-2.0
"""Training of the small networks that intarsia bundles."""

from intarsia.training.ema import EMA
from intarsia.training.image import ImageTraining, train

__all__ = ["EMA", "ImageTraining", "train"]
