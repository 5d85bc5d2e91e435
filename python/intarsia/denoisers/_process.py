# SPDX-License-Identifier: Apache-2.0
"""What a network is told of the noise level, and how its input is scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from intarsia.types import log_sigmas

Process: TypeAlias = Literal["vp", "ve"]


@dataclass(frozen=True, eq=False)
class Index:
    """Look `log(sigma)` up in a rising table [T]; the index is fractional unless quantised."""

    table: Tensor
    quantize: bool
    on_device: dict[torch.device, Tensor] = field(default_factory=dict)

    def __call__(self, sigma: Tensor) -> Tensor:
        if sigma.device not in self.on_device:
            self.on_device[sigma.device] = self.table.to(sigma.device)
        table = self.on_device[sigma.device]
        logs = sigma.to(table.dtype).log()
        high = torch.searchsorted(table, logs).clamp(1, len(table) - 1)
        below, above = table[high - 1], table[high]
        index = high - 1 + ((logs - below) / (above - below)).clamp(0, 1)
        return index.round().long() if self.quantize else index.to(sigma.dtype)


def time_of(
    name: str, alphas_cumprod: Tensor | None, time: Callable[[Tensor], Tensor] | None, quantize: bool
) -> Callable[[Tensor], Tensor]:
    tell = time or identity
    if alphas_cumprod is None:
        if quantize:
            raise ValueError(
                f"{name}: alphas_cumprod must be given where quantize is True, got None. "
                "Pass the table of the model."
            )
        return tell
    index = Index(log_sigmas(name, alphas_cumprod), quantize)
    return lambda sigma: tell(index(sigma))


def input_scale(name: str, process: Process) -> Callable[[Tensor], Tensor]:
    if process not in ("vp", "ve"):
        raise ValueError(
            f"{name}: process must be 'vp' or 've', got {process!r}. "
            "'vp' is that of DDPM and Stable Diffusion, 've' that of SMLD."
        )
    return vp_scale if process == "vp" else torch.ones_like


def vp_scale(sigma: Tensor) -> Tensor:
    return torch.rsqrt(1 + sigma**2)


def identity(value: Tensor) -> Tensor:
    return value


def dtype_of(net: object) -> torch.dtype | None:
    if not isinstance(net, torch.nn.Module):
        return None
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), None)
