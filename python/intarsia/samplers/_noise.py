# SPDX-License-Identifier: Apache-2.0
"""Noise of one canvas, drawn where the generator lives."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.types import Generators


def normal_like(x: Tensor, generator: Generators) -> Tensor:
    """Return standard normal noise in the shape, dtype and device of a canvas.

    Args:
        x: [B, C, *S], floating.
        generator: one for the batch, or B, one for each sample; None takes torch's own for the device of `x`.

    Returns:
        [B, C, *S].

    Note:
        Drawn on the generator's device and then moved: a CPU generator gives one picture on every machine.
        With one generator a sample's noise depends on its place in the batch; with B of them it does not.

    Example:
        >>> normal_like(torch.zeros(1, 1, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 4])
    """
    if isinstance(generator, (list, tuple)):
        return torch.cat([normal_like(row[None], g) for row, g in zip(x, generator, strict=True)])
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def check_generator(name: str, generator: Generators, x: Tensor) -> None:
    """Refuse generators that do not fit the canvas `x` [B, C, *S].

    Raises:
        ValueError: not one generator for each sample, or one that lives on another accelerator than `x`.

    Example:
        >>> check_generator("sample", torch.Generator(), torch.zeros(2, 1, 4))
    """
    each = generator if isinstance(generator, (list, tuple)) else [generator]
    if isinstance(generator, (list, tuple)) and len(each) != x.shape[0]:
        raise ValueError(
            f"{name}: generator must be one, or one for each of the {x.shape[0]} samples, got {len(each)}. "
            "Pass a list as long as the batch."
        )
    for one in each:
        if one is not None and not isinstance(one, torch.Generator):
            raise ValueError(
                f"{name}: generator must be a torch.Generator, a list of them or None, got {one!r}. "
                "Use torch.Generator().manual_seed(seed)."
            )
        if one is not None and one.device.type not in ("cpu", x.device.type):
            raise ValueError(
                f"{name}: generator must live on the CPU or with x on {x.device}, got {one.device}. "
                "A CPU generator serves every device."
            )
