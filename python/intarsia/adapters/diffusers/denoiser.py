# SPDX-License-Identifier: Apache-2.0
"""One network of diffusers as a denoiser, both in sigma space and in its own scale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from intarsia import denoisers
from intarsia.denoisers import Preconditioned
from intarsia.denoisers.preconditioned import Coefficients, Sizes
from intarsia.types import Cond, check_canvas

__all__ = ["Call", "DiffusersDenoiser", "Prediction", "denoiser"]

Prediction: TypeAlias = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
Call: TypeAlias = Callable[[Tensor, Tensor, Cond], Tensor]
"""`call(x [B, C, *S], t [B], cond) -> [B, C, *S]`: how a network is to be called."""


@dataclass(frozen=True, eq=False)
class DiffusersDenoiser(Preconditioned):
    """A network of diffusers; made by `denoiser`.

    Called, it is a denoiser `D(x, sigma, cond) -> x0` of `x = x0 + sigma * n` like any other. `native` is the
    network itself.

    Attributes:
        call: how the network is called.
        process: what it predicts of which process; composites add only what agrees in it.
    """

    call: Call | None = None
    process: Hashable = None

    def native(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """Return the network's own output [B, C, *S], in the network's dtype.

        Args:
            x: [B, C, *S], the canvas in the scheduler's scale, after its `scale_model_input`.
            t: [B], the scheduler's timesteps.
            cond: condition tree.

        Raises:
            ValueError: `x` is no canvas, or `t` is not [B].
        """
        check_canvas("denoiser", x)
        if t.shape != x.shape[:1]:
            raise ValueError(
                f"denoiser: t must have shape [B] = [{x.shape[0]}], got {list(t.shape)}. "
                "Use t.expand(B) for one timestep."
            )
        assert self.call is not None
        return self.call(x if self.dtype is None else x.to(self.dtype), t, cond)


def denoiser(
    network: Any,
    scheduler: Any,
    *,
    call: Call | None = None,
    prediction: Prediction | None = None,
    dtype: torch.dtype | None = None,
    sizes: Sizes | None = None,
) -> DiffusersDenoiser:
    """Make a denoiser of a network and the scheduler whose process it was trained on.

    Args:
        network: a model of diffusers, such as `pipe.unet` or `pipe.transformer`. `cond` is a dict of its own
            keyword arguments (`encoder_hidden_states`, `added_cond_kwargs`, `class_labels`, ...), or a tensor
            [B, L, E] for `encoder_hidden_states` alone; tensors have a leading axis of rows.
        scheduler: of diffusers; its table, prediction type and kind of process are read, nothing else.
        call: `call(x [B, C, *S], t [B], cond) -> [B, C, *S]`, where the network wants to be called in another
            way: packed tokens, ids of positions, tables of prompts.
        prediction: what the network predicts; None reads it from the scheduler.
        dtype: the network's input dtype; None takes that of its first floating parameter.
        sizes: spatial sizes that the network was trained on, for composites that need to know.

    Returns:
        A denoiser that offers `native(x, t, cond)`, too: `samplers.FromDiffusers(scheduler)` steps that.

    Raises:
        ValueError: a scheduler without a table of noise levels, or a prediction type that is not known.

    Note:
        As a denoiser in sigma space the canvas is `x0 + sigma * n`, whatever the scheduler's own scale:
        start it from `sigmas[0] * noise`. A table that ends at zero signal-to-noise ratio has its last entry
        left out there. Channels of a predicted variance are cut off. The network is not changed, and keeps
        its own mode: call `network.eval()`, and `requires_grad_(False)` where that matters.

    Source:
        https://huggingface.co/docs/diffusers/api/schedulers/overview

    Example:
        >>> from diffusers import DDIMScheduler, UNet2DModel
        >>> network = UNet2DModel(8, 3, 3, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        ...     down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> D = denoiser(network, DDIMScheduler())
        >>> D(torch.zeros(1, 3, 8, 8), torch.ones(1)).shape
        torch.Size([1, 3, 8, 8])
    """
    config = getattr(scheduler, "config", None)
    if config is None:
        raise ValueError(
            f"denoiser: scheduler must be a scheduler of diffusers, got {type(scheduler).__name__}. "
            "Pass pipe.scheduler."
        )
    kind = prediction or _prediction(scheduler)
    if kind not in get_args(Prediction):
        raise ValueError(
            f"denoiser: prediction must be one of {', '.join(get_args(Prediction))}, got {kind!r}. "
            "Pass prediction= to say what the network predicts."
        )
    run = call or _Keywords(network)
    given = dtype or _dtype_of(network)
    if kind == "flow_prediction":
        thousand = float(config.get("num_train_timesteps", 1000))
        base = denoisers.from_flow(run, time=lambda t: thousand * t, dtype=given, sizes=sizes)
        process: Hashable = ("flow_prediction", thousand)
    elif "sigma_data" in config:
        base = _edm(run, scheduler, kind, given, sizes)
        process = (kind, "edm", float(config["sigma_data"]))
    else:
        table = _table(scheduler)
        make = {"epsilon": denoisers.from_eps, "v_prediction": denoisers.from_v, "sample": denoisers.from_x0}
        base = make[kind](run, alphas_cumprod=table, dtype=given, sizes=sizes)
        process = (kind, hashlib.sha256(table.numpy().tobytes()).hexdigest()[:16])
    return DiffusersDenoiser(
        base.net, base.coefficients, base.time, base.dtype, base.sizes, call=run, process=process
    )


@dataclass(frozen=True, eq=False)
class _Keywords:
    """Call a model of diffusers with the condition's keys as its keyword arguments."""

    network: Any

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        told = cond if isinstance(cond, dict) else {} if cond is None else {"encoder_hidden_states": cond}
        out = self.network(x, t, **told, return_dict=False)[0]
        # A learned variance follows the prediction.
        return out[:, : x.shape[1]] if out.shape[1] == 2 * x.shape[1] else out


def _prediction(scheduler: Any) -> str:
    config = scheduler.config
    if config.get("use_flow_sigmas") or type(scheduler).__name__.startswith("FlowMatch"):
        return "flow_prediction"
    return str(config.get("prediction_type", "epsilon"))


def _table(scheduler: Any) -> Tensor:
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise ValueError(
            f"denoiser: scheduler must have a table alphas_cumprod, got {type(scheduler).__name__} without "
            "one. Pass a scheduler of the network's training process, such as DDIMScheduler."
        )
    table = torch.as_tensor(table).detach().to("cpu", torch.float64)
    return table[:-1] if table[-1] <= 1e-8 else table


def _edm(
    run: Call, scheduler: Any, kind: str, dtype: torch.dtype | None, sizes: Sizes | None
) -> Preconditioned:
    """A network in EDM's preconditioning, told what the scheduler's `precondition_noise` makes of sigma."""
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"denoiser: prediction must be epsilon or v_prediction in EDM's preconditioning, got {kind!r}. "
            "These are the two that its schedulers know."
        )
    data = float(scheduler.config["sigma_data"])
    sign = 1.0 if kind == "epsilon" else -1.0

    def coefficients(sigma: Tensor) -> Coefficients:
        c_in = torch.rsqrt(sigma**2 + data**2)
        return c_in, (data * c_in) ** 2, sign * sigma * data * c_in

    return Preconditioned(run, coefficients, scheduler.precondition_noise, dtype, sizes)


def _dtype_of(network: Any) -> torch.dtype | None:
    own = getattr(network, "dtype", None)
    return own if isinstance(own, torch.dtype) and own.is_floating_point else None
