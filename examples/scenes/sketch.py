# SPDX-License-Identifier: Apache-2.0
"""Draws sketch.png, the guide of bundled.yaml: a few flat shapes that the network turns into rock."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 512, 160


def mesa(draw: ImageDraw.ImageDraw, left: int, right: int, top: int, colour: tuple[int, int, int]) -> None:
    """A table of rock: steep above, sloping towards the plain."""
    foot, slope = 126, (right - left) // 4
    draw.polygon(
        [(left, top + 6), (left + 8, top), (right - 10, top + 2), (right, top + 8), (right + slope, foot)]
        + [(left - slope, foot)],
        fill=colour,
    )


def main() -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    for y in range(HEIGHT):
        t = min(1.0, y / 104)
        sky = (int(16 + 90 * t**2), int(34 + 110 * t**1.5), int(84 + 120 * t))
        draw.line([(0, y), (WIDTH, y)], fill=sky)
    draw.rectangle([0, 116, WIDTH, HEIGHT], fill=(120, 84, 48))
    mesa(draw, 48, 150, 62, (190, 128, 70))
    mesa(draw, 214, 270, 88, (160, 96, 58))
    mesa(draw, 336, 368, 44, (196, 98, 54))
    mesa(draw, 408, 490, 72, (178, 90, 50))
    for x in range(0, WIDTH, 4):
        height = 10 + 5 * math.sin(x / 23) + 3 * math.sin(x / 7)
        draw.line([(x, HEIGHT), (x, HEIGHT - height)], fill=(92, 92, 36), width=4)
    picture.filter(ImageFilter.GaussianBlur(2.5)).save(Path(__file__).with_name("sketch.png"), optimize=True)


if __name__ == "__main__":
    main()
