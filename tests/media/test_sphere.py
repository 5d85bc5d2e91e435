# SPDX-License-Identifier: Apache-2.0
import math
import os
from pathlib import Path

import pytest
import torch
from intarsia.media import cubemap_to_equirect, equirect_to_cubemap, perspective, read_image
from intarsia.media.sphere import FACES

PHOTO = Path(os.environ.get("INTARSIA_DATA", "absent")) / "photos" / "jordan_pond_equirect_4096x2048.jpg"
COLOURS = torch.arange(6.0)[:, None, None]


def sphere(height):
    """Directions of the pixels of an equirectangular picture, [3, H, 2H]."""
    latitude = math.pi * (0.5 - (torch.arange(height).double() + 0.5) / height)
    longitude = 2 * math.pi * ((torch.arange(2 * height).double() + 0.5) / (2 * height) - 0.5)
    y, level = latitude.sin()[:, None], latitude.cos()[:, None]
    x = level * longitude.sin()
    return torch.stack([x, y.expand_as(x), level * longitude.cos()])


def smooth(direction):
    x, y, z = direction
    return x * y + torch.sin(2 * z) + y**3


@pytest.mark.parametrize("sampling", ["bilinear", "area"])
def test_every_face_lands_where_it_should(sampling):
    picture = cubemap_to_equirect(COLOURS.expand(6, 32, 32), sampling=sampling)
    assert picture.shape == (64, 128)
    horizon = picture[32]
    for name, degrees in {"F": 0, "R": 90, "L": -90}.items():
        assert horizon[round((degrees + 180) / 360 * 128)] == FACES.index(name)
    assert horizon[0] == horizon[127] == FACES.index("B")
    assert (picture[:8] == FACES.index("U")).all() and (picture[-8:] == FACES.index("D")).all()


def test_faces_stand_upright_and_are_not_mirrored():
    x, y, z = equirect_to_cubemap(sphere(64), 16)
    assert (x[0].diff(dim=1) > 0).all() and (y[0].diff(dim=0) < 0).all()
    for face in range(4):
        assert (y[face].diff(dim=0) < 0).all()
    assert (z[1].diff(dim=1) < 0).all() and (x[2].diff(dim=1) < 0).all() and (z[3].diff(dim=1) > 0).all()
    # U touches F with its lower edge, D with its upper one.
    assert (z[4].diff(dim=0) > 0).all() and (z[5].diff(dim=0) < 0).all()
    assert (x[4].diff(dim=1) > 0).all() and (x[5].diff(dim=1) > 0).all()


@pytest.mark.parametrize("sampling", ["bilinear", "area"])
def test_a_smooth_picture_comes_back(sampling):
    worst, mean = [], []
    for edge in (16, 32, 64):
        picture = smooth(sphere(2 * edge))
        error = (cubemap_to_equirect(equirect_to_cubemap(picture, edge, sampling=sampling)) - picture).abs()
        worst.append(float(error.max()))
        mean.append(float(error.mean()))
    assert all(largest <= 0.6 / edge for largest, edge in zip(worst, (16, 32, 64), strict=True))
    assert mean[0] < 0.02 and mean[1] < mean[0] / 3 and mean[2] < mean[1] / 3


def test_the_faces_hold_the_function_itself():
    faces = equirect_to_cubemap(smooth(sphere(256)), 24)
    centre = (2 * torch.arange(24).double() + 1) / 24 - 1
    v, u = torch.meshgrid(centre, centre, indexing="ij")
    one = torch.ones_like(u)
    every = [(u, -v, one), (one, -v, -u), (-u, -v, -one), (-one, -v, u), (u, one, v), (u, -one, -v)]
    for face, direction in zip(faces, every, strict=True):
        ray = torch.stack(direction)
        assert (face - smooth(ray / ray.norm(dim=0))).abs().max() < 1e-3


def test_edges_and_corners_are_continuous():
    """Noise on the faces: a finer picture steps less and less, everywhere, edges and corners included."""
    noise = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = []
    for height in (256, 512):
        picture = cubemap_to_equirect(noise, (height, 2 * height))
        around = torch.cat([picture, picture[:, :1]], 1)
        steps.append(float(max(around.diff(dim=1).abs().max(), picture.diff(dim=0).abs().max())))
    assert steps[1] < 0.55 * steps[0] and steps[0] < 0.2


def test_pole_rows_become_one_colour():
    noise = torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spreads = []
    for height in (64, 256, 1024):
        picture = cubemap_to_equirect(noise, (height, 2 * height))
        for row, face in ((picture[0], 4), (picture[-1], 5)):
            spreads.append(float(row.max() - row.min()))
            middle = noise[face, 3:5, 3:5].mean()
            assert (row - middle).abs().max() < 20 / height
    assert spreads[4] < spreads[2] / 3 < spreads[0] / 9


