# SPDX-License-Identifier: Apache-2.0
"""Noise that belongs to places of the canvas: what `noise="canvas"` draws, and where a run starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia import ops
from intarsia.types import NoiseSource, Purpose

__all__ = ["CanvasNoise", "initial"]

_DRAWS = 256


@dataclass(frozen=True)
class CanvasNoise:
    """The noise of a run as a function of seed, purpose, step, channel and place; it has no state.

    A crop, a larger or a shifted canvas, one sample of a batch, and a run that is resumed have the noise of
    the whole. `samplers.sample(noise="canvas", seed=...)` makes one; a loop of your own uses it like this:

        solver.step(D, state, sigma, sigma_next, cond, noise.at(Purpose.SOLVER, state.step))

    Attributes:
        seed: one 64-bit integer for each sample, or one alone for a batch of one.
        offset: signed coordinates of the canvas's first element in axis order; None is the origin.

    Source:
        Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Example:
        >>> import torch
        >>> from intarsia.types import Purpose
        >>> wide, inner = CanvasNoise(seed=7, offset=(-2,)), CanvasNoise(seed=7)
        >>> wide = wide.at(Purpose.SOLVER, 3).normal_like(torch.zeros(1, 1, 8))
        >>> torch.equal(wide[..., 2:], inner.at(Purpose.SOLVER, 3).normal_like(torch.zeros(1, 1, 6)))
        True
    """

    seed: int | Sequence[int]
    offset: Sequence[int] | None = None

    def at(self, purpose: Purpose | int, step: int) -> NoiseSource:
        """Return the noise for `purpose` in step number `step`: its first draw, its second, and so on."""
        return _Stream(self, int(purpose), step)

    def draw(self, x: Tensor, stream: tuple[int, int]) -> Tensor:
        """Return the noise [B, C, *S] of a stream (purpose, step), in the dtype and on the device of `x`."""
        return ops.canvas_noise(
            self.seed,
            stream,
            (0,) * (x.ndim - 2) if self.offset is None else self.offset,
            x.shape[2:],
            channels=x.shape[1],
            dtype=x.dtype,
            device=x.device,
        )


class _Stream:
    """The draws of one purpose in one step, counted above the purpose's own eight bits."""

    def __init__(self, noise: CanvasNoise, purpose: int, step: int) -> None:
        self.noise, self.purpose, self.step = noise, purpose, step
        self.draws = 0

    def normal_like(self, x: Tensor, /) -> Tensor:
        """Return the next draw [B, C, *S], like the canvas `x`."""
        stream = (self.purpose + _DRAWS * self.draws, self.step)
        self.draws += 1
        return self.noise.draw(x, stream)


def initial(
    sigmas: Tensor | Sequence[float],
    size: Sequence[int],
    *,
    channels: int,
    seed: int | Sequence[int],
    offset: Sequence[int] | None = None,
    x0: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the state that a run starts from, `x0 + sigmas[0] * n`, n the canvas noise of Purpose.INITIAL.

    Args:
        sigmas: [N + 1], the noise levels of the run; the first one is used.
        size: lengths of the canvas in axis order.
        channels: C.
        seed: one 64-bit integer for each sample, or one alone for a batch of one.
        offset: signed coordinates of the first element in axis order; None is the origin.
        x0: [B, C, *S] or [1, C, *S], the clean canvas to start from; None is zero.
        dtype: float32, float64 or a half type.
        device: of the result; the CPU if None.

    Returns:
        [B, C, *S], B the number of seeds.

    Raises:
        ValueError: an argument does not fit.

    Note:
        The noise of a place depends on the seed and its coordinates alone: see `intarsia.ops.canvas_noise`.

    Example:
        >>> from intarsia import samplers, schedules
        >>> sigmas = schedules.karras(8, 0.02, 10.0)
        >>> samplers.initial(sigmas, (64, 96), channels=3, seed=[1, 2]).shape
        torch.Size([2, 3, 64, 96])
    """
    start = (0,) * len(size) if offset is None else offset
    stream = (Purpose.INITIAL, 0)
    noise = ops.canvas_noise(seed, stream, start, size, channels=channels, dtype=dtype, device=device)
    noise.mul_(float(sigmas[0]))
    if x0 is None:
        return noise
    if x0.shape[1:] != noise.shape[1:] or x0.shape[0] not in (1, noise.shape[0]):
        raise ValueError(
            f"initial: x0 must have shape {list(noise.shape)}, got {list(x0.shape)}. "
            "Give one seed for each of its samples, and its size and channels."
        )
    return noise.add_(x0.to(device=noise.device, dtype=noise.dtype))
