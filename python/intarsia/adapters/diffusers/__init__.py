# SPDX-License-Identifier: Apache-2.0
"""Compose the diffusion models of diffusers: see `denoiser` for one network, `Composer` for a pipeline."""

from __future__ import annotations

from intarsia.adapters.diffusers.denoiser import DiffusersDenoiser, denoiser
from intarsia.adapters.diffusers.family import Family, family_of
from intarsia.adapters.diffusers.region import Region

__all__ = ["DiffusersDenoiser", "Family", "Region", "denoiser", "family_of"]
