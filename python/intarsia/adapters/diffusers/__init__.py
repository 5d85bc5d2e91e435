# SPDX-License-Identifier: Apache-2.0
"""diffusers: networks as denoisers, whole pipelines as composers of regions."""

from __future__ import annotations

from intarsia.adapters.diffusers.composer import Composer
from intarsia.adapters.diffusers.denoiser import DiffusersDenoiser, denoiser
from intarsia.adapters.diffusers.family import Family, family_of
from intarsia.adapters.diffusers.guide import ImageGuide
from intarsia.adapters.diffusers.plan import Plan
from intarsia.adapters.diffusers.region import Region

__all__ = [
    "Composer",
    "DiffusersDenoiser",
    "Family",
    "ImageGuide",
    "Plan",
    "Region",
    "denoiser",
    "family_of",
]
