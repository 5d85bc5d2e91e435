# SPDX-License-Identifier: Apache-2.0
"""Weights on another device or in another dtype for a while: the very same tensors come back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from intarsia.layout._check import fail

_COMPUTES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def dtype_of(name: str, vae: nn.Module) -> torch.dtype:
    """The dtype that the VAE computes in.

    Raises:
        ValueError: it holds no floating weights, or in a dtype that convolutions do not know.
    """
    dtype = getattr(vae, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        dtype = next((p.dtype for p in vae.parameters() if p.is_floating_point()), None)
    if dtype not in _COMPUTES:
        remedy = "Load it in float16, bfloat16 or float32."
        fail(name, "vae", "hold weights of 16, 32 or 64 bits", dtype, remedy)
    return dtype


def place_of(vae: nn.Module) -> torch.device:
    """Where the VAE computes: where an offloading hook would take it, or else where its weights are."""
    for module in vae.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    device = getattr(vae, "device", None)
    return device if isinstance(device, torch.device) else next(vae.parameters()).device


def managed(vae: nn.Module) -> bool:
    """Whether hooks move the VAE's weights, or parts of them, when it is called."""
    return any(hasattr(module, "_hf_hook") or _grouped(module) for module in vae.modules())


def _grouped(module: nn.Module) -> bool:
    hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    return any("group_offloading" in key for key in hooks)


@contextmanager
def resident(
    name: str, vae: nn.Module, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Hold all weights of `vae` on `device`, floating ones in `dtype`; put the old tensors back at the end.

    Args:
        name: the function that an error speaks for.
        vae: a module; no other thread may be using it.
        device: None leaves each weight where it is.
        dtype: None leaves each weight as it is.

    Raises:
        ValueError: the weights are held elsewhere by an offloading hook.

    Note:
        Nothing is copied back: a module's weights are not changed by decoding, so its own tensors, which stay
        alive, are put back by reference, also when the body raises. Costs a second copy of what changes.
    """
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    made: dict[int, Tensor] = {}
    try:
        for module in vae.modules():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for key, old in table.items():
                    if old is None:
                        continue
                    wanted = dtype if dtype is not None and old.is_floating_point() else old.dtype
                    target = old.device if device is None else device
                    if old.dtype == wanted and old.device == target:
                        continue
                    if old.is_meta or _grouped(module):
                        remedy = "Load the VAE in float32 or bfloat16, or take its offloading hooks off."
                        required = "hold its weights itself to be cast or moved"
                        fail(name, "vae", required, "weights that hooks load bit by bit", remedy)
                    if id(old) not in made:
                        new = old.detach().to(target, wanted)
                        made[id(old)] = nn.Parameter(new, False) if isinstance(old, nn.Parameter) else new
                    kept.append((table, key, old))
                    table[key] = made[id(old)]
        yield
    finally:
        for table, key, old in reversed(kept):
            table[key] = old


@contextmanager
def undivided(vae: nn.Module) -> Iterator[None]:
    """Have `vae` take what it is given in one go; its own switches come back at the end."""
    switches = {s: getattr(vae, s) for s in ("use_tiling", "use_slicing") if getattr(vae, s, False)}
    try:
        for switch in switches:
            setattr(vae, switch, False)
        yield
    finally:
        for switch, value in switches.items():
            setattr(vae, switch, value)
