# SPDX-License-Identifier: Apache-2.0
"""ImageGuide: a picture that a box of the canvas follows for the first steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from intarsia import conditioning
from intarsia.adapters.diffusers._pixels import average, mask_tensor
from intarsia.adapters.diffusers.family import Family
from intarsia.layout._check import fail

__all__ = ["ImageGuide"]


@dataclass(frozen=True, eq=False)
class ImageGuide:
    """A picture, in pixels, that a box of the canvas follows: SDEdit per rectangle.

    Attributes:
        image: a Pillow image, an array [H, W, 3] or a tensor [3, H, W] within 0 and 1, as large as the box.
            For a video also several, [F, H, W, 3] or [F, 3, H, W], which are its first frames; for a sound a
            tensor [channels, samples] within -1 and 1, from the start of the box on.
        box: (left, top, right, bottom) in pixels; None is the whole canvas.
        strength: the share of the steps in which it acts, from the first: 0 never, 1 always.
        mask: [H, W] of the size of the box, 0 to 1: how much of it each pixel takes.

    Raises:
        ValueError: a strength outside 0 to 1.

    Note:
        Outpainting is a guide of strength 1 in a larger canvas. To make one part of a finished picture anew
        and keep the rest, guide with the picture, masked by all but that part.

    Source:
        Meng et al. 2022, "SDEdit", section 3; Jimenez 2023, "Mixture of Diffusers", algorithm 2.

    Example:
        >>> import torch
        >>> ImageGuide(torch.zeros(3, 256, 256), (0, 0, 256, 256), strength=0.4).strength
        0.4
    """

    image: Any
    box: tuple[float, ...] | None = None
    strength: float = 0.5
    mask: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            remedy = "It is the share of the steps in which the guide acts."
            fail("ImageGuide", "strength", "be within 0 and 1", self.strength, remedy)

    def bind(
        self, family: Family, number: int, noise: Tensor, wrap: Sequence[bool], generator: Any
    ) -> conditioning.ImageGuide:
        """The guide in latents, for a canvas that began with `noise` [B, C, *S].

        Raises:
            ValueError: an image or mask that is not of the size of the box, or a box off the canvas.
        """
        name = f"guides[{number}]"
        size = tuple(noise.shape[2:])
        image, spans = family.picture(name, self.image, self.box, size)
        offset, extent = (tuple(p) for p in zip(*((a, b - a) for a, b in spans), strict=True))
        pixels = [count * unit for count, unit in zip(extent, family.unit, strict=True)]
        shown, boxed = list(image.shape[2:])[-2:], pixels[-2:]
        if shown != boxed:
            remedy = "Resize the picture, or change the box: nothing is resized."
            fail("ImageGuide", f"{name}.image", f"have the box's size {boxed}", shown, remedy)
        weight = None
        if self.mask is not None:
            mask = mask_tensor(name, self.mask)
            if list(mask.shape) != boxed:
                remedy = "A mask has the size of its picture."
                fail("ImageGuide", f"{name}.mask", f"have the box's size {boxed}", list(mask.shape), remedy)
            weight = average(mask, family.unit[-len(boxed) :]).float().expand(extent)
        clean = family.encode_image(image, generator=generator).to(noise.device)
        return conditioning.ImageGuide(
            clean, (offset, extent), self.strength, noise=noise, wrap=tuple(wrap), weight=weight
        )
