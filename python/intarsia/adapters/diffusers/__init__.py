# SPDX-License-Identifier: Apache-2.0
"""Compose the diffusion models of diffusers: see `Composer`."""

from __future__ import annotations

from intarsia.adapters.diffusers.family import Family, family_of
from intarsia.adapters.diffusers.region import Region

__all__ = ["Family", "Region", "family_of"]
