# SPDX-License-Identifier: Apache-2.0
import re

import pytest
import torch
from intarsia.media import write_png
from intarsia.scene import draw, load
from intarsia.scene.drawing import chart, colour

TWO = """
canvas: {width: 120, height: 60}
regions:
  - {name: one, box: [0, 0, 80, 60], prompt: a}
  - {name: two, box: [40, 0, 120, 60], prompt: b}
"""


def test_lines_of_overlapping_regions_meet():
    assert draw(load(TWO), width=31) == [
        "┌─────────┬─────────┬─────────┐",
        "│one      │two      │         │",
        *["│         │         │         │"] * 5,
        "└─────────┴─────────┴─────────┘",
    ]


def test_the_same_in_ascii():
    page = draw(load(TWO), width=31, ascii_only=True)
    assert page[0] == "+---------+---------+---------+" and all(line.isascii() for line in page)


def test_colours_are_of_their_regions():
    page = "\n".join(draw(load(TWO), width=31, colours=True))
    red, green, blue = colour(1, 2)
    assert f"\x1b[38;2;{red};{green};{blue}mt\x1b[0m" in page
    assert re.sub(r"\x1b\[[0-9;]*m", "", page).splitlines() == draw(load(TWO), width=31)


def test_boxes_across_an_edge_are_drawn_on_both_sides():
    text = "canvas: {width: 120, height: 60, wrap: horizontal}\nregions: [{name: a, box: [90, 0, 150, 60]}]"
    assert draw(load(text), width=33)[1] == "│a      │···············│a      │"
    assert draw(load(text), width=33)[2] == "│       │···············│       │"


def test_guides_have_broken_lines_and_pages_stay_small():
    text = "canvas: {width: 60, height: 600}\nguides: [{image: a.png, box: [0, 100, 60, 300]}]"
    page = draw(load(text), width=100)
    assert len(page) <= 30 and any("╌" in line for line in page) and any("╎" in line for line in page)


@pytest.mark.parametrize("count", [1, 2, 6, 7, 88])
def test_colours_differ_from_their_neighbours(count):
    found = [colour(index, count) for index in range(count)]
    assert all(
        max(abs(x - y) for x, y in zip(a, b, strict=True)) > 30
        for a, b in zip(found, found[1:], strict=False)
    )


def test_the_chart_shows_boxes_masks_and_overlaps(tmp_path):
    write_png(torch.cat([torch.ones(1, 60, 60), -torch.ones(1, 60, 60)], 2), tmp_path / "m.png")
    picture = chart(load(TWO + "  - {name: m, mask: m.png, prompt: c}", folder=tmp_path), width=648)
    assert picture.size == (648, 348)
    spots = [picture.getpixel((x, 200)) for x in (100, 280, 400, 560)]
    assert len(set(spots)) == 4
