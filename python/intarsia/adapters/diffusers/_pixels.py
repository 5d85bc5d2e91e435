# SPDX-License-Identifier: Apache-2.0
"""Pictures and masks of any common kind as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intarsia.layout._check import fail


def mask_tensor(where: str, mask: Any) -> Tensor:
    """A mask as float64 within 0 and 1, in its own shape; booleans and 8-bit grey are understood."""
    if hasattr(mask, "convert") and hasattr(mask, "getbands"):
        mask = np.array(mask.convert("L"))
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(np.array(mask))
    if not isinstance(mask, Tensor):
        remedy = "Open it with Pillow, or make a tensor [H, W] of it."
        fail(where, "mask", "be an image, an array or a tensor", type(mask).__name__, remedy)
    scale = 255 if mask.dtype == torch.uint8 else 1
    share = mask.detach().to("cpu", torch.float64) / scale
    low, high = (float(share.min()), float(share.max())) if share.numel() else (-1.0, -1.0)
    if not (low >= 0 and high <= 1):
        got = f"{low:.3g} to {high:.3g}" if share.numel() else "no element"
        fail(where, "mask", "lie within 0 and 1 (or be 8-bit)", got, "Divide it by its largest value.")
    return share


def average(share: Tensor, unit: Sequence[int]) -> Tensor:
    """The mean of a mask over the pixels of each latent: [*pixels] to [*latents]."""
    split = [n for length, u in zip(share.shape, unit, strict=True) for n in (length // u, u)]
    return share.reshape(split).mean(tuple(range(1, len(split), 2)))


def image_tensor(where: str, image: Any) -> Tensor:
    """A picture as [B, 3, H, W] float32 within -1 and 1.

    Pillow images, arrays [H, W, 3] (8-bit, or 0 to 1), tensors [3, H, W] or [B, 3, H, W] (0 to 1).
    """
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        image = np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        value = torch.from_numpy(np.array(image))
        value = value[None] if value.ndim == 3 else value
        value = value.movedim(-1, 1) if value.ndim == 4 else value
    elif isinstance(image, Tensor):
        value = image[None] if image.ndim == 3 else image
    else:
        remedy = "Open it with Pillow, or make a tensor [3, H, W] of it."
        fail(where, "image", "be an image, an array or a tensor", type(image).__name__, remedy)
    if value.ndim != 4 or value.shape[1] != 3:
        remedy = "Pictures are [H, W, 3] as arrays, [3, H, W] as tensors."
        fail(where, "image", "have three channels", list(image.shape), remedy)
    scale = 255 if value.dtype == torch.uint8 else 1
    value = value.detach().float() / scale
    if not bool(((value >= 0) & (value <= 1)).all()):
        got = f"{float(value.min()):.3g} to {float(value.max()):.3g}"
        fail(where, "image", "lie within 0 and 1 (or be 8-bit)", got, "Map -1..1 to 0..1 with x / 2 + 0.5.")
    return value * 2 - 1
