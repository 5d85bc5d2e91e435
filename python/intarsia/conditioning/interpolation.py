# SPDX-License-Identifier: Apache-2.0
"""Conditions that change along a canvas."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from intarsia import ops
from intarsia.types import Cond

__all__ = ["interpolate"]


def interpolate(keys: Cond, at: Tensor, *, kind: Literal["slerp", "linear"] = "slerp") -> Cond:
    """Give every region a condition between the two keys that it lies between.

    Args:
        keys: tree of tensors [K, ...], K at least 2: the conditions at 0, 1/(K-1), ..., 1.
        at: [R] in [0, 1], where each region lies; `layout.centres()[:, axis]`, for example.
        kind: "slerp" goes along the sphere, each key's elements as one vector, and keeps norms as embeddings
            and noise have them; "linear" goes straight.

    Returns:
        The tree with tensors [R, ...], for `Factor(cond=...)`.

    Raises:
        ValueError: fewer than two keys, tensors of different K, or places outside [0, 1].

    Source:
        Zhang et al. 2023, "DiffCollage", appendix: conditions interpolated along a chain.

    Example:
        >>> keys = {"text": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
        >>> interpolate(keys, torch.tensor([0.0, 0.5, 1.0]))["text"].norm(dim=1).round(decimals=4)
        tensor([1., 1., 1.])
    """
    if kind not in ("slerp", "linear"):
        raise ValueError(
            f"interpolate: kind must be 'slerp' or 'linear', got {kind!r}. Embeddings take slerp."
        )
    if at.ndim != 1 or not bool(((at >= 0) & (at <= 1)).all()):
        raise ValueError(
            f"interpolate: at must be [R] within 0 and 1, got shape {list(at.shape)} from "
            f"{float(at.min()):g} to {float(at.max()):g}. Divide by the length of the canvas."
        )
    if isinstance(keys, dict):
        return {name: interpolate(value, at, kind=kind) for name, value in keys.items()}
    if isinstance(keys, (list, tuple)):
        return type(keys)(interpolate(value, at, kind=kind) for value in keys)
    if not isinstance(keys, Tensor) or not keys.is_floating_point():
        got = keys.dtype if isinstance(keys, Tensor) else type(keys).__name__
        raise ValueError(
            f"interpolate: keys must be floating tensors [K, ...], got {got}. "
            "Look classes up in their embedding first."
        )
    if keys.ndim < 2 or keys.shape[0] < 2:
        raise ValueError(
            f"interpolate: keys must have at least two rows of vectors, got shape {list(keys.shape)}. "
            "One condition for all regions needs no interpolation."
        )
    place = at.to(keys.device, torch.float32) * (keys.shape[0] - 1)
    low = place.floor().long().clamp(max=keys.shape[0] - 2)
    share = place - low
    first, second = keys[low], keys[low + 1]
    if kind == "linear":
        return torch.lerp(first, second, share.to(keys.dtype).reshape(-1, *(1,) * (keys.ndim - 1)))
    return ops.slerp(first, second, share)
