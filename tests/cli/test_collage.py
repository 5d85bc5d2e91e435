# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from intarsia.cli.collage import vertical_place
from intarsia.cli.model_file import ModelFile
from intarsia.cli.picture import paint, place
from intarsia.cli.screen import Problem
from intarsia.cli.settings import ImageSettings

SIZES = ((64, 64), (64, 32), (32, 64), (32, 32))
MODEL = ModelFile(Path("m"), ("a", "b"), SIZES)
BASE = ImageSettings(width=160, height=64, method="bethe", steps=6)


class Recording:
    """The denoiser of unit noise that writes down what it is asked."""

    sizes = SIZES

    def __init__(self):
        self.rows = []

    def __call__(self, x, sigma, cond=None):
        for style, (centre, extent) in zip(cond["style"].tolist(), cond["vertical"].tolist(), strict=True):
            self.rows.append((tuple(x.shape[2:]), style, centre, extent))
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


@pytest.mark.parametrize(
    ("size", "patch", "canvas"),
    [
        ((64, 160), (64, 64), (64, 160)),
        ((64, 161), (64, 64), (64, 192)),
        ((100, 64), (64, 64), (128, 64)),
        ((32, 90), (32, 64), (32, 96)),
        ((33, 90), (64, 64), (64, 96)),
        ((50, 20), (64, 32), (64, 32)),
        ((32, 32), (32, 32), (32, 32)),
        ((200, 300), (64, 64), (224, 320)),
    ],
)
def test_any_size_is_painted_on_the_smallest_legal_canvas(size, patch, canvas):
    settings = replace(BASE, height=size[0], width=size[1])
    assert settings.check_model(MODEL) == patch
    assert settings.canvas(patch) == canvas
    assert place(settings, patch=patch, classes=[]).layout.size == canvas
    assert paint(Recording(), replace(settings, steps=2), patch=patch).shape == (1, 3, *size)


def test_what_the_network_is_asked():
    """One step of 128 x 96: 3 x 2 patches, the overlaps of neighbours, the overlaps of those."""
    seen = Recording()
    paint(seen, replace(BASE, width=96, height=128, steps=1, solver="euler"), patch=(64, 64), classes=[2])
    assert sorted(row for row in seen.rows if row[0] == (64, 64)) == [
        ((64, 64), 2, centre, 0.5) for centre in (0.25, 0.25, 0.5, 0.5, 0.75, 0.75)
    ]
    assert sorted(row for row in seen.rows if row[0] == (64, 32)) == [
        ((64, 32), 0, centre, 0.5) for centre in (0.25, 0.5, 0.75)
    ]
    assert sorted(row for row in seen.rows if row[0] == (32, 64)) == [
        ((32, 64), 0, centre, 0.25) for centre in (0.375, 0.375, 0.625, 0.625)
    ]
    assert sorted(row for row in seen.rows if row[0] == (32, 32)) == [
        ((32, 32), 0, centre, 0.25) for centre in (0.375, 0.625)
    ]


@pytest.mark.parametrize("settings", [BASE, replace(BASE, height=128), replace(BASE, loop=True)])
def test_a_network_that_treats_pixels_alone_paints_as_if_it_were_alone(settings):
    alone = paint(Recording(), replace(settings, method="average", stride=32), patch=(64, 64))
    torch.testing.assert_close(paint(Recording(), settings, patch=(64, 64)), alone)


def test_styles_mix_in_regions_and_guidance_leaves_separators_alone():
    seen = Recording()
    settings = replace(BASE, steps=1, solver="euler", blend=64, guidance=2.0)
    paint(seen, settings, patch=(64, 64), classes=[1, 2])
    patches = [style for size, style, *_ in seen.rows if size == (64, 64)]
    # Four places, the inner two of both styles; each asks for the null class, too.
    assert sorted(patches) == [0] * 6 + [1] * 3 + [2] * 3
    assert [style for size, style, *_ in seen.rows if size == (64, 32)] == [0] * 3


def test_a_loop_turns_by_its_stride():
    """A network that sees its patch as a whole: turning the noise turns the picture."""

    def seeing(x, sigma, cond=None):
        mean = x.mean((2, 3), keepdim=True) * torch.linspace(0.5, 1, x.shape[-1])
        return (x + mean) / (2 + sigma.reshape(-1, 1, 1, 1) ** 2)

    from intarsia.cli import picture as module

    settings = replace(BASE, loop=True, width=128, steps=2)
    regions = place(settings, patch=(64, 64), classes=[])
    composite = module._compose(seeing, settings, regions, guided=False)
    x = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.ones(1, dtype=torch.float64)
    turned = composite(x.roll(32, -1), sigma)
    torch.testing.assert_close(turned, composite(x, sigma).roll(32, -1), rtol=0, atol=1e-9)
    assert (composite(x.roll(1, -1), sigma) - composite(x, sigma).roll(1, -1)).abs().max() > 1e-3


def test_vertical_places():
    boxes = (((0, 0), (32, 64)), ((32, 5), (64, 64)))
    assert vertical_place(boxes, 128).tolist() == [[0.125, 0.25], [0.5, 0.5]]


def test_models_that_know_no_halves_are_refused():
    fixed = ModelFile(Path("m"), (), ((64, 64),))
    with pytest.raises(Problem, match=r"--method must suit the sizes of the model \(64x64\), got bethe"):
        BASE.check_model(fixed)
    assert replace(BASE, width=60).check_model(fixed) == (64, 64)