def test_the_pole_has_one_value_whichever_way_it_is_reached():
    picture = torch.randn(8, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    up = perspective(picture, (4, 4), pitch=90, field=1e-3)
    assert (up - picture[0].mean()).abs().max() < 1e-3
    down = perspective(picture, (4, 4), pitch=-90, field=1e-3)
    assert (down - picture[-1].mean()).abs().max() < 1e-3


def test_the_left_edge_continues_at_the_right_one():
    picture = smooth(sphere(64))
    turned = equirect_to_cubemap(picture.roll(32, 1), 16)
    faces = equirect_to_cubemap(picture, 16)
    # A quarter turn: what was ahead is on the right.
    assert (turned[:4] - faces[:4].roll(1, 0)).abs().max() < 1e-12
    # Looking up, with F below, the quarter turn goes counter-clockwise; looking down it goes clockwise.
    assert (turned[4] - faces[4].rot90(1)).abs().max() < 1e-12
    assert (turned[5] - faces[5].rot90(-1)).abs().max() < 1e-12


def test_area_sampling_does_not_alias():
    board = (torch.arange(512)[:, None] + torch.arange(1024)) % 2
    faces = equirect_to_cubemap(board.double(), 16, sampling="area")
    assert (faces[:4] - 0.5).abs().max() < 0.1
    stripes = (torch.arange(256) % 2).double().expand(6, 256, 256)
    assert (cubemap_to_equirect(stripes, (16, 32), sampling="area")[3:-3] - 0.5).abs().max() < 0.3
    assert (cubemap_to_equirect(stripes, (16, 32))[3:-3] - 0.5).abs().max() > 0.45


def test_area_sampling_keeps_the_light():
    """The mean over the sphere is that of the faces, weighted by solid angle."""
    faces = torch.rand(6, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    centre = (2 * torch.arange(32).double() + 1) / 32 - 1
    solid = (1 + centre**2 + centre[:, None] ** 2) ** -1.5
    picture = cubemap_to_equirect(faces, (16, 32), sampling="area")
    rows = math.pi * (0.5 - torch.arange(17).double() / 16)
    weight = -rows.sin().diff()
    light = (picture.mean(1) * weight).sum() / weight.sum()
    assert abs(light - (faces * solid).sum() / (6 * solid.sum())) < 2e-3


def test_perspective_is_a_face_at_90_degrees():
    picture = smooth(sphere(64))
    faces = equirect_to_cubemap(picture, 12)
    turns = {0: (0, 0), 1: (90, 0), 2: (180, 0), 3: (-90, 0), 4: (0, 90), 5: (0, -90)}
    for face, (yaw, pitch) in turns.items():
        assert (perspective(picture, (12, 12), yaw=yaw, pitch=pitch) - faces[face]).abs().max() < 1e-9
    assert perspective(picture, (6, 12)).shape == (6, 12)
    assert (perspective(picture, (6, 12)) - faces[0, 3:9]).abs().max() < 1e-9


def test_leading_axes_dtypes_and_gradients():
    faces = torch.rand(2, 3, 6, 8, 8, requires_grad=True)
    picture = cubemap_to_equirect(faces, (10, 20))
    assert picture.shape == (2, 3, 10, 20) and picture.dtype == torch.float32
    assert torch.equal(picture[1, 2], cubemap_to_equirect(faces[1, 2], (10, 20)))
    picture.sum().backward()
    assert faces.grad is not None and (faces.grad >= 0).all()
    back = equirect_to_cubemap(picture.detach().half(), 5)
    assert back.shape == (2, 3, 6, 5, 5) and back.dtype == torch.float16
    assert cubemap_to_equirect(torch.ones(6, 1, 1), (1, 1)).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cubemap_to_equirect(torch.zeros(5, 4, 4)),
            r"faces must be \[..., 6, N, N\], got \[5, 4, 4\]",
        ),
        (lambda: cubemap_to_equirect(torch.zeros(6, 4, 5)), r"got \[6, 4, 5\]"),
        (lambda: cubemap_to_equirect(torch.zeros(6, 0, 0)), r"not empty, got \[6, 0, 0\]"),
        (
            lambda: cubemap_to_equirect(torch.zeros(6, 4, 4, dtype=torch.uint8)),
            r"floating dtype, got torch.uint8",
        ),
        (lambda: cubemap_to_equirect(torch.zeros(6, 4, 4), (0, 4)), r"size must be at least 1, got \(0, 4\)"),
        (
            lambda: cubemap_to_equirect(torch.zeros(6, 4, 4), sampling="cubic"),
            r"sampling must be .* got 'cubic'",
        ),
        (
            lambda: equirect_to_cubemap(torch.zeros(4), 2),
            r"picture must be \[..., H, W\] and not empty, got \[4\]",
        ),
        (lambda: equirect_to_cubemap(torch.zeros(4, 8), 0), r"size must be at least 1, got \(0,\)"),
        (
            lambda: perspective(torch.zeros(4, 8), (2, 2), field=180),
            r"field must be between 0 and 180 .* got 180",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not PHOTO.is_file(), reason="INTARSIA_DATA names no folder with the panorama")
def test_a_real_panorama():
    picture = read_image(PHOTO)
    small = torch.nn.functional.avg_pool2d(picture[None], 8)[0]
    faces = equirect_to_cubemap(picture, 128, sampling="area")
    back = cubemap_to_equirect(faces)
    assert (back - small).square().mean().sqrt() < 0.06
    assert faces[2, 4].mean() > faces[0, 4].mean() + 0.1  # the sky above is blue
    inside = faces.diff(dim=3).abs().mean((0, 2, 3)).max()
    ahead, right, above, below = faces[:, 0], faces[:, 1], faces[:, 4], faces[:, 5]
    for one, other in (
        (ahead[..., -1], right[..., 0]),
        (ahead[:, 0], above[:, -1]),
        (ahead[:, -1], below[:, 0]),
        (right[:, 0], above[..., -1].flip(-1)),
    ):
        assert (one - other).abs().mean() < 1.5 * inside
