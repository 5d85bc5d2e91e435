# SPDX-License-Identifier: Apache-2.0
"""Pixels and masks to patches and weights: nothing resized, nothing uncovered, nothing counted twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from intarsia import layout
from intarsia.adapters.diffusers import Composer, Plan, Region
from intarsia.adapters.diffusers.plan import Part, plan, starts
from intarsia.compose import Factor, average
from intarsia.ops import CoverageError
from PIL import Image, ImageDraw
from torch import Tensor

COMPOSER = Composer.from_pipe(tiny.stable_diffusion())
SMALL: dict[str, Any] = {"patch": 64, "overlap": 32}


def shares(whole: Plan) -> Tensor:
    """What part of every latent belongs to each region, background last: [N + 1, *S]; it adds to 1."""
    found = []
    for owner in [*range(len(whole.parts)), -1]:

        def told(x: Tensor, sigma: Tensor, cond: Tensor, owner: int = owner) -> Tensor:
            return (cond == owner).to(x).reshape(-1, 1, *(1,) * (x.ndim - 2)).expand_as(x)

        factor = Factor(told, whole.layout, whole.weight, coefficient=whole.coefficient, cond=whole.owner)
        canvas = torch.zeros(1, 1, *whole.size, dtype=torch.float64)
        found.append(average(factor)(canvas, torch.ones(1))[0, 0].float().double())
    total = torch.stack(found)
    torch.testing.assert_close(total.sum(0).float(), torch.ones(whole.size))
    return total


def test_a_canvas_without_regions_is_the_grid() -> None:
    whole = COMPOSER.plan(height=64, width=160, **SMALL)
    assert whole.layout.boxes() == tuple(((0, x), (8, 8)) for x in (0, 4, 8, 12))
    assert whole.owner.tolist() == [-1] * 4 and whole.weight is layout.gaussian
    assert (whole.size, whole.patch, whole.num_patches) == ((8, 20), (8, 8), 4)
    assert whole.calls(2, 3) == 3 and whole.calls(2, None) == 1


def test_the_native_canvas_is_one_patch() -> None:
    assert COMPOSER.plan().layout.boxes() == (((0, 0), (8, 8)),)
    assert COMPOSER.plan(height=40, width=48).layout.boxes() == (((0, 0), (5, 6)),)


def test_a_box_up_to_the_patch_is_one_call_of_its_own_size() -> None:
    regions = [Region((16, 8, 80, 56)), Region((0, 0, 64, 64)), Region((120, 0, 160, 64))]
    whole = COMPOSER.plan(regions, height=64, width=160, **SMALL)
    assert whole.layout.boxes()[:3] == (((1, 2), (6, 8)), ((0, 0), (8, 8)), ((0, 15), (8, 5)))
    assert whole.owner.tolist()[:3] == [0, 1, 2]


def test_larger_boxes_take_the_patches_of_the_grid_that_they_touch() -> None:
    whole = COMPOSER.plan([Region((40, 0, 160, 64))], height=64, width=192, background=True, **SMALL)
    mine = [box for box, owner in zip(whole.layout.boxes(), whole.owner.tolist(), strict=True) if owner == 0]
    assert mine == [((0, x), (8, 8)) for x in (0, 4, 8, 12, 16)]
    share = shares(whole)
    assert (share[0, :, 5:20] == 1).all() and (share[0, :, :5] == 0).all() and (share[0, :, 20:] == 0).all()


def test_patches_without_weight_are_left_out() -> None:
    whole = COMPOSER.plan([Region((0, 0, 128, 64))], height=64, width=256, **SMALL)
    background = whole.layout.groups[0][0].offsets[whole.owner == -1][:, 1].tolist()
    assert background == [12, 16, 20, 24]
    covered = COMPOSER.plan([Region((0, 0, 256, 64))], height=64, width=256, **SMALL)
    assert (covered.owner == 0).all()


def test_weights_add_and_the_prompt_has_what_they_leave() -> None:
    regions = [Region((0, 0, 64, 64), weight=0.25), Region((0, 0, 64, 64), weight=0.5)]
    share = shares(COMPOSER.plan(regions, height=64, width=128, patch=64, overlap=0, window="uniform"))
    torch.testing.assert_close(share[:, 0, 0].float(), torch.tensor([0.25, 0.5, 0.25]))
    torch.testing.assert_close(share[:, 0, 12], torch.tensor([0.0, 0, 1], dtype=torch.float64))
    heavy = [Region((0, 0, 64, 64), weight=3), Region((0, 0, 64, 64), weight=1)]
    share = shares(COMPOSER.plan(heavy, height=64, width=64))
    torch.testing.assert_close(share[:, 0, 0].float(), torch.tensor([0.75, 0.25, 0]))


def test_masks_are_averaged_over_the_pixels_of_each_latent() -> None:
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((0, 0, 19, 63), fill=255)
    for given in (mask, np.asarray(mask), torch.from_numpy(np.asarray(mask) > 0), np.asarray(mask) / 255.0):
        share = shares(COMPOSER.plan([Region(mask=given)], height=64, width=64))
        expected = torch.tensor([1, 1, 0.5, 0, 0, 0, 0, 0], dtype=torch.float64).expand(8, 8)
        torch.testing.assert_close(share[0], expected)


def test_masks_that_share_the_canvas_leave_nothing_to_the_prompt() -> None:
    mask = np.random.default_rng(0).integers(1, 255, (64, 64), dtype=np.uint8)
    whole = COMPOSER.plan([Region(mask=mask), Region(mask=255 - mask)], height=64, width=64)
    assert whole.owner.tolist() == [0, 1]
    taken = sum(part.weight * part.cover(whole.size) for part in whole.parts)
    assert (1 - taken).max() > 0  # by rounding alone


def test_a_mask_may_have_the_size_of_its_box() -> None:
    half = np.ones((32, 32))
    half[:, :16] = 0
    whole = COMPOSER.plan([Region((32, 16, 64, 48), mask=half)], height=64, width=128, **SMALL)
    share = shares(whole)[0]
    expected = torch.zeros(8, 16, dtype=torch.float64)
    expected[2:6, 6:8] = 1
    torch.testing.assert_close(share, expected)
    with pytest.raises(ValueError, match=r"mask must have the canvas's size \[64, 128\], got \[31, 32\]"):
        COMPOSER.plan([Region((32, 16, 64, 48), mask=half[1:])], height=64, width=128)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_scenes_are_covered_and_shared_out_as_said(seed: int) -> None:
    draw = np.random.default_rng(seed)
    height, width = (int(n) * 8 for n in draw.integers(8, 24, 2))
    wrap = bool(draw.integers(2))
    regions, masses = [], np.zeros((height // 8, width // 8))
    for _ in range(int(draw.integers(1, 5))):
        w, h = (int(draw.integers(1, size // 8 + 1)) for size in (width, height))
        x = int(draw.integers(0, width // 8 if wrap else width // 8 - w + 1))
        y = int(draw.integers(0, height // 8 - h + 1))
        weight = float(draw.choice([0.0, 0.3, 0.5, 1.0]))
        mask = draw.random((height, width)).round() if draw.integers(2) else None
        regions.append(Region((8 * x, 8 * y, 8 * (x + w), 8 * (y + h)), mask=mask, weight=weight))
        own = np.zeros_like(masses)
        own[np.ix_(range(y, y + h), np.arange(x, x + w) % (width // 8))] = weight
        masses += own * (1 if mask is None else mask.reshape(height // 8, 8, width // 8, 8).mean((1, 3)))
    whole = COMPOSER.plan(regions, height=height, width=width, wrap=wrap, **SMALL)
    share = shares(whole)
    leaves = torch.as_tensor(np.clip(1 - masses, 0, None))
    assert ((share[-1] > 0) == (leaves > 1e-6)).all()
    for number, region in enumerate(regions):
        cover = whole.parts[number].cover(whole.size)
        assert ((share[number] > 0) == ((cover > 0) & (region.weight > 0))).all()


def test_boxes_reach_across_a_closed_seam() -> None:
    whole = COMPOSER.plan([Region((96, 0, 160, 64))], height=64, width=128, wrap=True, **SMALL)
    assert whole.layout.boxes()[0] == ((0, 12), (8, 8))
    share = shares(whole)[0]
    assert (share[:, 12:] == 1).all() and (share[:, :4] == 1).all() and (share[:, 4:12] == 0).all()
    wide = shares(COMPOSER.plan([Region((64, 0, 176, 64))], height=64, width=128, wrap=True, **SMALL))[0]
    assert (wide[:, 8:] == 1).all() and (wide[:, :6] == 1).all() and (wide[:, 6:8] == 0).all()
    with pytest.raises(
        ValueError, match=r"regions\[0\].box must lie on the canvas, got \(96, 0\) to \(160, 64\)"
    ):
        COMPOSER.plan([Region((96, 0, 160, 64))], height=64, width=128, **SMALL)
    with pytest.raises(ValueError, match="must lie on the canvas"):
        COMPOSER.plan([Region((8, 0, 144, 64))], height=64, width=128, wrap=True, **SMALL)


def test_starts() -> None:
    assert starts(8, 8, 4, wrap=False) == [0] and starts(20, 8, 4, wrap=False) == [0, 4, 8, 12]
    assert starts(8, 8, 4, wrap=True) == [0, 4] and starts(21, 8, 4, wrap=False) == [0, 4, 8, 12, 13]
    for length in range(8, 60):
        ring = starts(length, 8, 5, wrap=True)
        gaps = [(b - a) % length for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
        assert max(gaps) <= 5 and max(gaps) - min(gaps) <= 1 and sum(gaps) == length


@pytest.mark.parametrize(
    ("regions", "call", "message"),
    [
        (
            [],
            {"height": 63},
            r"height must be a multiple of 8, got 63. .* legal values are 56 and 64",
        ),
        ([], {"height": 4}, r"height must be a multiple of 8, got 4. The nearest legal value is 8"),
        ([Region((0, 0, 60, 64))], {}, r"box must be a multiple of 8 in its width, got 60. .* 56 and 64"),
        ([Region((4, 0, 60, 64))], {}, r"box must be a multiple of 8 where it begins on the width, got 4"),
        ([Region((-8, 0, 56, 64))], {}, r"regions\[0\].box must lie on the canvas"),
        ([Region((0, 64))], {}, r"box must have 4 numbers, got 2. Write box=\(left, top, right, bottom\)"),
        ([Region((0, 0, 8, 8), frames=(0, 4))], {}, "frames must be None for StableDiffusionPipeline"),
        ([], {"overlap": 64}, r"overlap must be below the patch \(64\), got 64"),
        ([], {"overlap": 12}, r"overlap must be a multiple of 8, got 12. .* 8 and 16"),
        (
            [],
            {"patch": (64, 64, 64)},
            r"patch must be a number or 2 of them, got 3. .* height, width",
        ),
        ([], {"wrap": (True,)}, r"wrap must have 2 entries, got 1"),
        ([], {"window": "square"}, r"window must be one of gaussian, .*, got 'square'"),
        ([], {"num_frames": 9}, r"num_frames must be None for StableDiffusionPipeline, got 9"),
        (
            [Region(mask=np.full((64, 64), 2.0))],
            {},
            r"mask must lie within 0 and 1 .*, got 2 to 2",
        ),
        ([Region(mask="round")], {}, r"regions\[0\]: mask must be an image, an array or a tensor, got str"),
    ],
)
def test_what_is_refused(regions: list[Region], call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        COMPOSER.plan(regions, **{"height": 64, "width": 64, "patch": 64, **call})


def test_gaps_without_a_prompt_are_an_error_in_pixels() -> None:
    regions = [Region((0, 0, 64, 64)), Region((72, 0, 128, 64), weight=0.5)]
    with pytest.raises(
        CoverageError, match=r"8 of 128 latents are uncovered \(first at \(64, 0\)\). Give prompt="
    ):
        COMPOSER.plan(regions, height=64, width=128, background=False)
    closed = [regions[0], Region((64, 0, 128, 64), weight=0.5)]
    assert (COMPOSER.plan(closed, height=64, width=128, background=False).owner >= 0).all()


def test_three_axes() -> None:
    part = Part(((1, 3), (0, 4), (2, 6)))
    whole = plan(
        (5, 4, 8),
        [part],
        patch=(2, 4, 4),
        stride=(1, 4, 2),
        wrap=(False, False, True),
        window=layout.triangle,
        background=True,
    )
    share = shares(whole)
    assert (share[0] == part.cover(whole.size)).all() and part.box == ((1, 0, 2), (2, 4, 4))
