# SPDX-License-Identifier: Apache-2.0
"""Linear measurements of a canvas: what is known of it, `y = H x0`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Downsample", "Known", "Linear", "LowPass", "Operator"]


@runtime_checkable
class Operator(Protocol):
    """A linear map of canvases `[B, C, *S]`, with its adjoint and its pseudo-inverse."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """`H x`."""

    def adjoint(self, y: Tensor, /) -> Tensor:
        """`H^T y`, a canvas."""

    def inverse(self, y: Tensor, /) -> Tensor:
        """`H^+ y`, the smallest canvas that is measured as `y`, or comes nearest to it."""


@dataclass(frozen=True, eq=False)
class Known:
    """Some elements of the canvas are known: inpainting, outpainting, and both ends of a chain.

    Attributes:
        where: `[*S]` or `[B or 1, C or 1, *S]` bool, True where the canvas is known.

    Raises:
        ValueError: another dtype.

    Example:
        >>> Known(torch.tensor([True, False]))(torch.ones(1, 1, 2))
        tensor([[[1., 0.]]])
    """

    where: Tensor

    def __post_init__(self) -> None:
        if self.where.dtype != torch.bool:
            raise ValueError(
                f"Known: where must be bool, got {self.where.dtype}. Compare a soft map with a threshold."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` [B, C, *S] with 0 where it is not known."""
        return torch.where(self.where.to(x.device), x, torch.zeros((), dtype=x.dtype, device=x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the same: it is a projection."""
        return self(y)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the same: it is a projection."""
        return self(y)


@dataclass(frozen=True, eq=False)
class Downsample:
    """Means over boxes of `factor` elements: super-resolution.

    Attributes:
        factor: elements along each axis of a box, one number for all axes or one for each.

    Example:
        >>> half = Downsample(2)
        >>> half(torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])), half.inverse(torch.tensor([[[2.0, 5.0]]]))
        (tensor([[[2., 5.]]]), tensor([[[2., 2., 5., 5.]]]))
    """

    factor: int | Sequence[int]

    def _factors(self, rank: int) -> tuple[int, ...]:
        given = (self.factor,) * rank if isinstance(self.factor, int) else tuple(self.factor)
        if len(given) != rank or min(given) < 1:
            raise ValueError(
                f"Downsample: factor must be one whole number for each of {rank} axes, got {self.factor}. "
                "1 leaves an axis as it is."
            )
        return given

    def __call__(self, x: Tensor) -> Tensor:
        """Return the means `[B, C, *S / factor]` of `x` [B, C, *S].

        Raises:
            ValueError: a length that its factor does not divide.
        """
        factors = self._factors(x.ndim - 2)
        for axis, (length, factor) in enumerate(zip(x.shape[2:], factors, strict=True)):
            if length % factor:
                raise ValueError(
                    f"Downsample: x must have lengths that the factor divides, got {length} by {factor} on "
                    f"axis {axis}. Crop or extend the canvas."
                )
            x = x.unflatten(axis + 2, (length // factor, factor)).mean(axis + 3)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """Return `y` [B, C, *s] with every element repeated over its box."""
        for axis, factor in enumerate(self._factors(y.ndim - 2)):
            y = y.repeat_interleave(factor, axis + 2)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the repeated elements, divided by the size of a box."""
        size = 1
        for factor in self._factors(y.ndim - 2):
            size *= factor
        return self.inverse(y) / size


@dataclass(frozen=True, eq=False)
class LowPass:
    """The slow part of a canvas: all that varies with a period of `period` elements or more.

    An ideal filter: a projection. Open axes are mirrored at their ends, so that they do not leak into one
    another; closed axes are periodic.

    Attributes:
        period: the shortest period that is kept, in elements.
        wrap: per axis, whether the canvas closes onto itself; None: no axis does.

    Raises:
        ValueError: a period below 2 elements.

    Example:
        >>> LowPass(4)(torch.tensor([[[1.0, -1.0, 1.0, -1.0]]])).abs().max() < 1
        tensor(True)
    """

    period: float
    wrap: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        if not self.period >= 2:
            raise ValueError(
                f"LowPass: period must be at least 2 elements, got {self.period}. 2 keeps everything."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return the slow part of `x` [B, C, *S]."""
        wrap = tuple(self.wrap or (False,) * (x.ndim - 2))
        if len(wrap) != x.ndim - 2:
            raise ValueError(
                f"LowPass: wrap must have one entry per axis ({x.ndim - 2}), got {len(wrap)}. "
                "True where the canvas closes onto itself."
            )
        for axis, closed in enumerate(wrap):
            x = self._along(x, axis + 2, closed)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the same: it is a projection."""
        return self(y)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the same: it is a projection."""
        return self(y)

    def _along(self, x: Tensor, axis: int, closed: bool) -> Tensor:
        length = x.shape[axis]
        doubled = x if closed else torch.cat([x, x.flip(axis)], dim=axis)
        frequency = torch.fft.rfftfreq(doubled.shape[axis], device=x.device)
        kept = (frequency <= 1 / self.period + 1e-9).to(x.dtype)
        spectrum = torch.fft.rfft(doubled, dim=axis)
        spectrum = spectrum * kept.reshape(-1, *(1,) * (x.ndim - axis - 1))
        return torch.fft.irfft(spectrum, n=doubled.shape[axis], dim=axis).narrow(axis, 0, length)


@dataclass(frozen=True, eq=False)
class Linear:
    """Any linear map with its adjoint; its pseudo-inverse is found by conjugate gradients.

    Attributes:
        forward: `H`, canvas `[B, C, *S]` -> anything with a leading axis of B.
        transpose: `H^T`, back to a canvas.
        steps: most steps of conjugate gradients.
        tolerance: residual, relative to y, at which they end.

    Example:
        >>> both = Linear(lambda x: x.sum(2, keepdim=True), lambda y: y.expand(-1, -1, 4))
        >>> both.inverse(torch.tensor([[[8.0]]]))
        tensor([[[2., 2., 2., 2.]]])
    """

    forward: Callable[[Tensor], Tensor]
    transpose: Callable[[Tensor], Tensor]
    steps: int = 64
    tolerance: float = 1e-6

    def __call__(self, x: Tensor) -> Tensor:
        """Return `H x`."""
        return self.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return `H^T y`."""
        return self.transpose(y)

    def inverse(self, y: Tensor) -> Tensor:
        """Return `H^T z` with `H H^T z = y`, each sample on its own."""
        solution = torch.zeros_like(y)
        residual = direction = y
        shape = (-1, *(1,) * (y.ndim - 1))
        power = _dot(residual, residual)
        enough = (self.tolerance**2) * power
        for _ in range(self.steps):
            if bool((power <= enough).all()):
                break
            image = self.forward(self.transpose(direction))
            step = power / _dot(direction, image).clamp_min(torch.finfo(y.dtype).tiny)
            solution = solution + step.reshape(shape) * direction
            residual = residual - step.reshape(shape) * image
            after = _dot(residual, residual)
            share = after / power.clamp_min(torch.finfo(y.dtype).tiny)
            direction, power = residual + share.reshape(shape) * direction, after
        return self.transpose(solution)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
