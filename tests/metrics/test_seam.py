# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import dataclass

import pytest
import torch
from intarsia.metrics import Border, seam_report


@dataclass(frozen=True)
class Regions:
    size: tuple
    parts: tuple
    wrap: tuple

    def boxes(self):
        return self.parts


def chain(length, patch, stride, wrap=False, height=4):
    ends = length if wrap else length - patch + 1
    return Regions(
        (height, length), tuple(((0, x), (height, patch)) for x in range(0, ends, stride)), (False, wrap)
    )


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_known_ratio_by_hand():
    picture = torch.tensor([0.0, 1.0, 0.0, 1.0, 4.0, 3.0, 4.0, 3.0]).expand(1, 1, 4, 8)
    report = seam_report(picture, chain(8, 4, 4))
    assert (report.ratio, report.border, report.interior) == (9, 9, 1)
    assert report.borders == (Border(1, 4, 9.0),)


def test_noise_has_no_seams():
    report = seam_report(noise(64, 3, 16, 256), chain(256, 64, 64, height=16))
    assert report.ratio == pytest.approx(1, abs=0.02)
    assert len(report.ratios) == 64
    assert [b.position for b in report.borders] == [64, 128, 192]


def test_independent_pieces_of_smooth_pictures_show():
    x = torch.linspace(0, 6, 64)
    phases = noise(8, 1, 1, 4) * 9
    pieces = torch.cat([torch.sin(x + phase[..., None]) for phase in phases.unbind(-1)], -1).expand(
        -1, 3, 4, -1
    )
    assert seam_report(pieces, chain(256, 64, 64)).ratio > 20


def test_overlapping_regions_have_two_borders_each():
    report = seam_report(noise(1, 1, 4, 16), chain(16, 8, 4))
    assert [(b.axis, b.position) for b in report.borders] == [(1, 4), (1, 8), (1, 12)]


def test_closing_seam_counts_only_when_looped():
    picture = torch.zeros(1, 1, 4, 16)
    picture[..., 8:] = torch.linspace(0, 1, 8)
    open_, closed = (seam_report(picture, chain(16, 8, 8, wrap)) for wrap in (False, True))
    assert [b.position for b in open_.borders] == [8] and open_.ratio == 0
    assert [b.position for b in closed.borders] == [0, 8]
    assert closed.borders[0].ratio == pytest.approx(1 / (1 / 49 * 7 / 14))


def test_wrapped_report_does_not_depend_on_the_origin():
    picture = noise(2, 3, 4, 32)
    regions = chain(32, 8, 4, wrap=True)
    assert seam_report(picture.roll(4, -1), regions).ratio == pytest.approx(
        seam_report(picture, regions).ratio
    )
    assert seam_report(picture.roll(1, -1), regions).ratio != pytest.approx(
        seam_report(picture, regions).ratio
    )


def test_boxes_border_only_their_own_rows():
    regions = Regions((8, 8), (((0, 0), (8, 8)), ((2, 3), (4, 2))), (False, False))
    picture = torch.zeros(1, 8, 8)
    picture[:, 2:6, 3:5] = 1
    report = seam_report(picture, regions)
    assert {(b.axis, b.position) for b in report.borders} == {(0, 2), (0, 6), (1, 3), (1, 5)}
    assert report.interior == 0 and report.border == 1 and report.ratio == math.inf


def test_two_axes_are_judged_by_their_own_interior():
    picture = noise(1, 1, 64, 64)
    picture[..., 32:, :] += 10
    regions = Regions((64, 64), tuple(((y, x), (32, 32)) for y in (0, 32) for x in (0, 32)), (False, False))
    by_axis = {b.axis: b.ratio for b in seam_report(picture, regions).borders}
    assert by_axis[0] == pytest.approx(51, rel=0.2) and by_axis[1] == pytest.approx(1, rel=0.4)


@pytest.mark.parametrize("size", [(12,), (4, 12), (2, 4, 12)])
def test_any_number_of_axes(size):
    parts = tuple(((0,) * (len(size) - 1) + (x,), (*size[:-1], 4)) for x in (0, 4, 8))
    picture = torch.arange(3.0).repeat_interleave(4).expand(2, 3, *size)
    report = seam_report(picture, Regions(size, parts, (False,) * len(size)))
    assert [b.position for b in report.borders] == [4, 8] and report.ratio == math.inf


def test_flat_picture_has_ratio_one_and_bytes_are_welcome():
    flat = torch.full((3, 4, 8), 7, dtype=torch.uint8)
    assert seam_report(flat, chain(8, 4, 4)).ratio == 1
    dark_to_bright = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(4).expand(3, 4, 8)
    assert seam_report(dark_to_bright, chain(8, 4, 4)).border == 255**2


def test_errors():
    with pytest.raises(
        ValueError, match=r"seam_report: picture must be \[B, C, 4, 8\] or without B, got \(3, 4, 9\)"
    ):
        seam_report(torch.zeros(3, 4, 9), chain(8, 4, 4))
    with pytest.raises(ValueError, match="must have a border inside the canvas"):
        seam_report(torch.zeros(3, 4, 8), chain(8, 8, 8))
    with pytest.raises(ValueError, match="must leave an interior between its borders, got .* axis 1"):
        seam_report(torch.zeros(3, 4, 8), chain(8, 4, 1))


def test_library_layouts_are_accepted():
    layout = pytest.importorskip("intarsia.layout")
    report = seam_report(noise(1, 3, 8, 32), layout.grid((8, 32), (8, 8), (8, 8), (False, True)))
    assert [b.position for b in report.borders] == [0, 8, 16, 24]
