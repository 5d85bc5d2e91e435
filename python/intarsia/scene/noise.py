# SPDX-License-Identifier: Apache-2.0
"""The noise of a scene: one field for the canvas, and fresh noise where a region has a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from intarsia import ops
from intarsia.types import Purpose

__all__ = ["SceneNoise"]


class SceneNoise:
    """Standard normal noise that belongs to places: another seed of one region changes that region alone.

    `n = sqrt(1 - m) n_canvas + sqrt(m) n_region`, m the region's part of each element, so the variance is
    one everywhere. Later regions are laid over earlier ones. It is a source of noise for `samplers.sample`.

    Args:
        seed: of the canvas.
        rerolls: `(m [*S] in [0, 1], seed)` per region with a seed of its own.

    Example:
        >>> import torch
        >>> half = torch.tensor([1.0, 1.0, 0.0, 0.0])
        >>> first, second = SceneNoise(1).initial((4,), 1), SceneNoise(1, [(half, 2)]).initial((4,), 1)
        >>> (first == second).flatten().tolist()
        [False, False, True, True]
    """

    def __init__(self, seed: int, rerolls: Sequence[tuple[Tensor, int]] = ()) -> None:
        self.seed, self.rerolls = seed, tuple(rerolls)
        self._draws = 0

    def initial(self, size: Sequence[int], channels: int) -> Tensor:
        """The noise that the run begins with, `[1, C, *S]` float32 on the CPU."""
        return self._draw((Purpose.INITIAL, 0), size, channels)

    def normal_like(self, x: Tensor, /) -> Tensor:
        """The next noise that a solver asks for, like the canvas `x [1, C, *S]`."""
        self._draws += 1
        noise = self._draw((Purpose.SOLVER, self._draws), x.shape[2:], x.shape[1])
        return noise.to(device=x.device, dtype=x.dtype)

    def _draw(self, stream: tuple[int, int], size: Sequence[int], channels: int) -> Tensor:
        # On the CPU, so that a seed means the same noise on every machine.
        origin = (0,) * len(size)
        noise = ops.canvas_noise(self.seed, stream, origin, size, channels=channels)
        for part, seed in self.rerolls:
            fresh = ops.canvas_noise(seed, stream, origin, size, channels=channels)
            noise = noise * (1 - part).sqrt() + fresh * part.sqrt()
        return noise
