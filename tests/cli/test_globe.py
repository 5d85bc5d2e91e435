# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from intarsia import layout
from intarsia.cli.globe import blended, cube, upright


def directions(face):
    return layout.cubemap(face).directions().reshape(-1, 3)


@pytest.mark.parametrize("face", [8, 12, 16, 24])
def test_regions_are_upright_and_hang_together(face):
    """Row by row a region looks further down, or, near a pole, over it; neighbours are neighbours."""
    globe = upright(face, 8)
    rays = directions(face)[globe.layout.index]
    step = (rays.diff(dim=2).norm(dim=-1).amax(), rays.diff(dim=1).norm(dim=-1).amax())
    assert max(step) < 2.2 / face * 1.5
    centre = rays.mean((1, 2))
    middle = centre[:, 1].abs() < 0.5
    assert middle.sum() >= 4 * face / 4
    fall = rays[..., 1].diff(dim=1)
    assert (fall[middle] < 0).all()
    # Seen from inside: to the right is clockwise from above.
    right = torch.linalg.cross(rays[:, :, 1:], rays[:, :, :-1])[..., 1]
    assert (right[middle] < 0).all()


@pytest.mark.parametrize("face", [8, 12, 20])
def test_every_element_is_covered_and_sky_is_told_as_sky(face):
    globe = upright(face, 8)
    covered = torch.zeros(6 * face * face).index_add(
        0, globe.layout.index.flatten(), torch.ones(globe.layout.index.numel())
    )
    assert (covered > 0).all()
    height = directions(face)[globe.layout.index].mean((1, 2))[:, 1]
    assert (globe.vertical[height > 0.71, 0] < 0.2).all() and (globe.vertical[height < -0.71, 0] > 0.8).all()
    assert (globe.vertical >= 0).all() and (globe.vertical <= 1).all()


def test_edges_are_crossed_where_faces_touch():
    globe = upright(8, 8)
    seen = {tuple(sorted(set((places // 64).flatten().tolist()))) for places in globe.layout.index}
    assert {(0, 1), (1, 2), (2, 3), (0, 3), (0, 4), (1, 4), (2, 4), (3, 4), (0, 5), (3, 5)} <= seen


def test_composites_are_denoisers_of_the_sphere():
    def halve(x, sigma, cond):
        assert cond["vertical"].shape == (len(x), 2) and cond["style"].shape == (len(x),)
        return x / 2

    x = torch.randn(1, 3, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    for composite in (blended(halve, upright(8, 8), 2, 16), cube(halve, 8, 8, 2, 16)):
        torch.testing.assert_close(composite(x, torch.ones(1)), x / 2)


def test_only_rings_take_the_style():
    seen = []

    def listening(x, sigma, cond):
        seen.extend(zip([tuple(x.shape[2:])] * len(x), cond["style"].tolist(), strict=True))
        return x

    cube(listening, 16, 8, 3, 64)(torch.zeros(1, 1, 6, 16, 16), torch.ones(1))
    assert {style for size, style in seen if size != (8, 8)} == {0}
    assert {style for size, style in seen if size == (8, 8)} == {0, 3}
