# SPDX-License-Identifier: Apache-2.0
"""What a run is held to besides its prompts: guides that edit its states."""

from __future__ import annotations

from intarsia.conditioning.image_guide import ImageGuide

__all__ = ["ImageGuide"]
