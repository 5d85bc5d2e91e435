# SPDX-License-Identifier: Apache-2.0
"""Patch buffers that a composite keeps between calls, and when it must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Workspace:
    """At most one spare buffer; whoever finds none (a re-entrant call, another thread) gets a fresh one.

    `list.pop` and `list.append` are atomic, so no lock is held while the network runs.
    """

    def __init__(self) -> None:
        self._spare: list[tuple[tuple[object, ...], Tensor]] = []

    @contextmanager
    def borrow(self, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Iterator[Tensor | None]:
        """An uninitialised buffer of `shape` on the device of `like`, or None where reuse is not safe.

        That is wherever gradients are recorded, a graph is compiled or captured, or `like` is a subclass.
        """
        if not reusable(like):
            yield None
            return
        stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0
        key = (shape, dtype, like.device, stream, torch.is_inference_mode_enabled())
        try:
            held, buffer = self._spare.pop()
        except IndexError:
            held, buffer = (), like
        if held != key:
            buffer = torch.empty(shape, dtype=dtype, device=like.device)
        try:
            yield buffer
        finally:
            if not self._spare:
                self._spare.append((key, buffer))

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()


def reusable(like: Tensor) -> bool:
    """Whether what a call makes for the canvas `like` may serve a later call, too."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(like) is not Tensor:
        return False
    return not (like.is_cuda and torch.cuda.is_current_stream_capturing())
