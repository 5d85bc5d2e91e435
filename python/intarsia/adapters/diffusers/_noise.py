# SPDX-License-Identifier: Apache-2.0
"""The noise that a run begins with, and regions that redraw theirs."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia import ops
from intarsia.adapters.diffusers.plan import Part
from intarsia.adapters.diffusers.region import Region
from intarsia.layout._check import fail
from intarsia.types import Purpose

_STREAM = (Purpose.INITIAL, 0)


def seeds_of(seed: int | Sequence[int]) -> list[int]:
    """One seed or several as a list of integers."""
    return [operator.index(one) for one in (seed if isinstance(seed, Sequence) else [seed])]


def initial_noise(
    shape: Sequence[int],
    *,
    latents: Tensor | None,
    seed: int | Sequence[int] | None,
    origin: Sequence[int],
    generator: Any,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Standard normal noise [B, C, *S] float32: given, that of places, or a generator's in `dtype`.

    A generator draws in the dtype of the pipeline, as diffusers does, so that a seed means the same there.
    """
    if latents is not None:
        if tuple(latents.shape) != tuple(shape):
            remedy = "They count latents, and images times num_images_per_prompt."
            fail("Composer", "latents", f"have shape {list(shape)}", list(latents.shape), remedy)
        return latents.detach().to(device=device, dtype=torch.float32)
    if seed is not None:
        return _of_places(seed, origin, shape, device)
    from diffusers.utils.torch_utils import randn_tensor

    if isinstance(generator, (list, tuple)) and len(generator) != shape[0]:
        remedy = "Give one for each image, num_images_per_prompt included, or one for all."
        fail("Composer", "generator", f"be one or {shape[0]}", len(generator), remedy)
    given = list(generator) if isinstance(generator, tuple) else generator
    noise: Tensor = randn_tensor(tuple(shape), generator=given, device=device, dtype=dtype)
    return noise.float()


def reroll(
    noise: Tensor, regions: Sequence[Region], parts: Sequence[Part], *, origin: Sequence[int]
) -> Tensor:
    """Redraw the noise [B, C, *S] of every region that has a seed, in their order.

    The new noise is that which a canvas of the region's seed has in its place.
    """
    size = tuple(noise.shape[2:])
    for number, (region, part) in enumerate(zip(regions, parts, strict=True)):
        if region.seed is None:
            continue
        seeds = seeds_of(region.seed)
        if len(seeds) not in (1, noise.shape[0]):
            remedy = "Give one seed for all images, or one for each."
            name = f"regions[{number}].seed"
            fail("Composer", name, f"be one or {noise.shape[0]}", f"{len(seeds)} seeds", remedy)
        fresh = _of_places(seeds, origin, (len(seeds), *noise.shape[1:]), noise.device)
        own = part.cover(size) > 0
        mixing = not isinstance(region.reroll, str)
        if region.reroll == "alone":
            for other, rival in enumerate(parts):
                if other != number and rival.weight > 0:
                    own &= rival.cover(size) == 0
        if mixing:
            amount = float(region.reroll)
            fresh = (noise + amount * fresh) / math.sqrt(1 + amount**2)
        noise = torch.where(own.to(noise.device), fresh, noise)
    return noise


def _of_places(
    seed: int | Sequence[int], origin: Sequence[int], shape: Sequence[int], device: torch.device
) -> Tensor:
    seeds = seeds_of(seed)
    if len(seeds) != shape[0]:
        remedy = "Give a list with one seed for each image, num_images_per_prompt included."
        fail("Composer", "seed", f"be {shape[0]} integers", len(seeds), remedy)
    return ops.canvas_noise(
        seeds, _STREAM, tuple(origin), tuple(shape[2:]), channels=shape[1], dtype=torch.float32, device=device
    )
