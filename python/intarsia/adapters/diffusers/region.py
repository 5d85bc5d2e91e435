# SPDX-License-Identifier: Apache-2.0
"""Region: a part of the canvas with a prompt, a weight and a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from intarsia.layout._check import fail

__all__ = ["Region"]


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the canvas that is told something else than the rest.

    Attributes:
        box: (left, top, right, bottom) in pixels, as in Pillow; for a sound (start, stop). On a canvas that
            closes onto itself it may reach across the seam: left 1900, right 2200 on a width of 2048.
        mask: instead of a box, or within it: a Pillow image, an array or a tensor [H, W] of the size of the
            canvas, 0 to 1 (booleans and 8-bit pictures, too). Averaged over the pixels of each latent.
        prompt: what is to be seen; None takes the call's.
        negative_prompt: what is not; None takes the call's.
        guidance_scale: None takes the call's.
        weight: how much it counts beside other regions; they add, and what they leave of 1 is the call's
            prompt's. 0 takes no part in the picture: such a region redraws noise alone.
        seed: redraws the initial noise of the region: one for all images, or one for each.
        reroll: which noise `seed` redraws. "whole": all of it; "alone": only where no other region reaches;
            a number e: mixed as `(z + e n) / sqrt(1 + e^2)`, so that a small one varies the picture a little.
        frames: (first, last + 1) of a video; None is all of them.
        prompt_embeds: [1, L, D], instead of the prompt.
        negative_prompt_embeds: [1, L, D], instead of the negative prompt.
        pooled_prompt_embeds: [1, P], with `prompt_embeds`, where the pipeline has them.
        negative_pooled_prompt_embeds: [1, P], with `negative_prompt_embeds`.

    Raises:
        ValueError: neither box nor mask, a box without area, a weight that is negative or not finite, a
            prompt beside its embeddings, or a `reroll` that is none of the three.

    Source:
        Jimenez 2023, "Mixture of Diffusers": regions, their weights, and seeds of their own.

    Example:
        >>> sea = Region((0, 256, 1024, 512), prompt="a calm sea", guidance_scale=9.0)
        >>> sea.weight
        1.0
    """

    box: tuple[float, ...] | None = None
    mask: Any = None
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    weight: float = 1.0
    seed: int | Sequence[int] | None = None
    reroll: Literal["whole", "alone"] | float = "whole"
    frames: tuple[int, int] | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None

    def __post_init__(self) -> None:
        if self.box is None and self.mask is None:
            remedy = "Give box=(left, top, right, bottom), or mask= for a free form."
            fail("Region", "box", "be given where there is no mask", None, remedy)
        if self.box is not None:
            self._check_box(tuple(self.box))
        if not (math.isfinite(self.weight) and self.weight >= 0):
            remedy = "What a region should keep away from is its negative_prompt."
            fail("Region", "weight", "be finite and not negative", self.weight, remedy)
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            fail("Region", "guidance_scale", "be finite", self.guidance_scale, "Usual scales are 1 to 15.")
        for name in ("prompt", "negative_prompt"):
            if getattr(self, name) is not None and getattr(self, f"{name}_embeds") is not None:
                fail("Region", name, f"be None where {name}_embeds are given", "both", "Give one of the two.")
            if not isinstance(getattr(self, name), str | None):
                kind = type(getattr(self, name)).__name__
                fail("Region", name, "be a string or None", kind, "A region has one prompt for all images.")
        mixed = isinstance(self.reroll, (int, float)) and math.isfinite(self.reroll)
        if self.reroll not in ("whole", "alone") and not mixed:
            remedy = "A number mixes: 0 keeps the noise, 1 takes half of each."
            fail("Region", "reroll", "be 'whole', 'alone' or a finite number", repr(self.reroll), remedy)

    def _check_box(self, box: tuple[float, ...]) -> None:
        rank = len(box) // 2
        remedy = "Write box=(left, top, right, bottom) as in Pillow, ends beyond starts."
        if len(box) % 2 or not rank:
            fail("Region", "box", "have as many ends as starts", box, remedy)
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in box):
            fail("Region", "box", "hold finite numbers", box, remedy)
        if any(stop <= start for start, stop in zip(box[:rank], box[rank:], strict=True)):
            fail("Region", "box", "have an area", box, remedy)
        object.__setattr__(self, "box", box)
