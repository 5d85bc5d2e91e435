# SPDX-License-Identifier: Apache-2.0
"""`draw`: the regions of a scene as lines of text; `chart`: the same as a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intarsia.scene.schema import Scene

__all__ = ["chart", "colour", "draw"]

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_LINES = " ╵╷│╴┘┐┤╶└┌├─┴┬┼"
_ASCII = " ||||+++-+++-+++"
Rectangle = tuple[int, int, int, int]

_TALLEST = 26
_ASPECT = 2.1  # of a character, height to width


def colour(index: int, count: int) -> tuple[int, int, int]:
    """A colour for region `index` of `count`: neighbours differ, all are of one brightness.

    Args:
        index: from 0.
        count: of all.

    Returns:
        (red, green, blue) in 0 to 255.
    """
    hue = (index * 0.61803398875 + 0.58) % 1 if count > 6 else (0.58 + index / max(count, 1)) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, 0.52, 0.62)
    return round(255 * red), round(255 * green), round(255 * blue)


def _pieces(scene: Scene, box: Rectangle | None) -> Iterator[Rectangle]:
    """The parts of a box on the canvas: one, or more where it reaches across an edge that wraps."""
    canvas = scene.canvas
    left, top, right, bottom = box or (0, 0, canvas.width, canvas.height)
    for dy in (0, -canvas.height):
        for dx in (0, -canvas.width):
            piece = max(left + dx, 0), max(top + dy, 0), min(right + dx, canvas.width), bottom + dy
            if piece[0] < piece[2] and piece[1] < min(piece[3], canvas.height):
                yield piece[0], piece[1], piece[2], min(piece[3], canvas.height)


def _boxes(scene: Scene) -> Iterator[tuple[int, str, Rectangle]]:
    for index, region in enumerate(scene.places):
        for piece in _pieces(scene, region.box):
            yield index, str(region.name), piece


def draw(scene: Scene, *, width: int = 76, colours: bool = False, ascii_only: bool = False) -> list[str]:
    r"""Draw the regions of a scene with characters.

    Where no region lies, dots stand for the scene's own prompt or style; a name stands in the upper left
    corner of its region; guides have broken lines.

    Args:
        scene: any.
        width: characters of a line.
        colours: whether names and borders have the colours of their regions (ANSI sequences).
        ascii_only: whether to keep to ASCII, for terminals that know nothing else.

    Returns:
        Lines, top to bottom.

    Example:
        >>> from intarsia.scene import load
        >>> sun = "regions: [{name: sun, box: [30, 0, 60, 30], style: a}]"
        >>> scene = load("canvas: {width: 60, height: 30}\n" + sun)
        >>> print("\n".join(draw(scene, width=20)))
        ┌─────────┬────────┐
        │·········│sun     │
        │·········│        │
        │·········│        │
        │·········│        │
        └─────────┴────────┘
    """
    page = _Page(scene, width)
    for guide in scene.guides:
        for piece in _pieces(scene, guide.box):
            page.dash(piece)
    for index, _, box in _boxes(scene):
        page.frame(box, index)
    page.frame((0, 0, scene.canvas.width, scene.canvas.height), None)
    for index, name, box in _boxes(scene):
        page.label(box, name, index)
    return page.lines(len(scene.places), colours=colours, ascii_only=ascii_only)


class _Page:
    """Characters, of which each knows the lines that meet in it."""

    def __init__(self, scene: Scene, width: int) -> None:
        self.scene = scene
        tall = scene.canvas.height / scene.canvas.width / _ASPECT
        # A page that people see at once: tall canvases become narrow.
        self.columns = max(8, min(width, round(_TALLEST / tall)))
        self.rows = max(3, min(_TALLEST, round(tall * self.columns) + 1))
        self.marks = [[0] * self.columns for _ in range(self.rows)]
        self.text: dict[tuple[int, int], str] = {}
        self.owner: dict[tuple[int, int], int] = {}
        self.covered: set[tuple[int, int]] = set()
        self.dashed: dict[tuple[int, int], str] = {}

    def _place(self, box: Rectangle) -> tuple[int, int, int, int]:
        canvas = self.scene.canvas
        across, down = (self.columns - 1) / canvas.width, (self.rows - 1) / canvas.height
        left, right = round(min(box[0], canvas.width) * across), round(min(box[2], canvas.width) * across)
        top, bottom = round(min(box[1], canvas.height) * down), round(min(box[3], canvas.height) * down)
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def frame(self, box: Rectangle, index: int | None) -> None:
        left, top, right, bottom = self._place(box)
        right, bottom = min(right, self.columns - 1), min(bottom, self.rows - 1)
        for x in range(left, right):
            for y in (top, bottom):
                self.marks[y][x] |= _RIGHT
                self.marks[y][x + 1] |= _LEFT
        for y in range(top, bottom):
            for x in (left, right):
                self.marks[y][x] |= _DOWN
                self.marks[y + 1][x] |= _UP
        if index is None:
            return
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                self.covered.add((y, x))
                if x in (left, right) or y in (top, bottom):
                    self.owner[y, x] = index

    def dash(self, box: Rectangle) -> None:
        left, top, right, bottom = self._place(box)
        # Inside the frame, which would hide them.
        left, top = max(left, 1), max(top, 1)
        right, bottom = min(right, self.columns - 2), min(bottom, self.rows - 2)
        for x in range(left, min(right, self.columns - 1) + 1):
            self.dashed[top, x] = self.dashed[bottom, x] = "╌"
        for y in range(top, min(bottom, self.rows - 1) + 1):
            self.dashed[y, left] = self.dashed[y, right] = "╎"

    def label(self, box: Rectangle, name: str, index: int) -> None:
        left, top, right, bottom = self._place(box)
        y = min(top + 1, self.rows - 2)
        for offset, letter in enumerate(name[: max(0, right - left - 1)]):
            spot = y, left + 1 + offset
            if spot in self.text or self.marks[y][spot[1]]:
                break
            self.text[spot], self.owner[spot] = letter, index

    def lines(self, count: int, *, colours: bool, ascii_only: bool) -> list[str]:
        found = []
        for y in range(self.rows):
            line = ""
            for x in range(self.columns):
                sign = self._sign(y, x, ascii_only=ascii_only)
                index = self.owner.get((y, x))
                if colours and index is not None and sign != " ":
                    red, green, blue = colour(index, count)
                    sign = f"\x1b[38;2;{red};{green};{blue}m{sign}\x1b[0m"
                line += sign
            found.append(line.rstrip())
        return found

    def _sign(self, y: int, x: int, *, ascii_only: bool) -> str:
        if self.marks[y][x]:
            return (_ASCII if ascii_only else _LINES)[self.marks[y][x]]
        if (y, x) in self.text:
            return self.text[y, x]
        if (y, x) in self.dashed:
            return (":" if self.dashed[y, x] == "╎" else "-") if ascii_only else self.dashed[y, x]
        if (y, x) in self.covered:
            return " "
        return "." if ascii_only else "·"


def chart(scene: Scene, *, width: int = 1280) -> Any:
    """Draw the regions of a scene as a Pillow picture: colours add up where regions overlap.

    Args:
        scene: any; masks are drawn by their shape.
        width: of the picture in pixels.

    Returns:
        An RGB picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    canvas, margin = scene.canvas, 24
    scale = (width - 2 * margin) / canvas.width
    size = width, round(canvas.height * scale) + 2 * margin
    picture = Image.new("RGBA", size, (250, 249, 246, 255))
    draw_on = ImageDraw.Draw(picture)
    frame = (margin, margin, width - margin, size[1] - margin)
    draw_on.rectangle(frame, fill=(232, 230, 224, 255))
    places = scene.places

    def at(box: Rectangle) -> Rectangle:
        found = [margin + round(value * scale) for value in box]
        return found[0], found[1], min(found[2], frame[2]), min(found[3], frame[3])

    for index, region in enumerate(places):
        layer = Image.new("RGBA", size, (0, 0, 0, 0))
        tint = (*colour(index, len(places)), 84)
        if region.mask is not None:
            shape = _shape(scene.path(region.mask), (frame[2] - frame[0], frame[3] - frame[1]))
            layer.paste(Image.new("RGBA", shape.size, tint), frame[:2], shape)
        else:
            for piece in _pieces(scene, region.box):
                ImageDraw.Draw(layer).rectangle(at(piece), fill=tint)
        picture = Image.alpha_composite(picture, layer)
    draw_on = ImageDraw.Draw(picture)
    for guide in scene.guides:
        for piece in _pieces(scene, guide.box):
            _dashes(draw_on, at(piece))
    draw_on.rectangle(frame, outline=(60, 58, 54, 255), width=2)
    font = ImageFont.load_default(size=16 if len(places) <= 24 else 13)
    for index, name, piece in _boxes(scene):
        dark = tuple(round(0.55 * value) for value in colour(index, len(places)))
        box = at(piece)
        if places[index].mask is None:
            draw_on.rectangle(box, outline=(*dark, 255), width=2)
        draw_on.text((box[0] + 7, box[1] + 5), name, fill=(*dark, 255), font=font)
    return picture.convert("RGB")


def _shape(path: Path, size: tuple[int, int]) -> Any:
    from PIL import Image

    from intarsia.media import read_image, to_uint8

    grey = to_uint8(read_image(path).mean(0))
    whole = Image.frombytes("L", (grey.shape[1], grey.shape[0]), bytes(grey.contiguous().flatten().tolist()))
    return whole.resize(size).point(lambda value: value // 3)


def _dashes(draw_on: Any, box: Rectangle) -> None:
    left, top, right, bottom = box[0] + 5, box[1] + 5, box[2] - 5, box[3] - 5
    ink = (40, 40, 40, 255)
    for x in range(left, right, 14):
        for y in (top, bottom):
            draw_on.line([(x, y), (min(x + 7, right), y)], fill=ink, width=1)
    for y in range(top, bottom, 14):
        for x in (left, right):
            draw_on.line([(x, y), (x, min(y + 7, bottom))], fill=ink, width=1)
