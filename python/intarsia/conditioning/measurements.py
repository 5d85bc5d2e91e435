# SPDX-License-Identifier: Apache-2.0
"""Denoisers that are held to a measurement of the canvas, without training: replacement, reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.conditioning.operators import Operator
from intarsia.types import Cond, Denoiser, denoise, sizes_of

__all__ = ["Reconstruction", "Replacement"]


@dataclass(frozen=True, eq=False)
class Replacement:
    """Replace what is known in every estimate: `D' = H^+ y + (I - H^+ H) D`.

    The estimate of the clean canvas agrees with the measurement at every step, and so does the result.

    Attributes:
        operator: H, such as `Known(where)`, `Downsample(2)`, `LowPass(8)`.
        y: the measurement, as H makes it, with a leading axis of B or 1.
        denoiser: any denoiser, composites as well.

    Note:
        Cheap, and biased: what is unknown follows what is known only through the network's sight, so it is no
        sample of the posterior (`Reconstruction` comes nearer). Not linear in the network's answers, so it
        stands around a composite, not inside one.

    Source:
        Zhang et al. 2023, "DiffCollage", appendix, replacement-based conditioning; Wang, Yu and Zhang 2023,
        "Zero-shot image restoration using denoising diffusion null-space model", equation 10.

    Example:
        >>> from intarsia.conditioning import Known
        >>> left = Known(torch.tensor([True, False]))
        >>> D = Replacement(left, torch.ones(1, 1, 2), lambda x, s, c=None: 0 * x)
        >>> D(torch.zeros(1, 1, 2), torch.ones(1))
        tensor([[[1., 0.]]])
    """

    operator: Operator
    y: Tensor
    denoiser: Denoiser

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the denoiser."""
        return sizes_of(self.denoiser)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S] that agrees with the measurement.

        Raises:
            ValueError: `y` has another shape than the operator's answers.
        """
        denoised = denoise(self.denoiser, x, sigma, cond)
        apart = _apart(self.operator, self.y, denoised, "Replacement")
        return denoised + self.operator.inverse(apart)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Pull the estimate towards a measurement through the network's own gradient.

    `D' = D - weight * grad_x ||H D(x) - y||^2`: with `weight = w_r / 2` the reconstruction guidance of video
    diffusion in sigma space, where the factors of the process cancel.

    Attributes:
        operator: H.
        y: the measurement, as H makes it, with a leading axis of B or 1.
        weight: how strongly; 0.5 to 10 as a rule.
        denoiser: any denoiser that gradients flow through.

    Raises:
        ValueError: a weight that is negative.

    Note:
        Costs a backward pass of the network, and its memory. For Gaussian data and a single step it moves
        towards the posterior; what is measured is approached, not met: put a `Replacement` around it where
        it must be.

    Source:
        Ho et al. 2022, "Video diffusion models", equation 7; Zhang et al. 2023, "DiffCollage", algorithm 5,
        whose sign is a misprint.

    Example:
        >>> from intarsia.conditioning import Known
        >>> everything = Known(torch.tensor([True]))
        >>> D = Reconstruction(everything, torch.ones(1, 1, 1), 0.5, lambda x, s, c=None: x / 2)
        >>> D(torch.zeros(1, 1, 1), torch.ones(1))
        tensor([[[0.5000]]])
    """

    operator: Operator
    y: Tensor
    weight: float
    denoiser: Denoiser

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(
                f"Reconstruction: weight must not be negative, got {self.weight}. "
                "The gradient's sign is taken care of."
            )

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the denoiser."""
        return sizes_of(self.denoiser)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S], moved down the gradient of the squared misfit.

        Raises:
            ValueError: `y` has another shape than the operator's answers.
        """
        outer = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            inner = x if outer else x.detach().requires_grad_()
            denoised = denoise(self.denoiser, inner, sigma, cond)
            misfit = _apart(self.operator, self.y, denoised, "Reconstruction").square().sum()
            (gradient,) = torch.autograd.grad(misfit, inner, create_graph=outer)
            moved = denoised - self.weight * gradient
        return moved if outer else moved.detach()


def _apart(operator: Operator, y: Tensor, denoised: Tensor, name: str) -> Tensor:
    seen = operator(denoised)
    if y.shape[1:] != seen.shape[1:] or y.shape[0] not in (1, seen.shape[0]):
        raise ValueError(
            f"{name}: y must have shape {list(seen.shape)} as the operator's answers have, got "
            f"{list(y.shape)}. Measure it with operator(canvas)."
        )
    return y.to(seen) - seen
