# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a network's parameters."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["EMA"]

Module = TypeVar("Module", bound=nn.Module)


class EMA(Generic[Module]):
    """Moving average of a module's parameters, with a warm-up.

    `decay_k = min(decay, (1 + k) / (10 + k))` at update k, so that early averages forget the initialisation.

    Args:
        module: the module to follow; its buffers are copied as they are.
        decay: the final decay per update, in [0, 1).

    Raises:
        ValueError: if `decay` is outside [0, 1).

    Example:
        >>> net = nn.Linear(1, 1)
        >>> average = EMA(net, decay=0.999)
        >>> average.update(net)
        >>> torch.equal(average.module.weight, net.weight)
        True
    """

    def __init__(self, module: Module, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay must lie in [0, 1), got {decay}. Use e.g. 0.999.")
        self.module: Module = copy.deepcopy(module)
        self.module.requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: Module) -> None:
        """Move the average one step towards `module`, which has the same parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for own, other in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(other)
