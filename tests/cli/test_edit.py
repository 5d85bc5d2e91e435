# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import struct
import zlib

import pytest
import torch
from intarsia.cli.model_file import bundled
from intarsia.media import read_image, read_png_text, to_float, write_png


@pytest.fixture
def photo(tmp_path):
    pixels = torch.randint(0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(0))
    write_png(pixels.to(torch.uint8), tmp_path / "photo.png")
    return to_float(pixels.to(torch.uint8))


@pytest.fixture
def mask(tmp_path):
    light = torch.zeros(1, 50, 70, dtype=torch.uint8)
    light[:, 10:40, 20:60] = 255
    write_png(light, tmp_path / "mask.png")
    return light[0] > 0


@pytest.fixture
def edit(run):
    """Runs `intarsia extend` or `inpaint` on the tiny model in two steps."""

    def call(*words):
        short = []
        for option, value in (("--model", "{model}"), ("--steps", "2"), ("--precision", "float32")):
            short += [] if option in words else [option, value]
        return run(*words, *short)

    return call


SIDES = {"--left": 20, "--right": 7, "--top": 3, "--bottom": 30}


@pytest.mark.parametrize("chosen", [["--left"], ["--right", "--bottom"], list(SIDES)])
def test_extended_photo_keeps_its_pixels(edit, photo, tmp_path, chosen):
    words = [word for side in chosen for word in (side, SIDES[side])]
    code, out, err = edit("extend", "photo.png", "-o", "wide.png", *words)
    assert (code, err) == (0, "")
    left, right, top, bottom = (SIDES[s] if s in chosen else 0 for s in SIDES)
    wide = read_image("wide.png")
    assert wide.shape == (3, 50 + top + bottom, 70 + left + right)
    assert torch.equal(wide[:, top : top + 50, left : left + 70], photo)
    assert out.startswith(f"wide.png: {wide.shape[2]} x {wide.shape[1]} pixels in ")
    assert sorted(os.listdir(tmp_path)) == ["photo.png", "wide.png"]


@pytest.mark.parametrize("words", [[], ["--method", "gaussian"], ["--work-height", "32", "--style", "dusk"]])
def test_inpainted_photo_keeps_its_other_pixels(edit, photo, mask, words):
    code, _, err = edit("inpaint", "photo.png", "mask.png", "-o", "out.png", *words)
    assert (code, err) == (0, "")
    out = read_image("out.png")
    assert torch.equal(out[:, ~mask], photo[:, ~mask])
    assert (out[:, mask] - photo[:, mask]).abs().mean() > 0.1


def test_metadata_and_json(edit, photo):
    code, out, _ = edit("extend", "photo.png", "-o", "a.png", "--left", "8", "--seed", "3", "--json")
    result = json.loads(out)
    facts = json.loads(read_png_text("a.png")["intarsia"])
    assert code == 0 and result["path"] == "a.png" and result["settings"] == facts["settings"]
    assert facts["settings"]["left"] == 8 and facts["settings"]["style"] in ("none", "dawn", "dusk", "forest")
    assert re.fullmatch("[0-9a-f]{64}", facts["sources_sha256"][0])
    command = read_png_text("a.png")["Comment"].split()
    assert command[:5] == ["intarsia", "extend", "photo.png", "-o", "picture.png"]
    assert edit(*command[1:])[0] == 0
    assert torch.equal(read_image("picture.png"), read_image("a.png"))
    assert edit("extend", "photo.png", "-o", "b.png", "--left", "8", "--quiet") == (0, "", "")
    assert not torch.equal(read_image("b.png"), read_image("a.png"))


ILLEGAL = {
    "": r"extend: --left, --right, --top or --bottom must say how many pixels to add, got none",
    "--left -1": r"extend: --left must not be negative, got -1",
    "--left -1 --right 2": r"extend: --left must not be negative, got -1",
    "--left 2000000": r"extend: the picture must have at most 67108864 pixels, got 2000070 x 50",
    "--left 200000": r"extend: the picture must take at most 4096 regions",
    "--left 9 --steps 0": r"extend: --steps must be at least 1, got 0",
    "--left 9 --work-height 8": r"extend: --work-height must be at least 32, got 8",
    "--left 9 --seed -1": r"extend: --seed must not be negative",
    "--left 9 --style dwan": r"--style must be one of auto, none, .* got 'dwan'. Did you mean dawn",
    "--left 9 --method concat": r"--method must be one of bethe, gaussian, average, got 'concat'",
    "--left 9 --solver rk4": r"--solver must be one of",
    "--left 9 --device tpu": r"extend: --device must be one that torch sees here, got 'tpu'",
    "--left 9 --model absent": r"extend: --model must be a bundled model",
    "--left nine": r"Invalid value for '--left'",
}


@pytest.mark.parametrize("words", ILLEGAL, ids=lambda words: words[:24])
def test_illegal_options_are_one_line_and_leave_nothing(edit, photo, tmp_path, words):
    code, out, err = edit("extend", "photo.png", "-o", "out.png", *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("intarsia: error: ") and err.count("\n") == 1
    assert re.search(ILLEGAL[words], err), err
    assert os.listdir(tmp_path) == ["photo.png"]


def test_masks_that_do_not_fit(edit, photo, tmp_path):
    for light, message in (
        (torch.zeros(1, 50, 69), "MASK must have the size of the photo, 70 x 50, got 69 x 50"),
        (-torch.ones(1, 50, 70), "MASK must be white anywhere, got none of it"),
        (torch.ones(1, 50, 70), "MASK must be black anywhere, got none of it"),
    ):
        write_png(light, "mask.png")
        code, _, err = edit("inpaint", "photo.png", "mask.png", "-o", "out.png")
        assert code == 2 and message in err
    assert not (tmp_path / "out.png").exists()


def test_files_that_are_no_photo(edit, tmp_path):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(4096))), (b"IEND", b""))
    bomb = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    (tmp_path / "text.png").write_text("no picture")
    for name, code, message in (
        ("bomb.png", 2, "must hold at most 67108864 pixels, got 30000 x 30000"),
        ("text.png", 2, "must hold a PNG, JPEG, WebP or TIFF picture"),
        ("absent.png", 1, "absent.png: No such file or directory"),
    ):
        found, _, err = edit("extend", name, "-o", "out.png", "--left", "8")
        assert found == code and message in err
    code, _, err = edit("extend", "text.png", "-o", "out.jpg", "--left", "8")
    assert code == 2 and "extend: --output must end in .png" in err
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a\nb")])
def test_failure_in_the_middle_leaves_nothing(edit, photo, tmp_path, monkeypatch, error):
    def fail(*args, **settings):
        raise error

    monkeypatch.setattr("intarsia.samplers.sample", fail)
    code, out, err = edit("extend", "photo.png", "-o", "out.png", "--left", "8")
    assert code == (130 if error is KeyboardInterrupt else 1) and out == "" and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["photo.png"]


@pytest.mark.skipif("landscapes" not in bundled(), reason="the bundled weights are not in this checkout")
def test_bundled_model(run, photo):
    words = ["extend", "photo.png", "-o", "out.png", "--right", "20", "--steps", "2", "--style", "badlands"]
    assert run(*words, "--quiet") == (0, "", "")
