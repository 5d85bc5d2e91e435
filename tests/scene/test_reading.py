# SPDX-License-Identifier: Apache-2.0
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_scenes import BAD, CANVAS
from intarsia.scene import Scene, SceneError, json_schema, load
from intarsia.scene.reading import build, with_paths

ROOT = Path(__file__).resolve().parents[2]
SCENES = sorted((ROOT / "examples" / "scenes").glob("*.yaml"))


def test_the_published_schema_is_that_of_the_model():
    published = json.loads((ROOT / "docs" / "scene.schema.json").read_text())
    assert published == json_schema(), "intarsia compose --schema > docs/scene.schema.json"


@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)
def test_shipped_scenes_are_read_and_fit_the_schema(path):
    jsonschema = pytest.importorskip("jsonschema")
    yaml = pytest.importorskip("yaml")
    load(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


def test_yaml_json_and_text_are_the_same_scene(tmp_path):
    plain = {"canvas": {"width": 128, "height": 64}, "style": ["a", "b"], "overlap": 16, "guidance": 2}
    (tmp_path / "a.json").write_text(json.dumps(plain))
    (tmp_path / "a.yaml").write_text("\ufeff" + CANVAS + "style: [a, b]\noverlap: [16, 16]\nguidance: 2.0\n")
    scenes = [
        load(tmp_path / "a.json"),
        load(tmp_path / "a.yaml"),
        load(json.dumps(plain)),
        build(plain, folder="."),
    ]
    assert len({scene.model_dump_json() for scene in scenes}) == 1
    assert scenes[0].folder == tmp_path and scenes[2].folder == Path()


def test_aliases_and_merge_keys_save_typing():
    text = CANVAS + "regions:\n- &one {name: a, box: [0, 0, 64, 64], style: s}\n- {<<: *one, name: b}\n"
    assert [(region.name, region.style) for region in load(text).regions] == [("a", "s"), ("b", "s")]


def test_a_grid_is_written_out():
    text = CANVAS + "grid: {rows: 1, columns: 3, region: [64, 64], styles: [[a, b, c]], weight: 2}"
    found = [(region.name, region.box, region.style, region.weight) for region in load(text).places]
    assert found == [
        ("r1c1", (0, 0, 64, 64), "a", 2),
        ("r1c2", (32, 0, 96, 64), "b", 2),
        ("r1c3", (64, 0, 128, 64), "c", 2),
    ]


def test_boxes_may_cross_an_edge_that_wraps():
    box = "regions: [{box: [100, 0, 160, 64]}]"
    assert load("canvas: {width: 128, height: 64, wrap: horizontal}\n" + box).places[0].box == (
        100,
        0,
        160,
        64,
    )
    with pytest.raises(SceneError, match=r"regions\[0\].box\[2\]: must be at most 128"):
        load(CANVAS + box)


def test_paths_move_with_the_picture(tmp_path):
    scene = load(CANVAS + "guides: [{image: a/b.png}]", folder=tmp_path)
    moved = with_paths(scene, tmp_path, tmp_path / "c")
    assert moved.guides[0].image == "../a/b.png" and moved.path(moved.guides[0].image).parts[-2:] == (
        "a",
        "b.png",
    )
    assert with_paths(scene, tmp_path, tmp_path) is scene


def test_errors_know_their_key():
    with pytest.raises(SceneError) as caught:
        load(CANVAS + "regions: [{bx: 1}]")
    assert caught.value.key == "regions[0].bx" and "\n" not in str(caught.value)


def test_a_scene_does_not_change():
    scene = load(CANVAS)
    with pytest.raises(ValueError, match="frozen"):
        scene.seed = 3
    assert Scene.model_fields.keys() == json_schema()["properties"].keys()


def test_reading_needs_no_torch():
    code = (
        "import sys; from intarsia.scene import Model, SceneError, load\n"
        f"scene = load({CANVAS!r} + 'style: badlands')\n"
        "scene.check(Model.open('landscapes'))\n"
        "assert not {'torch', 'PIL', 'typer', 'diffusers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mutated_files_are_read_or_refused_and_nothing_else():
    rng = random.Random(0)
    texts = [path.read_text() for path in SCENES] + [
        text for _, text, _, _ in BAD.values() if len(text) < 4000
    ]
    signs = "\0\t\n -:,[]{}&*!|>'\"%@`#?<.e9\u00e9\ud800\U0001f600"
    refused = 0
    for _ in range(1000):
        text = list(rng.choice(texts))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(text) + 1)
            if rng.random() < 0.4 and text:
                del text[place : place + rng.randint(1, 20)]
            else:
                text[place:place] = rng.choice(signs) * rng.choice([1, 1, 2, 50])
        began = time.process_time()
        try:
            load("\n" + "".join(text))
        except SceneError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
        assert time.process_time() - began < 1
    assert refused > 500


def test_bodies_of_any_shape_are_refused_with_a_key():
    rng = random.Random(1)
    leaves = [
        None,
        True,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x" * 9000,
        "\ud800",
        [],
        {},
        b"x",
    ]
    keys = [*json_schema()["properties"], "box", "width", "image", "name", "__class__", "model_config", ""]

    def value(depth):
        kind = rng.random()
        if depth > 4 or kind < 0.5:
            return rng.choice(leaves)
        if kind < 0.7:
            return [value(depth + 1) for _ in range(rng.randint(0, 4))]
        return {rng.choice(keys): value(depth + 1) for _ in range(rng.randint(0, 5))}

    for _ in range(3000):
        body = {rng.choice(keys): value(1) for _ in range(rng.randint(0, 6))}
        body["canvas"] = rng.choice([{"width": 64, "height": 64}, value(0)])
        try:
            build(body, folder=".")
        except SceneError as error:
            assert "\n" not in str(error) and str(error).isprintable()
