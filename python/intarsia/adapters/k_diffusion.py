# SPDX-License-Identifier: Apache-2.0
"""k-diffusion: its models as denoisers, and any denoiser or composite as a model for its samplers.

Its convention is one callable, `model(x, sigma, **extra_args) -> denoised`, in sigma space like ours. The
package itself is not needed for either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.types import (
    Cond,
    Denoiser,
    broadcast_cond,
    check_canvas,
    check_cond,
    denoise,
    merge_cond,
)

__all__ = ["KDenoiser", "KModel", "denoiser", "model"]


@dataclass(frozen=True, eq=False)
class KDenoiser:
    """A k-diffusion model as a denoiser; made by `denoiser`.

    Attributes:
        model: `model(x [B, C, *S], sigma [B], **extra_args) -> denoised [B, C, *S]`.
        dtype: the model's input dtype; None stands for the dtype of the canvas.
        sizes: spatial sizes that the model was trained on, or None for any.
    """

    model: Callable[..., Tensor]
    dtype: torch.dtype | None = None
    sizes: tuple[tuple[int, ...], ...] | None = None

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S], the dtype of `x`.

        Args:
            x: [B, C, *S], any floating dtype.
            sigma: [B], noise levels.
            cond: the model's `extra_args`, a dict; tensors with a leading axis of B.

        Raises:
            ValueError: `x` is no canvas, `sigma` is not [B], or `cond` is neither None nor a dict.
        """
        check_canvas("denoiser", x)
        if sigma.shape != x.shape[:1]:
            raise ValueError(
                f"denoiser: sigma must have shape [B] = [{x.shape[0]}], got {list(sigma.shape)}. "
                "Use types.level(sigma, x) for one number."
            )
        if cond is not None and not isinstance(cond, Mapping):
            raise ValueError(
                f"denoiser: cond must be None or a dict of the model's keyword arguments, got "
                f"{type(cond).__name__}. Name it as the model does: {{'class_cond': ...}}."
            )
        # The model scales its input by functions of sigma: a wider sigma would widen the input as well.
        given = x.to(self.dtype or x.dtype)
        return self.model(given, sigma.to(given.dtype), **(cond or {})).to(x.dtype)


@dataclass(frozen=True, eq=False)
class KModel:
    """A denoiser under k-diffusion's calling convention; made by `model`.

    Attributes:
        denoiser: any denoiser, a composite as well.
        cond: what it is told in every call, besides `extra_args`.
    """

    denoiser: Denoiser
    cond: Cond = None

    def __call__(self, x: Tensor, sigma: Tensor | float, **extra_args: Any) -> Tensor:
        """Return the estimate [B, C, *S], the dtype of `x`.

        Args:
            x: [B, C, *S], floating.
            sigma: [B], or one number (or a tensor without axes) for the whole batch.
            **extra_args: keys of the denoiser's condition; tensors with a leading axis of B or 1.

        Raises:
            ValueError: `x` is no canvas, `sigma` or a condition does not fit it, or a key is given twice.
        """
        check_canvas("model", x)
        high = torch.float64 if x.dtype == torch.float64 else torch.float32
        levels = torch.as_tensor(sigma, dtype=high, device=x.device)
        if levels.ndim > 1 or levels.numel() not in (1, x.shape[0]):
            raise ValueError(
                f"model: sigma must have shape [B] = [{x.shape[0]}] or be one number, "
                f"got {list(levels.shape)}. Write sigma * x.new_ones([x.shape[0]])."
            )
        cond = merge_cond(self.cond, extra_args or None)
        check_cond("model", cond, x.shape[0])
        return denoise(self.denoiser, x, levels.expand(x.shape[0]), broadcast_cond(cond, x.shape[0]))


def denoiser(
    model: Callable[..., Tensor],
    *,
    dtype: torch.dtype | None = None,
    sizes: tuple[tuple[int, ...], ...] | None = None,
) -> KDenoiser:
    """Return a k-diffusion style model as a denoiser, to compose, to guide and to sample from.

    `D(x, sigma, cond) = model(x, sigma, **cond)`

    Args:
        model: `model(x [B, C, *S], sigma [B], **extra_args) -> denoised [B, C, *S]`, such as a
            `k_diffusion.external.CompVisDenoiser` or a `k_diffusion.layers.Denoiser`.
        dtype: what the model computes in; `x` and `sigma` are cast to it, as its own samplers would have
            them. None: the dtype of the canvas.
        sizes: spatial sizes that the model was trained on; None is any.

    Returns:
        A denoiser whose `cond` is the dict of the model's `extra_args`. Their tensors have one row for each
        row of `x`: inside a Factor one for each region, cut to every batch.

    Raises:
        ValueError: `model` is not callable.

    Note:
        k-diffusion passes one `sigma` for each row, in the dtype of `x`, and so does this.

    Source:
        k-diffusion, `sampling.py`: every sampler calls `model(x, sigma * s_in, **extra_args)`.

    Example:
        >>> from intarsia import Factor, compose, layout
        >>> def net(x, sigma, gain):
        ...     return x * gain.reshape(-1, 1, 1)
        >>> D = denoiser(net)
        >>> wide = compose.average(Factor(D, layout.chain(6, 4, 2), cond={"gain": torch.tensor([1.0, 3.0])}))
        >>> wide(torch.ones(1, 1, 6), torch.ones(1))
        tensor([[[1., 1., 2., 2., 3., 3.]]])
    """
    if not callable(model):
        raise ValueError(
            f"denoiser: model must be callable as model(x, sigma, **extra_args), got "
            f"{type(model).__name__}. Wrap a raw network with k_diffusion.external or intarsia.denoisers."
        )
    return KDenoiser(model, dtype, sizes)


def model(denoiser: Denoiser, *, cond: Cond = None) -> KModel:
    """Return a denoiser as k-diffusion's samplers want their models.

    `model(x, sigma, **extra_args) = D(x, sigma, {**cond, **extra_args})`

    Args:
        denoiser: any denoiser: a composite, guidance, a leaf.
        cond: condition tree that every call gets; a dict where `extra_args` are given as well. Tensors have
            a leading axis of B or 1.

    Returns:
        A callable `model(x [B, C, *S], sigma [B], **extra_args) -> denoised [B, C, *S]`, in the dtype of `x`.

    Raises:
        ValueError: `denoiser` is not callable.

    Note:
        `x` starts at `sigmas[0] * noise`, as for our own solvers. Keep it float32: solvers lose digits in
        half precision, whatever the networks compute in. Differentiable in `x` where the denoiser is.

    Source:
        k-diffusion, `sampling.py`: every sampler calls `model(x, sigma * s_in, **extra_args)`.

    Example:
        >>> from intarsia import Factor, compose, layout
        >>> shrink = lambda x, sigma, cond=None: x / (1 + sigma.reshape(-1, 1, 1) ** 2)
        >>> wide = model(compose.average(Factor(shrink, layout.chain(10, 4, 3), layout.gaussian)))
        >>> x = torch.ones(2, 1, 10)
        >>> s_in = x.new_ones([x.shape[0]])
        >>> wide(x, torch.tensor(1.0) * s_in).unique()
        tensor([0.5000])
    """
    if not callable(denoiser):
        raise ValueError(
            f"model: denoiser must be callable as D(x, sigma, cond), got {type(denoiser).__name__}. "
            "Make one with intarsia.compose or intarsia.denoisers."
        )
    return KModel(denoiser, cond)
