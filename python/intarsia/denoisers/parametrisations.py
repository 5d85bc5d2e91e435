# SPDX-License-Identifier: Apache-2.0
"""One function per thing that networks predict."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from intarsia.denoisers._process import Process, dtype_of, identity, input_scale, time_of, vp_scale
from intarsia.denoisers.preconditioned import Coefficients, Network, Preconditioned, Sizes

__all__ = ["from_edm", "from_eps", "from_flow", "from_score", "from_v", "from_x0"]


def from_eps(
    net: Network,
    *,
    alphas_cumprod: Tensor | None = None,
    time: Callable[[Tensor], Tensor] | None = None,
    quantize: bool = False,
    process: Process = "vp",
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> Preconditioned:
    """Wrap a network that predicts the noise: `D = x - sigma * eps`.

    Args:
        net: `net(x [B, C, *S], time [B])`, or `net(x, time, cond)` where there is a condition.
        alphas_cumprod: [T], floating: the table of a discrete-time network. `log(sigma)` is looked up in it,
            held at its ends, and the network is told the index, 0 to T-1, interpolated between steps.
        time: maps the index (without a table: sigma) [B] to what the network is told [B]; `lambda i: i + 1`
            for tables counted from 1, `lambda i: (i + 1) / 1000` for fractions.
        quantize: round the index to the nearest step, an int64, as embedding tables need. Only what the
            network is told is rounded: its input and its output are scaled by the sigma asked for.
        process: "vp": the network sees `x / sqrt(1 + sigma^2)`; "ve": it sees `x`.
        dtype: the network's input dtype; None takes that of its first floating parameter now, or, where it
            has none, that of the canvas. The estimate keeps the dtype of the canvas.
        sizes: spatial sizes that the network was trained on, for composites that need to know.

    Returns:
        A denoiser.

    Raises:
        ValueError: a table that does not fall within (0, 1), another process, or `quantize` without a table.

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", equation 15.

    Example:
        >>> abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
        >>> told = []
        >>> net = lambda x, t: told.append(t.tolist()) or torch.zeros_like(x)
        >>> D = from_eps(net, alphas_cumprod=abar, quantize=True, time=lambda i: i + 1)
        >>> D(torch.ones(1, 1, 2), torch.tensor([1e-2])), told
        (tensor([[[1., 1.]]]), [[1]])
    """
    scale = input_scale("from_eps", process)
    return Preconditioned(
        net,
        lambda sigma: (scale(sigma), torch.ones_like(sigma), -sigma),
        time_of("from_eps", alphas_cumprod, time, quantize),
        dtype or dtype_of(net),
        sizes,
    )


def from_v(
    net: Network,
    *,
    alphas_cumprod: Tensor | None = None,
    time: Callable[[Tensor], Tensor] | None = None,
    quantize: bool = False,
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> Preconditioned:
    """Wrap a network that predicts `v = a*n - s*x0` of a variance-preserving process, `a^2 + s^2 = 1`.

    `D = (x - sigma * sqrt(1 + sigma^2) * v) / (1 + sigma^2)`; the network sees `x / sqrt(1 + sigma^2)`.

    Args:
        net: as for `from_eps`.
        alphas_cumprod: [T], floating, as for `from_eps`. A table with zero terminal signal-to-noise ratio
            ends in 0: leave that entry out.
        time: as for `from_eps`.
        quantize: as for `from_eps`: rounds the time that the network is told, nothing else.
        dtype: as for `from_eps`.
        sizes: as for `from_eps`.

    Returns:
        A denoiser.

    Raises:
        ValueError: a table that does not fall within (0, 1), or `quantize` without a table.

    Source:
        Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models", appendix D.

    Example:
        >>> D = from_v(lambda x, t: torch.zeros_like(x))
        >>> D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[0.5000, 0.5000]]])
    """

    def coefficients(sigma: Tensor) -> Coefficients:
        a = vp_scale(sigma)
        return a, a * a, -sigma * a

    return Preconditioned(
        net, coefficients, time_of("from_v", alphas_cumprod, time, quantize), dtype or dtype_of(net), sizes
    )


def from_x0(
    net: Network,
    *,
    alphas_cumprod: Tensor | None = None,
    time: Callable[[Tensor], Tensor] | None = None,
    quantize: bool = False,
    process: Process = "vp",
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> Preconditioned:
    """Wrap a network that predicts the clean canvas: `D = net`, with its input scaled and its time told.

    Args:
        net: as for `from_eps`.
        alphas_cumprod: [T], floating, as for `from_eps`.
        time: as for `from_eps`.
        quantize: as for `from_eps`: rounds the time that the network is told, nothing else.
        process: as for `from_eps`.
        dtype: as for `from_eps`.
        sizes: as for `from_eps`.

    Returns:
        A denoiser.

    Raises:
        ValueError: a table that does not fall within (0, 1), another process, or `quantize` without a table.

    Example:
        >>> D = from_x0(lambda x, t: torch.zeros_like(x))
        >>> D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[0., 0.]]])
    """
    scale = input_scale("from_x0", process)
    return Preconditioned(
        net,
        lambda sigma: (scale(sigma), torch.zeros_like(sigma), torch.ones_like(sigma)),
        time_of("from_x0", alphas_cumprod, time, quantize),
        dtype or dtype_of(net),
        sizes,
    )


def from_flow(
    net: Network,
    *,
    time: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> Preconditioned:
    """Wrap a network that predicts the velocity `u = n - x0` of `x_t = (1-t)*x0 + t*n`: `D = x_t - t*u`.

    The network sees `x_t = x / (1 + sigma)` at `t = sigma / (1 + sigma)`.

    Args:
        net: as for `from_eps`.
        time: maps t within (0, 1) [B] to what the network is told [B]; `lambda t: 1000 * t` for most.
        dtype: as for `from_eps`.
        sizes: as for `from_eps`.

    Returns:
        A denoiser.

    Note:
        A flow starts at t = 1, which is sigma = infinity. Start at a large finite sigma instead: 1000 is
        t = 0.999.

    Source:
        Lipman et al. 2023, "Flow matching for generative modeling"; Liu et al. 2023, "Flow straight and
        fast".

    Example:
        >>> D = from_flow(lambda x, t: torch.zeros_like(x))
        >>> D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[0.5000, 0.5000]]])
    """

    def coefficients(sigma: Tensor) -> Coefficients:
        scale = 1 / (1 + sigma)
        return scale, scale, -sigma * scale

    tell = time or identity
    return Preconditioned(
        net, coefficients, lambda sigma: tell(sigma / (1 + sigma)), dtype or dtype_of(net), sizes
    )


def from_score(
    net: Network,
    *,
    alphas_cumprod: Tensor | None = None,
    time: Callable[[Tensor], Tensor] | None = None,
    quantize: bool = False,
    process: Process = "ve",
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> Preconditioned:
    """Wrap a network that predicts the gradient of the log density *of what it sees*.

    `D = x + sigma^2 * score` for "ve"; `D = x + sigma^2 / sqrt(1 + sigma^2) * score` for "vp".

    Args:
        net: as for `from_eps`.
        alphas_cumprod: [T], floating, as for `from_eps`.
        time: as for `from_eps`.
        quantize: as for `from_eps`: rounds the time that the network is told, nothing else.
        process: "ve": the network sees `x`; "vp": it sees `x / sqrt(1 + sigma^2)`.
        dtype: as for `from_eps`.
        sizes: as for `from_eps`.

    Returns:
        A denoiser.

    Raises:
        ValueError: a table that does not fall within (0, 1), another process, or `quantize` without a table.

    Source:
        Tweedie's formula; Song et al. 2021, "Score-based generative modeling through stochastic differential
        equations", appendix B.

    Example:
        >>> D = from_score(lambda x, sigma: -x / (1 + sigma**2).reshape(-1, 1, 1))
        >>> D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[0.5000, 0.5000]]])
    """
    scale = input_scale("from_score", process)

    def coefficients(sigma: Tensor) -> Coefficients:
        c_in = scale(sigma)
        return c_in, torch.ones_like(sigma), sigma**2 * c_in

    return Preconditioned(
        net,
        coefficients,
        time_of("from_score", alphas_cumprod, time, quantize),
        dtype or dtype_of(net),
        sizes,
    )


def from_edm(
    net: Network,
    *,
    sigma_data: float = 0.5,
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> Preconditioned:
    """Wrap a raw network F in EDM's preconditioning: input and target have unit variance at every level.

    `D = d^2/(s^2+d^2) * x + s*d/sqrt(s^2+d^2) * F(x/sqrt(s^2+d^2), ln(s)/4)`, s = sigma, d = `sigma_data`.

    Args:
        net: as for `from_eps`; told `ln(sigma) / 4`.
        sigma_data: standard deviation of the training data.
        dtype: as for `from_eps`.
        sizes: as for `from_eps`.

    Returns:
        A denoiser.

    Raises:
        ValueError: `sigma_data` is not above 0.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", table 1.

    Example:
        >>> D = from_edm(lambda x, c_noise: torch.zeros_like(x), sigma_data=1.0)
        >>> D(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[0.5000, 0.5000]]])
    """
    if not 0 < sigma_data < float("inf"):
        raise ValueError(
            f"from_edm: sigma_data must be a finite number above 0, got {sigma_data}. "
            "Images scaled to [-1, 1] take 0.5."
        )

    def coefficients(sigma: Tensor) -> Coefficients:
        c_in = torch.rsqrt(sigma**2 + sigma_data**2)
        return c_in, (sigma_data * c_in) ** 2, sigma * sigma_data * c_in

    return Preconditioned(net, coefficients, lambda sigma: sigma.log() / 4, dtype or dtype_of(net), sizes)
