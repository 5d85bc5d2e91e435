# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from intarsia.cli.fill import fill, needed, paste, reduced, style_like

PATCH = (64, 64)
SETTINGS = {"patch": PATCH, "style": 2, "steps": 3, "seed": 0, "max_batch": 8, "sigma_range": (0.002, 80.0)}


def flat(x, sigma, cond=None):
    """The posterior mean when every picture of style k is flat at k / 4, up to unit noise / 10."""
    target = cond["style"].to(x).reshape(-1, 1, 1, 1) / 4
    keep = 0.01 / (0.01 + sigma.reshape(-1, 1, 1, 1) ** 2)
    return keep * x + (1 - keep) * target


def photo(height, width):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def half(height, width):
    known = torch.ones(height, width, dtype=torch.bool)
    known[:, width // 2 :] = False
    return known


@pytest.mark.parametrize("method", ["bethe", "gaussian", "average"])
@pytest.mark.parametrize("size", [(64, 64), (40, 100), (100, 130), (7, 9)])
def test_known_pixels_stay(method, size):
    y, known = photo(*size), half(*size)
    painted = fill(flat, y, known, method=method, solver="ancestral", **SETTINGS)
    assert painted.shape == y.shape
    assert torch.equal(painted[:, known], y[:, known])
    assert (painted[:, ~known] - y[:, ~known]).abs().mean() > 0.1


def test_it_is_painted_in_the_style():
    y, known = photo(64, 256), half(64, 256)
    settings = {**SETTINGS, "steps": 12}
    painted = fill(flat, y, known, method="average", solver="dpmpp2m", **settings)
    assert (painted[:, ~known].mean() - 0.5).abs() < 0.05


def test_only_regions_that_see_something_unknown_go_through_the_network():
    known = torch.ones(64, 640, dtype=torch.bool)
    known[20:30, 300:310] = False
    rows = []

    def counting(x, sigma, cond=None):
        rows.append(tuple(x.shape))
        return flat(x, sigma, cond)

    fill(counting, photo(64, 640), known, method="bethe", solver="euler", **{**SETTINGS, "steps": 1})
    # Regions at 256 and 288 see it, and what these two share.
    assert sorted(rows) == [(1, 3, 64, 32), (2, 3, 64, 64)]
    assert needed(~known, PATCH).boxes() == (((0, 256), (64, 64)), ((0, 288), (64, 64)))


def test_what_is_painted_goes_on_from_what_is_known():
    """A network that knows only flat pictures: the unknown part takes the level of the known one."""

    def level(x, sigma, cond=None):
        s2 = sigma.reshape(-1, 1, 1, 1) ** 2
        prior, keep = 1.0, 1.0 / (1.0 + s2 / x[0, 0].numel())
        return (x.mean((2, 3), keepdim=True) * keep * prior).expand_as(x)

    known = half(64, 96)
    y = torch.full((3, 64, 96), 0.6)
    settings = {**SETTINGS, "steps": 24}
    painted = fill(level, y, known, method="average", solver="ancestral", **settings)
    assert (painted[:, ~known] - 0.6).abs().max() < 0.2
    unheld = fill(level, -y, known, method="average", solver="ancestral", **settings)
    assert (unheld[:, ~known] + 0.6).abs().max() < 0.2


def test_nothing_unknown_leaks_into_the_small_picture():
    picture, known = torch.zeros(3, 8, 8), half(8, 8)
    picture[:, ~known] = float("inf")
    small, whole = reduced(picture, known, (4, 3))
    assert torch.equal(small, torch.zeros(3, 4, 3)) and whole[:, 0].all() and not whole[:, 1:].any()
    same, here = reduced(photo(8, 8), known, (8, 8))
    assert torch.equal(here, known) and (same[:, ~known] == 0).all()


def test_paste_keeps_pixels_and_matches_colours_at_the_border():
    known = half(64, 64)
    picture = torch.where(known, 0.5, 0.0).expand(3, 64, 64)
    result = paste(picture, known, torch.full((3, 16, 16), 0.1))
    assert torch.equal(result[:, known], picture[:, known])
    right = result[0, 32, 32:]
    assert right[0] > 0.45 and (right.diff() <= 1e-6).all() and (right[-8:] - 0.1).abs().max() < 1e-6
    assert torch.equal(paste(picture, known, torch.zeros(3, 64, 64))[:, ~known], torch.zeros(3, 64 * 32))


def test_paste_leaves_no_step_at_the_border():
    """What was painted is right, only coarser: the border steps no more than the picture does."""
    x, y = torch.linspace(0, 12, 64), torch.linspace(0, 9, 64)[:, None]
    picture = (torch.sin(x) * torch.cos(y)).expand(3, 64, 64)
    coarse = torch.nn.functional.avg_pool2d(picture, 4) + 0.2
    for known in (half(64, 64), half(64, 64).T):
        result = paste(picture, known, coarse)
        axis = 2 if known[0, 0] != known[0, -1] else 1
        steps = result.diff(dim=axis).abs().mean((0, 3 - axis))
        assert steps[31] < 1.5 * picture.diff(dim=axis).abs().mean((0, 3 - axis)).max()


def test_the_style_that_restores_best_is_found():
    for style in (0, 1, 3):
        y = torch.full((3, 64, 128), style / 4)
        y = y + 0.1 * photo(64, 128)
        assert style_like(flat, y, half(64, 128), PATCH, 4) == style
    assert style_like(flat, y, half(64, 100), PATCH, 4) == 0
    assert style_like(flat, y[:, :32], half(32, 128), PATCH, 4) == 0
    assert style_like(flat, y, half(64, 128), PATCH, 0) == 0
