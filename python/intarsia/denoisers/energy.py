# SPDX-License-Identifier: Apache-2.0
"""Denoisers that are the gradient of an energy, so that a Metropolis test can ask for the energy itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from intarsia.denoisers._process import Process, dtype_of, input_scale, time_of
from intarsia.denoisers.preconditioned import Network, Sizes
from intarsia.types import Cond, check_canvas, per_sample

__all__ = ["EnergyDenoiser", "Potential"]

Form = Literal["l2", "dae", "ip"]


@dataclass(frozen=True, eq=False)
class EnergyDenoiser:
    """A network as an energy: its noise prediction is the gradient of a scalar, by autograd.

    With `z = c_in * x` and `s = net(z, time, cond)`, the potential U is `1/2 ||s||^2` ("l2"),
    `1/2 ||z - s||^2` ("dae", a denoising auto-encoder), or `-z . s` ("ip", an inner product). The prediction
    of the noise is `eps = dU/dz`, the estimate `D = x - sigma * eps`, and the energy, minus the log density
    at this level up to a constant, `E = U / (sigma * c_in)`, so that `-dE/dx` is the score.

    Attributes:
        net: `net(z [B, C, *S], time [B])`, or with a condition as third argument; differentiable twice where
            it is trained.
        form: which scalar.
        alphas_cumprod: as for `from_eps`.
        time: as for `from_eps`.
        quantize: as for `from_eps`.
        process: "vp": the network sees `x / sqrt(1 + sigma^2)`; "ve": it sees x.
        sizes: as for `from_eps`.

    Raises:
        ValueError: another form or process.

    Note:
        Each evaluation costs a backward pass. Train it with the usual loss on the estimate, with gradient
        clipping and a last layer that begins at zero for "ip"; "l2" and "dae" want theirs small, not zero, as
        the gradient of a square is zero where it is.

    Source:
        Du et al. 2023, "Reduce, Reuse, Recycle", section 4.2 and appendix; Salimans and Ho 2021, "Should EBMs
        model the energy or the score?"

    Example:
        >>> D = EnergyDenoiser(lambda z, t: z, form="l2", process="ve")  # U = ||z||^2 / 2
        >>> x, sigma = torch.full((1, 1, 2), 2.0), torch.tensor([0.5])
        >>> with torch.no_grad():
        ...     D(x, sigma), D.energy(x, sigma)
        (tensor([[[1., 1.]]]), tensor([8.]))
    """

    net: Network
    form: Form = "dae"
    alphas_cumprod: Tensor | None = None
    time: Callable[[Tensor], Tensor] | None = None
    quantize: bool = False
    process: Process = "vp"
    sizes: Sizes | None = None
    _scale: Callable[[Tensor], Tensor] = field(init=False, repr=False)
    _time: Callable[[Tensor], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.form not in ("l2", "dae", "ip"):
            raise ValueError(
                f"EnergyDenoiser: form must be 'l2', 'dae' or 'ip', got {self.form!r}. "
                "'dae' is the most forgiving to train."
            )
        object.__setattr__(self, "_scale", input_scale("EnergyDenoiser", self.process))
        told = time_of("EnergyDenoiser", self.alphas_cumprod, self.time, self.quantize)
        object.__setattr__(self, "_time", told)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S] at `x` [B, C, *S] and noise levels `sigma` [B]."""
        return self.with_energy(x, sigma, cond)[1]

    def energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return minus the log density [B] of `x` [B, C, *S] at levels `sigma` [B], up to a constant."""
        check_canvas("EnergyDenoiser", x)
        scale = self._scale(sigma)
        potential = self._potential(per_sample(scale, x) * x, sigma, cond)
        return potential / (sigma * scale)

    def with_energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
        """Return the energy [B] and the estimate [B, C, *S], for the price of the estimate."""
        check_canvas("EnergyDenoiser", x)
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            scale = self._scale(sigma)
            z = per_sample(scale, x) * x
            z = z if graph and z.requires_grad else z.detach().requires_grad_()
            potential = self._potential(z, sigma, cond)
            (eps,) = torch.autograd.grad(potential.sum(), z, create_graph=graph)
        energy = potential / (sigma * scale)
        denoised = x - per_sample(sigma, x) * eps.to(x.dtype)
        return (energy, denoised) if graph else (energy.detach(), denoised.detach())

    def _potential(self, z: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        dtype = dtype_of(self.net)
        told = self._time(sigma)
        seen = z if dtype is None else z.to(dtype)
        told = told.to(dtype) if dtype is not None and told.is_floating_point() else told
        s = (self.net(seen, told) if cond is None else self.net(seen, told, cond)).to(z.dtype)
        if s.shape != z.shape:
            raise ValueError(
                f"EnergyDenoiser: the network must return the shape of x, {list(z.shape)}, "
                f"got {list(s.shape)}. A network that returns scalars makes a Potential."
            )
        value = {"l2": s * s / 2, "dae": (z - s) ** 2 / 2, "ip": -z * s}[self.form]
        return value.flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Potential:
    """Any scalar energy as a denoiser: closed-form densities, and classifiers that guide.

    `D = x - sigma^2 * dE/dx`, the gradient by autograd.

    Attributes:
        function: `function(x [B, C, *S], sigma [B], cond) -> [B]`, minus the log density at this level up to
            a constant. For a classifier trained on noisy data: minus its log probability of the class.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs", section 4: classifier guidance is a product.

    Example:
        >>> D = Potential(lambda x, sigma, cond=None: (x**2).flatten(1).sum(1) / (2 * (1 + sigma**2)))
        >>> with torch.no_grad():
        ...     D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[0.5000, 0.5000]]])
    """

    function: Callable[..., Tensor]

    def energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the energy [B] of `x` [B, C, *S] at levels `sigma` [B]."""
        return self.function(x, sigma, cond)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S] at `x` [B, C, *S] and levels `sigma` [B]."""
        return self.with_energy(x, sigma, cond)[1]

    def with_energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
        """Return the energy [B] and the estimate [B, C, *S].

        Raises:
            ValueError: the function returned another shape than [B].
        """
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            inner: Any = x if graph and x.requires_grad else x.detach().requires_grad_()
            energy = self.function(inner, sigma, cond)
            if energy.shape != x.shape[:1]:
                raise ValueError(
                    f"Potential: function must return [B] = [{x.shape[0]}], got {list(energy.shape)}. "
                    "Sum over channels and places."
                )
            (gradient,) = torch.autograd.grad(energy.sum(), inner, create_graph=graph)
        denoised = x - per_sample(sigma.to(x.dtype) ** 2, x) * gradient
        return (energy, denoised) if graph else (energy.detach(), denoised.detach())
