# SPDX-License-Identifier: Apache-2.0
"""The affine map that makes a denoiser of a network, and a clamp for denoisers that wander off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from intarsia.types import Cond, Denoiser, check_canvas, per_sample, sizes_of

__all__ = ["Clip", "Coefficients", "Network", "Preconditioned", "Sizes"]

Network: TypeAlias = Callable[..., Tensor]
"""`net(x [B,C,*S], time [B])`, or `net(x, time, cond)` where there is a condition; returns [B,C,*S]."""

Sizes: TypeAlias = tuple[tuple[int, ...], ...]
Coefficients: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Preconditioned:
    """A network and the affine map around it; made by the `from_*` functions.

    Attributes:
        net: `net(x, time)`, or `net(x, time, cond)` where `cond` is not None; it returns [B, C, *S].
        coefficients: sigma [B] -> (c_in, c_skip, c_out), each [B].
        time: sigma [B] -> what the network is told of the noise level, [B].
        dtype: the network's input dtype; None stands for the dtype of the canvas.
        sizes: spatial sizes that the network was trained on, or None for any.
    """

    net: Network
    coefficients: Callable[[Tensor], Coefficients]
    time: Callable[[Tensor], Tensor]
    dtype: torch.dtype | None = None
    sizes: Sizes | None = None

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate `c_skip * x + c_out * F` [B, C, *S], the dtype of `x`.

        Args:
            x: [B, C, *S], float32 or float64.
            sigma: [B], noise levels.
            cond: condition tree, handed to the network as it is.

        Raises:
            ValueError: `x` is no canvas, `sigma` is not [B], or the network returned another shape.
        """
        c_in, c_skip, c_out, time = self.precond(sigma)
        raw = self._network(x, sigma, c_in, time, cond)
        return per_sample(c_skip, x) * x + per_sample(c_out, x) * raw

    def raw(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the network's own output F [B, C, *S], in the dtype of `x`.

        Args:
            x: [B, C, *S], float32 or float64.
            sigma: [B], noise levels.
            cond: condition tree, handed to the network as it is.

        Raises:
            ValueError: `x` is no canvas, `sigma` is not [B], or the network returned another shape.
        """
        c_in, _, _, time = self.precond(sigma)
        return self._network(x, sigma, c_in, time, cond)

    def precond(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (c_in, c_skip, c_out, time), each [B], at noise levels `sigma` [B].

        A floating time is float32, or float64 for a network in float64.
        """
        time = self.time(sigma)
        if self.dtype is not None and time.is_floating_point():
            time = time.to(torch.promote_types(self.dtype, torch.float32))
        return *self.coefficients(sigma), time

    def _network(self, x: Tensor, sigma: Tensor, c_in: Tensor, time: Tensor, cond: Cond) -> Tensor:
        check_canvas("denoiser", x)
        if sigma.shape != x.shape[:1]:
            raise ValueError(
                f"denoiser: sigma must have shape [B] = [{x.shape[0]}], got {list(sigma.shape)}. "
                "Use types.level(sigma, x) for one number."
            )
        scaled = (per_sample(c_in, x) * x).to(self.dtype or x.dtype)
        out = self.net(scaled, time) if cond is None else self.net(scaled, time, cond)
        if out.shape != x.shape:
            raise ValueError(
                f"denoiser: the network must return the shape of x, {list(x.shape)}, got {list(out.shape)}. "
                "Cut off the channels of a predicted variance."
            )
        return out.to(x.dtype)


@dataclass(frozen=True, eq=False)
class Clip:
    """Clamp a denoiser's estimate: for networks that wander off.

    Clamping is not linear, so it belongs *around* a composite, not inside one.

    Attributes:
        denoiser: any denoiser, a composite as well.
        low: least value of the estimate.
        high: greatest value of the estimate.

    Raises:
        ValueError: `low` is not below `high`.

    Example:
        >>> D = Clip(lambda x, sigma, cond=None: 3 * x)
        >>> D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[1., 1.]]])
    """

    denoiser: Denoiser
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"Clip: low must be below high, got {self.low} and {self.high}. "
                "Images scaled to [-1, 1] take -1 and 1."
            )

    @property
    def sizes(self) -> Sizes | None:
        """The sizes of the clipped denoiser."""
        return sizes_of(self.denoiser)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the clamped estimate [B, C, *S] at `x` [B, C, *S] and noise levels `sigma` [B]."""
        return self.denoiser(x, sigma, cond).clamp(self.low, self.high)
