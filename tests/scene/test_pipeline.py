# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny
from intarsia.adapters.diffusers.composer import Composer
from intarsia.media import to_float, to_uint8, write_png
from intarsia.scene import Model, SceneError, load, plan
from intarsia.scene.pipeline import paint_pipeline

SCENES = Path(__file__).resolve().parents[2] / "examples" / "scenes"
CANVAS = "model: sd\ncanvas: {width: 192, height: 128}\nsteps: 2\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny Stable Diffusion pipeline, sd."""
    home = tmp_path_factory.mktemp("home")
    tiny.stable_diffusion().save_pretrained(home / "sd")
    return home


def made(text, home):
    scene = load(text, folder=home)
    return plan(scene, Model.open(scene.model, home))


def test_the_folder_says_what_the_plan_needs(home):
    model = Model.open("sd", home)
    assert (model.pipeline, model.unit, model.channels) == ("StableDiffusionPipeline", 8, 4)
    assert model.sizes == ((64, 64),) and model.scheduler == "DDIMScheduler" and not model.assumed
    assert len(model.digest()) == 64


def test_a_small_one_of_the_paper_s_grid(home):
    """The shipped 8 x 11 regions, each a tenth as large, on a tiny network."""
    text = (SCENES / "four_k.yaml").read_text()
    text = text.replace("stable-diffusion-v1-5 ", "sd ").replace(
        "width: 3840, height: 2160", "width: 384, height: 288"
    )
    text = text.replace("[640, 480]", "[64, 64]").replace("steps: 50", "steps: 1")
    small = made(text, home)
    assert len(small.regions) == 88 and (small.rows, small.calls) == (176, 11)
    steps = []
    painting = paint_pipeline(small, callback=lambda step, *_: steps.append(step))
    assert painting.picture.shape == (3, 288, 384) and bool(painting.picture.isfinite().all())
    assert steps == [0] and painting.precision == "float32"


@pytest.mark.parametrize(
    "text",
    [
        "prompt: a",
        "prompt: a\nregions: [{box: [0, 0, 64, 64], prompt: b}]",
        "prompt: a\npatch: [96, 64]\nregions: [{box: [0, 0, 96, 64], prompt: b, guidance: 2}]",
        "prompt: a\nguidance: 1\noverlap: [16, 24]",
        "prompt: a\nregions: [{box: [10, 10, 100, 100], prompt: b, feather: 20, weight: 0.5}]",
    ],
)
def test_the_plan_is_the_composer_s(home, text, monkeypatch):
    planned = made(CANVAS + text, home)
    rows = []
    predict = Composer.__call__

    def watched(self, *args, **given):
        family = self.family
        asked = family.predict

        def count(x, t, told):
            rows.append(len(x))
            return asked(x, t, told)

        family.predict = count
        return predict(self, *args, **given)

    monkeypatch.setattr(Composer, "__call__", watched)
    paint_pipeline(planned)
    assert (
        sum(rows) == planned.rows * planned.evaluations and len(rows) == planned.calls * planned.evaluations
    )


@pytest.mark.parametrize("solver", ["dpmpp2m", "heun", "euler", "ddim", "ancestral"])
def test_every_solver_paints_and_repeats(home, solver):
    planned = made(
        CANVAS + f"solver: {solver}\nprompt: a\nregions: [{{box: [0, 0, 64, 64], prompt: b}}]", home
    )
    first, second = paint_pipeline(planned).picture, paint_pipeline(planned).picture
    assert torch.equal(first, second) and bool(first.isfinite().all())


def test_another_seed_of_a_region_redraws_it(home):
    text = CANVAS + "guidance: 1\nprompt: a\nregions: [{box: [0, 0, 64, 64], seed: %d}]"
    # Two steps through patches of 64, then an autoencoder that looks at a few pixels around.
    one, two = (paint_pipeline(made(text % seed, home)).picture for seed in (1, 2))
    assert (one - two)[:, :64, :64].abs().max() > 0.01


def test_guides_of_strength_1_keep_their_own_pixels(home):
    picture = torch.linspace(-1, 1, 3 * 64 * 96).reshape(3, 64, 96)
    write_png(picture, home / "a.png")
    text = CANVAS + "prompt: a\nregions: [{name: hole, box: [20, 0, 52, 32]}]\n"
    guide = "guides: [{image: a.png, box: [0, 0, 96, 64], strength: 1, free: hole}]"
    found = paint_pipeline(made(text + guide, home)).picture[:, :64, :96]
    kept = torch.ones(64, 96, dtype=torch.bool)
    # The hole, on whole elements of the canvas.
    kept[0:32, 16:56] = False
    given = to_float(to_uint8(picture))
    assert torch.equal(found[:, kept], given[:, kept]) and not torch.equal(found[:, ~kept], given[:, ~kept])


def test_a_hub_s_commit_is_known_before_it_is_planned(home, monkeypatch):
    asked = []

    def fetch(*repository):
        asked.append(repository)
        return home / "sd"

    monkeypatch.setattr("intarsia.adapters.pipeline.fetch", fetch)
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = Model.open(f"owner/name@{commit}").fetched()
    assert asked == [("owner/name", commit)] and model.sizes == ((64, 64),) and not model.assumed
    assert model.digest() == commit and model.fetched() is model
    scene = load(CANVAS.replace("sd", f"owner/name@{commit}") + "prompt: a")
    assert paint_pipeline(plan(scene, model)).picture.shape == (3, 128, 192)


def test_folders_that_must_not_be_loaded_are_a_fault_of_the_scene(home, tmp_path):
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        SceneError, match="^model: must hold weights as safetensors only, got 'pytorch_model.bin'"
    ):
        Model.open("sd", tmp_path)
    planned = made(CANVAS + "prompt: a", home)
    (home / "sd" / "late.py").write_text("")
    try:
        with pytest.raises(SceneError, match="^model: must hold no code, got 'late.py'"):
            paint_pipeline(planned)
    finally:
        (home / "sd" / "late.py").unlink()
    with pytest.raises(SceneError, match="^solver: must be one of"):
        load(CANVAS + "solver: x")
