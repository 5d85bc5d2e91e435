# SPDX-License-Identifier: Apache-2.0
"""Pieces of sounds and videos that come out of a VAE with NaN or infinity: done again in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from intarsia.adapters.diffusers._nonfinite import warn
from intarsia.adapters.diffusers._resident import resident
from intarsia.types import NonFiniteError

__all__ = ["Finite"]


@dataclass
class Finite:
    """A VAE's network that looks at its answers.

    Attributes:
        name: the function that messages speak for.
        vae: holds the weights of `network`.
        network: a piece [B, C, *s] to its answer [B, c, *t].
        calls: how many pieces there were.
        redone: which of them had to be done again.
    """

    name: str
    vae: nn.Module
    network: Callable[[Tensor], Tensor]
    calls: int = 0
    redone: list[str] = field(default_factory=list)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the answer [B, c, *t] to `x` [B, C, *s], from float32 weights where half ones overflow.

        Raises:
            NonFiniteError: it is not finite in float32 either, or `x` is not.
        """
        self.calls += 1
        answer = self.network(x)
        if bool(torch.isfinite(answer).all()):
            return answer
        clean = bool(torch.isfinite(x).all())
        if clean and x.dtype in (torch.float16, torch.bfloat16):
            with resident(self.name, self.vae, dtype=torch.float32):
                answer = self.network(x.float())
            if bool(torch.isfinite(answer).all()):
                self.redone.append(f"piece {self.calls - 1}")
                return answer
        made = "from finite input, in float32" if clean else "from input that already had some"
        remedy = "Look at the VAE's weights." if clean else "Look at what made the input."
        raise NonFiniteError(
            f"{self.name}: vae must return finite values, got NaN or infinity in piece {self.calls - 1}, "
            f"{made}. {remedy}",
            step=-1,
        )

    def report(self) -> None:
        """Warn, once, of what had to be done again."""
        warn(self.name, self.redone)
