# SPDX-License-Identifier: Apache-2.0
import json
import os
import re

import pytest
import torch
from intarsia.media import read_image, read_png_text


@pytest.fixture
def sphere(run):
    """Runs `intarsia generate panorama360` on the tiny model in one step."""

    def call(*words):
        short = []
        for option, value in (
            ("--model", "{model}"),
            ("--steps", "1"),
            ("--face", "64"),
            ("--height", "32"),
            ("--precision", "float32"),
        ):
            short += [] if option in words else [option, value]
        return run("generate", "panorama360", *words, *short)

    return call


@pytest.mark.parametrize("method", ["upright", "bethe"])
def test_a_sphere_and_what_it_carries(sphere, run, tmp_path, method):
    code, out, err = sphere("-o", "a.png", "--method", method, "--style", "dusk")
    assert (code, err) == (0, "") and out.startswith("a.png: 64 x 32 pixels in ")
    picture = read_image("a.png")
    assert picture.shape == (3, 32, 64) and os.listdir(tmp_path) == ["a.png"]
    text = read_png_text("a.png")
    assert 'GPano:ProjectionType="equirectangular"' in text["XML:com.adobe.xmp"]
    assert 'GPano:FullPanoWidthPixels="64"' in text["XML:com.adobe.xmp"]
    facts = json.loads(text["intarsia"])
    assert facts["settings"]["method"] == method and facts["settings"]["style"] == "dusk"
    command = text["Comment"].split()
    assert command[:5] == ["intarsia", "generate", "panorama360", "-o", "sphere.png"]
    assert run(*command[1:])[0] == 0
    assert torch.equal(read_image("sphere.png"), picture)


def test_seeds_json_and_quiet(sphere):
    code, out, err = sphere("-o", "a.png", "--json")
    result = json.loads(out)
    assert (code, err) == (0, "") and result["settings"]["style"] == "dawn" and result["path"] == "a.png"
    assert sphere("-o", "b.png", "--seed", "1", "--quiet") == (0, "", "")
    assert not torch.equal(read_image("a.png"), read_image("b.png"))


ILLEGAL = {
    "--height 1": r"panorama360: --height must be at least 2, got 1",
    "--height 100000": r"--height must be at most 4096",
    "--face 100": r"--face must be a multiple of 32 from 64 to 2048, got 100. Use 128",
    "--face 32": r"--face must be a multiple of 32 from 64",
    "--steps 0": r"--steps must be at least 1",
    "--seed -1": r"--seed must be at least 0",
    "--method mean": r"--method must be one of upright, bethe, got 'mean'",
    "--style dwan": r"--style must be one of dawn, dusk, forest, got 'dwan'. Did you mean dawn",
    "--model absent": r"generate panorama360: --model must be a bundled model",
    "--device tpu": r"generate panorama360: --device must be one",
}


@pytest.mark.parametrize("words", ILLEGAL)
def test_illegal_options_are_one_line_and_leave_nothing(sphere, tmp_path, words):
    code, out, err = sphere("-o", "out.png", *words.split())
    assert (code, out) == (2, "") and err.startswith("intarsia: error: ") and err.count("\n") == 1
    assert re.search(ILLEGAL[words], err), err
    assert os.listdir(tmp_path) == []
    assert "must end in .png" in sphere("-o", "out.jpg")[2]
