# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bad_scenes import BAD
from intarsia.media import read_image, read_png_text, write_png

SCENES = Path(__file__).resolve().parents[2] / "examples" / "scenes"
SCENE = """
canvas: {width: 160, height: 64}
steps: 3
style: [dawn, forest]
blend: 32
machine: {precision: float32}
regions:
  - {name: sun, box: [0, 0, 40, 40], style: dusk, guidance: 2, feather: 8}
  - {name: corner, box: [96, 32, 128, 64]}
"""


@pytest.fixture
def compose(run, model, tmp_path):
    """Runs `intarsia compose`; a scene given as text becomes scene.yaml, on the tiny model."""

    def call(*words, text=None):
        if text is not None:
            (tmp_path / "scene.yaml").write_text(text + f"\nmodel: {model}\n")
            words = ("scene.yaml", *words)
        return run("compose", *words)

    return call


def test_a_scene_becomes_a_picture_that_repeats_itself(compose):
    code, out, err = compose("-o", "a.png", text=SCENE)
    assert (
        (code, err) == (0, "") and out.startswith("a.png: 160 x 64 pixels in ") and out.endswith("seed 0\n")
    )
    assert read_image("a.png").shape == (3, 64, 160)
    assert compose("a.png", "-o", "b.png", "-q") == (0, "", "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    about = json.loads(read_png_text("a.png")["intarsia"])
    assert about["scene"]["regions"][0] == {
        "name": "sun",
        "box": [0, 0, 40, 40],
        "feather": 8,
        "style": "dusk",
        "guidance": 2.0,
    }


def test_another_seed_of_one_region_and_the_rest_kept(compose):
    compose("-o", "a.png", "-q", text=SCENE)
    assert compose("a.png", "-o", "b.png", "--reroll", "sun=5", "-q") == (0, "", "")
    assert compose("a.png", "-o", "c.png", "--reroll", "sun=5", "--keep", "a.png", "-q") == (0, "", "")
    a, b, c = read_image("a.png"), read_image("b.png"), read_image("c.png")
    assert not torch.equal(a[:, :40, :40], b[:, :40, :40]) and not torch.equal(a[:, :40, :40], c[:, :40, :40])
    outside = torch.ones(64, 160, dtype=torch.bool)
    outside[:40, :40] = False
    assert torch.equal(a[:, outside], c[:, outside])
    assert compose("c.png", "-o", "d.png", "-q") == (0, "", "")
    assert Path("c.png").read_bytes() == Path("d.png").read_bytes()


def test_pictures_remember_their_files_from_elsewhere(compose, tmp_path):
    write_png(torch.zeros(3, 64, 160), "sketch.png")
    compose("-o", "a.png", "-q", text=SCENE + "guides: [{image: sketch.png}]")
    Path("below").mkdir()
    assert compose("a.png", "-o", "below/b.png", "-q")[0] == 0
    assert (
        json.loads(read_png_text("below/b.png")["intarsia"])["scene"]["guides"][0]["image"] == "../sketch.png"
    )
    assert compose("below/b.png", "-o", "c.png", "-q")[0] == 0
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes()
    write_png(torch.ones(3, 64, 160), "sketch.png")
    assert "note: pixels may differ: sketch.png was " in compose("a.png", "-o", "d.png")[2]


@pytest.mark.parametrize("name", BAD)
def test_bad_scenes_give_one_line_that_names_the_key(compose, model, tmp_path, name):
    suffix, text, key, said = BAD[name]
    write_png(torch.zeros(3, 4, 8), "small.png")
    if suffix == ".yaml" and text.startswith("canvas: {width: ") and "model" not in text:
        text = f"{text}\nmodel: {model}\n"
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = sorted(os.listdir(tmp_path))
    code, out, err = compose(path.name, "-o", "out.png")
    assert (code, out) == (2, ""), err
    place = f"{path.name}: {key}" if key else path.name
    assert err.startswith(f"intarsia: error: {place}") and err.count("\n") == 1, err
    assert said in err
    assert sorted(os.listdir(tmp_path)) == before


def test_there_are_many_bad_scenes():
    assert len(BAD) >= 40


ILLEGAL = {
    "": "SCENE must be given",
    "scene.yaml": "--output must be given, got none",
    "scene.yaml -o out.jpg": "--output must end in .png, got 'out.jpg'",
    "scene.yaml --drawing out.gif": "--drawing must end in .png",
    "scene.txt -o out.png": "scene.txt: must end in .yaml, .yml, .json or .png, got '.txt'",
    "scene.yaml -o out.png --reroll sun": "--reroll must be NAME=SEED, got 'sun'",
    "scene.yaml -o out.png --reroll sun=x": "--reroll must be NAME=SEED, got 'sun=x'",
    "scene.yaml -o out.png --reroll snu=1": "--reroll must name a region, got 'snu'. Did you mean sun?",
    "scene.yaml -o out.png --keep a.png": "--keep must come with --reroll",
    "plain.png -o out.png": "plain.png: must be a picture made by `intarsia compose`, got one without",
    "scene.yaml -o out.png --explian": "No such option: --explian",
}


@pytest.mark.parametrize("words", ILLEGAL)
def test_illegal_command_lines(compose, model, tmp_path, words):
    write_png(torch.zeros(3, 4, 8), "plain.png")
    (tmp_path / "scene.yaml").write_text(SCENE + f"model: {model}\n")
    code, out, err = compose(*words.split()) if words else compose("--quiet")
    assert (code, out) == (2, "") and ILLEGAL[words] in err and err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_files_that_are_absent(compose):
    assert compose("no.yaml", "-o", "a.png") == (
        1,
        "",
        "intarsia: error: no.yaml: No such file or directory\n",
    )
    code, _, err = compose("-o", "no/a.png", text=SCENE)
    assert code == 1 and "--output must be a file that can be written, got 'no/a.png'" in err


def test_failure_in_the_middle_leaves_nothing(compose, tmp_path, monkeypatch):
    for error, expected in ((KeyboardInterrupt, 130), (MemoryError, 1), (RuntimeError("a\nb"), 1)):

        def fail(*args, error=error, **settings):
            raise error

        monkeypatch.setattr("intarsia.samplers.sample", fail)
        code, out, err = compose("-o", "out.png", text=SCENE)
        assert code == expected and out == "" and err.count("\n") == 1 and "Traceback" not in err
        assert os.listdir(tmp_path) == ["scene.yaml"]


def test_explain_says_what_it_takes_and_paints_nothing(compose, tmp_path):
    code, out, err = compose("--explain", "--drawing", "regions.png", text=SCENE)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 110
    assert "regions  sun     40 x 40 at (0, 0), feather 8, guidance 2, dusk\n" in out
    assert "twice for guidance" in out and "memory   about " in out and "its place only" in out
    assert sorted(os.listdir(tmp_path)) == ["regions.png", "scene.yaml"]
    assert read_image("regions.png").shape[2] == 1280


def test_explain_of_the_paper_s_4k_picture(run):
    code, out, _ = run("compose", SCENES / "four_k.yaml", "--explain", "--json")
    about = json.loads(out)
    assert code == 0 and len(about["regions"]) == 88 and about["background_patches"] == 0
    assert about["overlaps"] == {"columns": [320], "rows": [240]}
    assert about["rows_per_step"] == 176 and about["groups"] == [
        {"size": [640, 480], "patches": 88, "terms": 2, "calls": 11}
    ]
    assert about["rows"] == 8800 and about["calls"] == 550
    code, out, _ = run("compose", SCENES / "four_k.yaml", "--explain")
    assert "88 regions of 640 x 480, 8 rows of 11, overlapping by 320 columns and 240 rows" in out
    assert "176 rows in 11 network calls of at most 16" in out
    assert all(f"r{row}c{column}" in out for row in range(1, 9) for column in range(1, 12))


def test_json_result(compose):
    code, out, err = compose("-o", "a.png", "--json", text=SCENE)
    assert (code, err) == (0, "") and json.loads(out)["path"] == "a.png"


def test_schema(run):
    code, out, _ = run("compose", "--schema")
    assert code == 0 and json.loads(out)["title"] == "intarsia scene"


def test_a_picture_bomb_is_refused_from_its_header(compose, tmp_path):
    import struct
    import time
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (12_000, 30_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
        text = SCENE + "guides: [{image: bomb.png}]"
        compose("--explain", text=SCENE)  # imports are not what is timed
        began = time.process_time()
        code, _, err = compose("-o", "out.png", text=text)
        assert code == 2 and "scene.yaml: guides[0].image: must " in err and err.count("\n") == 1
        assert time.process_time() - began < 0.25
    (tmp_path / "cut.png").write_bytes((b"\x89PNG\r\n\x1a\n" + data)[:20])
    code, _, err = compose("-o", "out.png", text=SCENE + "guides: [{image: cut.png}]")
    assert code == 2 and "guides[0].image" in err and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("option", "heavy", "seconds"),
    [("--help", ["torch", "intarsia.scene.schema", "yaml", "PIL"], 0.5), ("--schema", ["torch", "PIL"], 1)],
)
def test_help_and_schema_do_not_pay_for_torch(option, heavy, seconds):
    probe = (
        f"import sys; from intarsia.cli import main; code = main(['compose', {option!r}]);"
        f"sys.exit(code or any(name in sys.modules for name in {heavy}))"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", probe], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    # Processor time: other work on the machine is not ours to blame.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < seconds
