# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from intarsia.media import read_image, write_png
from intarsia.scene import Model, load, plan
from intarsia.scene.noise import SceneNoise
from intarsia.scene.painting import paint

BASE = """
canvas: {width: 256, height: 64}
steps: 2
solver: euler
style: dawn
machine: {precision: float32}
"""


def painted(text, model, folder="."):
    return paint(plan(load(BASE + text, folder=folder), Model.open(model))).picture


def test_another_seed_of_a_region_leaves_far_pixels_as_they_are(model):
    # In two steps news travels two patches of 64 at most.
    regions = "regions: [{name: left, box: [0, 0, 48, 48], style: dusk, seed: %d}]"
    one, two = painted(regions % 1, model), painted(regions % 2, model)
    assert not torch.equal(one[:, :48, :48], two[:, :48, :48])
    assert torch.equal(one[:, :, 200:], two[:, :, 200:])


@pytest.mark.parametrize("solver", ["dpmpp2m", "heun", "euler", "ddim", "ancestral"])
def test_every_solver_paints_and_repeats(model, solver):
    text = BASE.replace("euler", solver)
    made = plan(load(text + "regions: [{box: [0, 0, 64, 64], style: dusk, guidance: 2}]"), Model.open(model))
    first, second = paint(made).picture, paint(made).picture
    assert first.shape == (3, 64, 256) and bool(first.isfinite().all())
    assert torch.equal(first, second)


def test_regions_and_styles_show(model):
    plain = painted("", model)
    other = painted("regions: [{box: [192, 0, 256, 64], style: forest}]", model)
    assert not torch.equal(plain[:, :, 200:], other[:, :, 200:])
    assert not torch.equal(plain, painted("", model) * 0)
    assert not torch.equal(painted("regions: [{box: [192, 0, 256, 64], style: dusk}]", model), other)


def test_the_picture_does_not_depend_on_max_batch(model):
    regions = "regions: [{box: [10, 0, 200, 50], style: forest, feather: 9, guidance: 2}]\n"
    one = painted(regions, model)
    other = paint(plan(load(BASE.replace("float32}", "float32, max_batch: 3}") + regions), Model.open(model)))
    torch.testing.assert_close(one, other.picture, atol=1e-5, rtol=1e-5)


def test_a_guide_of_strength_1_stays_to_the_pixel_and_others_do_not(model, tmp_path):
    write_png(torch.linspace(-1, 1, 3 * 64 * 64).reshape(3, 64, 64), tmp_path / "a.png")
    given = read_image(tmp_path / "a.png")
    guide = "guides: [{image: a.png, box: [96, 0, 160, 64], strength: %s}]"
    kept, loose, none = (painted(guide % strength, model, tmp_path) for strength in ("1", "0.5", "0"))
    assert torch.equal(kept[:, :, 96:160], given)
    assert not torch.equal(loose[:, :, 96:160], given) and not torch.equal(loose, none)
    # Without callbacks the last update is fused, and rounds differently.
    torch.testing.assert_close(none, painted("", model), atol=1e-5, rtol=1e-5)


def test_a_guide_leaves_regions_free(model, tmp_path):
    write_png(torch.zeros(3, 64, 256), tmp_path / "a.png")
    text = "regions: [{name: hole, box: [200, 16, 232, 48]}]\n"
    picture = painted(text + "guides: [{image: a.png, strength: 1, free: hole}]", model, tmp_path)
    grey = read_image(tmp_path / "a.png")
    assert (picture[:, 16:48, 200:232] != grey[:, 16:48, 200:232]).any()
    outside = torch.ones(64, 256, dtype=torch.bool)
    outside[16:48, 200:232] = False
    assert torch.equal(picture[:, outside], grey[:, outside])


def test_regions_cross_the_edge_of_a_canvas_that_wraps(model):
    text = BASE.replace("height: 64", "height: 64, wrap: horizontal")
    made = plan(load(text + "regions: [{box: [224, 0, 288, 64], style: forest, seed: 3}]"), Model.open(model))
    assert paint(made).picture.shape == (3, 64, 256)
    assert made.spread.layout.boxes()[0] == ((0, 224), (64, 64))


def test_noise_has_one_variance_everywhere():
    soft = torch.linspace(0, 1, 64).expand(400, 64)
    noise = SceneNoise(3, [(soft, 4)]).initial((400, 64), 4)
    assert (noise.var(dim=(0, 1, 2)) - 1).abs().max() < 0.2
    assert torch.equal(noise[..., 0], SceneNoise(3).initial((400, 64), 4)[..., 0])
    source = SceneNoise(3)
    x = torch.zeros(1, 4, 8, 8)
    assert not torch.equal(source.normal_like(x), source.normal_like(x))
