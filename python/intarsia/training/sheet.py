# SPDX-License-Identifier: Apache-2.0
"""Sample sheets: what a network draws of each style, unselected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from intarsia.models import EDMDenoiser
from intarsia.samplers import DPMpp2M, sample
from intarsia.schedules import karras

__all__ = ["draw", "write_sheet"]

_GAP, _LABEL = 2, 66


def draw(
    denoiser: EDMDenoiser, *, style: int, size: Sequence[int], vertical: Tensor, seed: int, steps: int = 32
) -> Tensor:
    """Sample single patches of one style.

    Args:
        denoiser: the network.
        style: class index.
        size: `(h, w)` of the patches.
        vertical: `[B, 2]`: centre and extent of each patch, relative to its picture's height.
        seed: of the noise.
        steps: of the solver, DPM-Solver++(2M).

    Returns:
        `[B, 3, h, w]` float32 in [-1, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    sigmas = karras(steps, denoiser.sigma_min, denoiser.sigma_max)
    x = float(sigmas[0]) * torch.randn(len(vertical), 3, *size, generator=generator)
    cond = {"style": torch.full((len(vertical),), style), "vertical": vertical}
    return sample(denoiser, x, sigmas, DPMpp2M(), cond=cond, progress=False).clamp(-1, 1)


def write_sheet(path: str | Path, rows: Sequence[Tensor], labels: Sequence[str], *, zoom: int = 2) -> None:
    """Write labelled rows of pictures as one PNG, whole or not at all.

    Args:
        path: destination.
        rows: each `[B, 3, h, w]` in [-1, 1].
        labels: one per row.
        zoom: whole factor by which everything is enlarged.
    """
    width = _LABEL + max(row.shape[0] * (row.shape[3] + _GAP) for row in rows)
    sheet = Image.new("RGB", (width, sum(row.shape[2] + _GAP for row in rows)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for row, label in zip(rows, labels, strict=True):
        pen.text((4, top + row.shape[2] // 2 - 6), label, fill="black")
        for k, one in enumerate(row):
            pixels = one.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
            sheet.paste(Image.fromarray(pixels.numpy()), (_LABEL + k * (row.shape[3] + _GAP), top))
        top += row.shape[2] + _GAP
    sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        sheet.save(temporary, "PNG", optimize=True)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
