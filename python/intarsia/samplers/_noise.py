# SPDX-License-Identifier: Apache-2.0
"""Noise of one canvas, drawn where the generator lives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.ops.canvas_noise import as_seeds
from intarsia.samplers.canvas import CanvasNoise
from intarsia.types import Generators, NoiseSource


def normal_like(x: Tensor, generator: Generators, *, out: Tensor | None = None) -> Tensor:
    """Return standard normal noise in the shape, dtype and device of a canvas.

    Args:
        x: [B, C, *S], floating.
        generator: one for the batch, or B, one for each sample, or a source of its own kind, such as
            `CanvasNoise(seed).at(Purpose.SOLVER, step)`; None takes torch's own for the device of `x`.
        out: [B, C, *S], memory like `x` that may be written to and returned, or not.

    Returns:
        [B, C, *S].

    Note:
        Drawn on the generator's device and then moved: a CPU generator gives one picture on every machine.
        With one generator a sample's noise depends on its place in the batch; with B of them it does not.
        A solver of your own that draws with this function works with `noise="canvas"`, too.

    Example:
        >>> normal_like(torch.zeros(1, 1, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 4])
    """
    if isinstance(generator, NoiseSource):
        return generator.normal_like(x)
    if isinstance(generator, (list, tuple)):
        return torch.cat([normal_like(row[None], g) for row, g in zip(x, generator, strict=True)])
    device = x.device if generator is None else generator.device
    if out is not None and device == x.device:
        return torch.randn(x.shape, generator=generator, out=out)
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def source_of(
    name: str,
    generator: Generators,
    noise: str,
    seed: int | Sequence[int] | None,
    offset: Sequence[int] | None,
) -> Generators | CanvasNoise:
    """Return what a run draws from: its generator, or the canvas noise of its seed.

    Raises:
        ValueError: an unknown kind of noise, or an argument that belongs to the other one.

    Example:
        >>> source_of("sample", None, "canvas", 7, None)
        CanvasNoise(seed=7, offset=None)
    """
    if noise == "canvas":
        if generator is not None:
            raise ValueError(
                f"{name}: generator must be None where noise is 'canvas', got {type(generator).__name__}. "
                "Pass seed=, one for each sample."
            )
        if seed is None:
            raise ValueError(
                f"{name}: seed must be given where noise is 'canvas', got None. Pass one for each sample."
            )
        return CanvasNoise(seed, offset)
    if noise != "generator":
        raise ValueError(
            f"{name}: noise must be 'generator' or 'canvas', got {noise!r}. 'canvas' takes a seed and has "
            "noise that belongs to places."
        )
    if isinstance(generator, CanvasNoise):
        raise ValueError(
            f"{name}: generator must be a torch.Generator, a list of them or None, got {generator!r}. "
            "Pass noise='canvas' and its seed."
        )
    for argument, value in (("seed", seed), ("offset", offset)):
        if value is not None:
            raise ValueError(
                f"{name}: {argument} must be None where noise is 'generator', got {value!r}. "
                "Pass noise='canvas' with it."
            )
    return generator


def check_source(name: str, source: Generators | CanvasNoise, x: Tensor) -> None:
    """Refuse generators and seeds that do not fit the canvas `x` [B, C, *S].

    Raises:
        ValueError: not one generator or seed for each sample, a generator that lives on another accelerator
            than `x`, or an offset of another rank.

    Example:
        >>> check_source("sample", torch.Generator(), torch.zeros(2, 1, 4))
    """
    if isinstance(source, CanvasNoise):
        seeds = as_seeds(name, source.seed)
        if len(seeds) != x.shape[0]:
            raise ValueError(
                f"{name}: seed must be one for each of the {x.shape[0]} samples, got {len(seeds)}. "
                "Pass a list as long as the batch."
            )
        if source.offset is not None and len(source.offset) != x.ndim - 2:
            raise ValueError(
                f"{name}: offset must have one coordinate for each of the {x.ndim - 2} axes, "
                f"got {tuple(source.offset)}. Use 0 where the canvas begins."
            )
        return
    each = source if isinstance(source, (list, tuple)) else [source]
    if isinstance(source, (list, tuple)) and len(each) != x.shape[0]:
        raise ValueError(
            f"{name}: generator must be one, or one for each of the {x.shape[0]} samples, got {len(each)}. "
            "Pass a list as long as the batch."
        )
    for one in each:
        if one is None or (one is source and isinstance(one, NoiseSource)):
            continue
        if not isinstance(one, torch.Generator):
            raise ValueError(
                f"{name}: generator must be a torch.Generator, a list of them or None, got {one!r}. "
                "Use torch.Generator().manual_seed(seed)."
            )
        if one.device.type not in ("cpu", x.device.type):
            raise ValueError(
                f"{name}: generator must live on the CPU or with x on {x.device}, got {one.device}. "
                "A CPU generator serves every device."
            )
