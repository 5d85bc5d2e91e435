# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import pytest
import torch
from intarsia.media import write_png
from intarsia.scene import Model, SceneError, load, plan
from intarsia.scene.content import contents
from intarsia.scene.report import facts, lines, memory

SCENES = Path(__file__).resolve().parents[2] / "examples" / "scenes"
CANVAS = "canvas: {width: 192, height: 64}\n"


def planned(text, model, folder="."):
    return plan(load(text, folder=folder), Model.open(model))


def shipped(name):
    scene = load(SCENES / f"{name}.yaml")
    return plan(scene, Model.open(scene.model, scene.folder, assume=True))


def test_the_paper_s_4k_picture():
    made = shipped("four_k")
    assert len(made.regions) == 88 and made.background == 0
    assert made.spread.layout.boxes()[0] == ((0, 0), (60, 80)) and made.spread.num_patches == 88
    assert (made.rows, made.calls) == (176, 11)
    assert facts(made)["overlaps"] == {"columns": [320], "rows": [240]}


def test_the_six_regions():
    made = shipped("six_regions")
    assert (made.spread.num_patches, made.rows) == (6, 12)
    assert facts(made)["overlaps"] == {"columns": [256], "rows": [384]}


def test_regions_share_calls_by_size_and_guidance(model):
    text = CANVAS + "machine: {max_batch: 2}\nregions: [{box: [0, 0, 64, 64], style: dusk, guidance: 3}]"
    made = planned(text, model)
    found = [(group.size, group.patches, group.terms, group.calls) for group in made.groups]
    assert found == [((64, 64), 4, 1, 2), ((64, 64), 1, 2, 1)]
    assert made.rows == 6 and made.calls == 3 and made.background == 4


def test_what_nobody_sees_is_left_out(model):
    made = planned(CANVAS + "regions: [{box: [0, 0, 128, 64], style: dawn}]", model)
    # A grid of five: the region touches all but the last, the rest needs those that reach beyond 128.
    assert made.spread.owner.tolist() == [0] * 4 + [-1] * 2


@pytest.mark.parametrize("extra", ["", "feather: 16", "weight: 0.25"])
def test_styles_and_shares_sum_to_the_whole(model, extra):
    region = "{box: [32, 0, 96, 64], style: dusk" + (f", {extra}" if extra else "") + "}"
    made = planned(f"{CANVAS}style: [dawn, forest]\nblend: 64\nregions: [{region}]", model)
    apart = torch.zeros(made.size, dtype=torch.float64)
    for part in contents(made):
        apart += part.layout.total(weight=part.weight, coefficient=part.coefficient)
    whole = made.spread.layout.total(weight=made.spread.weight, coefficient=made.spread.coefficient)
    torch.testing.assert_close(apart, whole)


def test_a_region_without_content_changes_no_patch(model):
    bare, placed = (
        planned(CANVAS, model),
        planned(CANVAS + "regions: [{box: [0, 0, 30, 30], seed: 4}]", model),
    )
    assert bare.groups == placed.groups and placed.painted == ()


def test_masks_and_faded_boxes(model, tmp_path):
    write_png(torch.cat([torch.ones(1, 64, 96), -torch.ones(1, 64, 96)], 2), tmp_path / "left.png")
    text = CANVAS + "regions: [{mask: left.png, style: dawn}]"
    made = planned(text, model, tmp_path)
    assert made.spread.parts[0].share.sum(1).tolist() == [96.0] * 64
    faded = planned(CANVAS + "regions: [{box: [0, 0, 96, 64], feather: 32, style: dawn}]", model)
    share = faded.spread.parts[0].share
    # It touches three edges of the canvas and fades at the fourth.
    assert share[0, 0] == share[-1, 0] == 1 and float(share[0, 80]) == pytest.approx(0.5, abs=0.05)
    assert (share[:, 96:] == 0).all()


def test_evaluations_of_two_stage_solvers(model):
    assert planned(CANVAS + "steps: 8\nsolver: heun", model).evaluations == 15
    assert planned(CANVAS + "steps: 8", model).evaluations == 8


def test_uncovered_parts_of_a_diffusers_canvas_are_named():
    scene = load(
        "{model: sd, canvas: {width: 1024, height: 512}, regions: [{box: [0, 0, 512, 512], prompt: a}]}"
    )
    with pytest.raises(SceneError, match=r"prompt: regions must cover .*first at \(512, 0\)"):
        plan(scene, Model.open("sd", assume=True))


def test_regions_that_are_told_nothing():
    region = "regions: [{box: [0, 0, 512, 512], negative: a}]"
    scene = load("model: sd\ncanvas: {width: 512, height: 512}\n" + region)
    with pytest.raises(SceneError, match=r"regions\[0\].prompt: must be given where the scene has none"):
        plan(scene, Model.open("sd", assume=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("canvas: {width: 1020, height: 512}", "canvas.width: must be a multiple of 8 .* 1016 and 1024"),
        ("regions: [{box: [4, 0, 512, 512], prompt: b}]", r"regions\[0\].box\[0\]: must be a multiple of 8"),
        ("style: dawn", "style: must be left out for a model that reads prompts"),
        ("overlap: 20", r"overlap\[0\]: must be a multiple of 8"),
        ("patch: [500, 512]", r"patch\[0\]: must be a multiple of 8"),
    ],
)
def test_what_a_latent_model_cannot_place(text, message):
    canvas = "" if text.startswith("canvas") else "canvas: {width: 1024, height: 512}\n"
    with pytest.raises(SceneError, match=message):
        plan(load(f"model: sd\nprompt: a\n{canvas}{text}"), Model.open("sd", assume=True))


def test_memory_adds_up_and_does_not_grow_with_regions(model):
    few = planned(CANVAS, model)
    many = planned("canvas: {width: 1920, height: 64}", model)
    assert memory(few)["network"] * 16 / 5 == pytest.approx(memory(many)["network"])
    assert memory(many)["canvas"] == 10 * memory(few)["canvas"]
    text = "\n".join(lines(few))
    assert "memory" in text and "in 1 network call of at most 16" in text
    assert math.isclose(sum(memory(few).values()), sum(facts(few)["memory"].values()))
