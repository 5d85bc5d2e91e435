# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from intarsia.cli.picture import paint, place
from intarsia.cli.settings import ImageSettings

PATCH = (64, 64)
BASE = ImageSettings(width=256, height=64, stride=16, steps=6)


def tinted(x, sigma, cond):
    """The posterior mean when every picture of style k is flat at (k - 1) / 2, up to unit noise / 10."""
    target = (cond["style"].to(x) - 1).reshape(-1, 1, 1, 1) / 2
    keep = 0.01 / (0.01 + sigma.reshape(-1, 1, 1, 1) ** 2)
    return keep * x + (1 - keep) * target


def gaussian(x, sigma, cond=None):
    return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


def shares(regions):
    """Offset -> {style: share}."""
    found = {}
    for offset, share, style in zip(
        regions.layout.offsets.tolist(), regions.share.tolist(), regions.cond["style"].tolist(), strict=True
    ):
        found.setdefault(tuple(offset), {})[style] = share
    return found


@pytest.mark.parametrize("method", ["gaussian", "average", "concat"])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("blend", [0, 1, 64, 1000])
def test_shares_of_a_place_sum_to_one(method, loop, blend):
    settings = replace(BASE, method=method, loop=loop and method != "concat", blend=blend)
    for parts in shares(place(settings, patch=PATCH, classes=[3, 1, 2])).values():
        assert sum(parts.values()) == pytest.approx(1, abs=1e-9)


def test_styles_stand_in_their_order():
    regions = place(replace(BASE, width=320, blend=0, stride=64), patch=PATCH, classes=[5, 2])
    assert regions.cond["style"].tolist() == [5, 5, 2, 2, 2]
    regions = place(replace(BASE, width=384, blend=64, stride=64), patch=PATCH, classes=[5, 2])
    assert regions.cond["style"].tolist() == [5, 5, 5, 2, 2, 2]


def test_styles_mix_at_their_border():
    found = shares(place(replace(BASE, blend=64), patch=PATCH, classes=[1, 2]))
    assert found[0, 0] == {1: 1.0} and found[0, 192] == {2: 1.0}
    assert found[0, 96] == pytest.approx({1: 0.5, 2: 0.5}) and found[0, 80] == pytest.approx(
        {1: 0.75, 2: 0.25}
    )


def test_loop_mixes_its_ends_too():
    found = shares(place(replace(BASE, loop=True, blend=64), patch=PATCH, classes=[1, 2]))
    assert found[0, 224] == pytest.approx({1: 0.5, 2: 0.5})
    open_ = shares(place(replace(BASE, blend=64), patch=PATCH, classes=[1, 2]))
    assert open_[0, 0] == {1: 1.0}


def test_regions_know_their_height():
    vertical = place(replace(BASE, height=128, width=64, stride=32), patch=PATCH, classes=[]).cond["vertical"]
    assert vertical.tolist() == [[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]]
    assert place(BASE, patch=PATCH, classes=[]).cond["vertical"].unique(dim=0).tolist() == [[0.5, 1.0]]


def test_concat_rounds_up_and_crops():
    settings = replace(BASE, method="concat", width=200)
    assert place(settings, patch=PATCH, classes=[]).layout.size == (64, 256)
    assert paint(gaussian, settings, patch=PATCH).shape == (1, 3, 64, 200)


def test_concat_is_independent_pieces():
    settings = replace(BASE, method="concat")
    together = paint(gaussian, settings, patch=PATCH)
    noise = torch.randn(3, 64, 256, generator=torch.Generator().manual_seed(0))
    from intarsia import samplers, schedules

    sigmas = schedules.karras(6)
    piece = samplers.sample(gaussian, noise[None, ..., 64:128] * sigmas[0], sigmas, samplers.DPMpp2M())
    torch.testing.assert_close(together[..., 64:128], piece)


@pytest.mark.parametrize("solver", ["dpmpp2m", "heun", "euler", "ddim", "ancestral"])
def test_styles_cross_over_smoothly(solver):
    picture = paint(tinted, replace(BASE, steps=12, solver=solver), patch=PATCH, classes=[1, 2])
    columns = picture.mean(dim=(0, 1, 2))
    assert columns[:32].mean().abs() < 0.05 and (columns[-32:].mean() - 0.5).abs() < 0.05
    assert columns.unfold(0, 16, 16).mean(1).diff().min() > -0.05


def test_guidance_exaggerates_the_style():
    plain, strong = (
        paint(tinted, replace(BASE, guidance=g, width=64, steps=12), patch=PATCH, classes=[2]).mean()
        for g in (1.0, 2.0)
    )
    # The null class 0 is flat at -1/2, so scale 2 aims at 0.5 + 1.
    assert (plain - 0.5).abs() < 0.05 and (strong - 1.5).abs() < 0.05


def test_seeds_are_separate_pictures():
    settings = replace(BASE, width=96, solver="ancestral")
    both = paint(gaussian, settings, patch=PATCH, seeds=[3, 4])
    one = paint(gaussian, replace(settings, seed=4), patch=PATCH)
    torch.testing.assert_close(both[1:], one)
    assert not torch.allclose(both[0], both[1])
