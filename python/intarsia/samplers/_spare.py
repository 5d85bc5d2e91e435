# SPDX-License-Identifier: Apache-2.0
"""Canvases that nobody needs any more, so that a long run does not ask the system for a new one every step.

A fresh result of tens of megabytes costs more in page faults than the kernel that fills it.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import Tensor

from intarsia.types import State

# Below this the allocator keeps memory by itself.
_WORTH = 4 << 20


Spare = tuple[Tensor, ...] | None


def take(spare: Spare) -> tuple[Tensor | None, Spare]:
    """Return the first spare canvas, or None, and the others."""
    return (spare[0], spare[1:]) if spare else (None, spare)


def give(spare: Spare, *canvases: Tensor) -> Spare:
    """Return the spare canvases and those that a step has used up, where they are wanted."""
    return None if spare is None else (*spare, *canvases)


def recycled(state: State, old: State, first: bool) -> State:
    """Return `state` with the canvases that its step has used up to spare, and no others.

    Args:
        state: after the step; `spare` holds what the step offers.
        old: before it. The caller's variable and the two of `sample` are all that may refer to it.
        first: whether `old` holds what the caller of the run handed over.

    Returns:
        The state. A canvas is spare only if nothing else refers to it, or to a part of it: a denoiser or a
        solver may have kept it.
    """
    canvas = state.x
    large = canvas.numel() * canvas.element_size() >= _WORTH
    free: list[Tensor] = []
    if large and type(canvas) is Tensor and canvas.device.type == "cpu" and _counts:
        for one in state.spare or ():
            # The tuple, this variable, the argument of getrefcount, and what the old state holds.
            known = 3 + sum(one is other for other in (*old.history, *(old.spare or ())))
            if sys.getrefcount(one) <= known and _fits(one, canvas) and one is not canvas:
                free.append(one)
        before = old.x
        # The variables of the loop and of `sample`, `old` here, and the argument of getrefcount.
        unseen = not first and sys.getrefcount(old) <= 5
        if unseen and sys.getrefcount(before) <= 3 and _fits(before, canvas) and before is not canvas:
            free.append(before)
    return replace(state, spare=tuple(free[:3]))


def _fits(one: Tensor, canvas: Tensor) -> bool:
    same = one.shape == canvas.shape and one.dtype is canvas.dtype and one.device == canvas.device
    return same and one.is_contiguous() and not one.requires_grad and _count(one) <= _LONE


def _count(tensor: Tensor) -> int:
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


_counts = hasattr(torch._C, "_storage_Use_Count")
_LONE = _count(torch.empty(1, device="cpu")) if _counts else 0
