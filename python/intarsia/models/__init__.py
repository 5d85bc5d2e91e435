# SPDX-License-Identifier: Apache-2.0
"""Small n-D networks, and the bundled weights with their cards."""

from intarsia.models.edm import EDMDenoiser
from intarsia.models.files import available, channels_last, load, save
from intarsia.models.unet import UNet

__all__ = ["EDMDenoiser", "UNet", "available", "channels_last", "load", "save"]
