# SPDX-License-Identifier: Apache-2.0
"""The picture sheet: a group of labelled strips per seed, with ticks where pieces meet."""

from __future__ import annotations

import torch
from intarsia.media import to_uint8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, GAP, LABEL, HEAD = 16, 6, 84, 26
PAPER, INK, FAINT = "white", (30, 30, 30), (150, 150, 150)


def draw(groups: dict[str, dict[str, Tensor]], *, every: int, scale: int = 2) -> Tensor:
    """Draw the sheet.

    Args:
        groups: title -> label -> picture `[3, H, W]` in [-1, 1], all of one size.
        every: distance of the ticks, in canvas elements.
        scale: whole factor by which strips are enlarged.

    Returns:
        `[3, H', W']` uint8.
    """
    first = next(iter(next(iter(groups.values())).values()))
    height, width = (n * scale for n in first.shape[-2:])
    block = HEAD + max(map(len, groups.values())) * (height + GAP) + GAP
    size = (2 * MARGIN + LABEL + width, 2 * MARGIN + len(groups) * block - GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen, small, large = (
        ImageDraw.Draw(sheet),
        ImageFont.load_default(size=13),
        ImageFont.load_default(size=15),
    )
    for index, (title, strips) in enumerate(groups.items()):
        top, left = MARGIN + index * block, MARGIN + LABEL
        pen.text((left, top), title, fill=INK, font=large)
        for x in range(every * scale, width, every * scale):
            pen.line([(left + x, top + HEAD - 6), (left + x, top + HEAD - 2)], fill=FAINT)
        for row, (label, picture) in enumerate(strips.items()):
            y = top + HEAD + row * (height + GAP)
            pixels = to_uint8(picture).permute(1, 2, 0).contiguous().numpy()
            strip = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(strip, (left, y))
            pen.text((left - 10, y + height / 2), label, fill=INK, font=small, anchor="rm")
    raw = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return raw.reshape(sheet.height, sheet.width, 3).permute(2, 0, 1).contiguous()
