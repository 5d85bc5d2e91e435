# SPDX-License-Identifier: Apache-2.0
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
import torch
from intarsia.cli.model_file import bundled
from intarsia.cli.settings import DEFAULT_STYLES
from intarsia.media import read_image, read_png_text, write_png


def about(path):
    return json.loads(read_png_text(path)["intarsia"])


def test_picture_and_what_it_carries(generate, tmp_path):
    code, out, err = generate("-o", "out.png", "--style", "dawn, forest", "--seed", "7")
    assert (code, err) == (0, "")
    assert out.startswith("out.png: 96 x 64 pixels in ") and out.endswith("seed 7\n")
    assert read_image("out.png").shape == (3, 64, 96)
    assert os.listdir(tmp_path) == ["out.png"]
    settings = about("out.png")["settings"]
    assert settings["style"] == ["dawn", "forest"] and settings["precision"] == "float32"
    assert read_png_text("out.png")["Software"].startswith("intarsia ")


def test_from_repeats_the_picture(generate, run):
    generate("-o", "a.png", "--style", "dusk", "--solver", "ancestral", "--seed", "5", "--max-batch", "3")
    code, _, err = generate("-o", "b.png", "--from", "a.png")
    assert (code, err) == (0, "")
    with open("a.png", "rb") as a, open("b.png", "rb") as b:
        assert a.read() == b.read()
    command = shlex.split(read_png_text("a.png")["Comment"])
    assert command[:5] == ["intarsia", "generate", "image", "-o", "picture.png"]
    assert run(*command[1:])[0] == 0
    assert torch.equal(read_image("picture.png"), read_image("a.png"))


def test_options_beside_from_win(generate):
    generate("-o", "a.png", "--style", "dusk", "--loop", "--seed", "5")
    generate("-o", "b.png", "--from", "a.png", "--seed", "0", "--no-loop", "--style", "", "--upscale", "2")
    first, second = about("a.png")["settings"], about("b.png")["settings"]
    assert second == {**first, "seed": 0, "loop": False, "style": [], "upscale": 2}
    assert read_image("b.png").shape == (3, 128, 192)


def test_settings_change_the_picture(generate):
    generate("-o", "a.png", "--steps", "3")
    for words in (["--seed", "1"], ["--style", "dusk"], ["--method", "average"], ["--solver", "euler"]):
        assert generate("-o", "b.png", "--steps", "3", *words)[0] == 0
        assert not torch.equal(read_image("a.png"), read_image("b.png"))


@pytest.mark.parametrize(
    "words",
    [
        ["--method", "concat", "--width", "150"],
        ["--method", "bethe", "--stride", "0", "--width", "150", "--style", "dusk,dawn"],
        ["--method", "bethe", "--stride", "0", "--height", "100", "--guidance", "2"],
        ["--method", "bethe", "--stride", "0", "--height", "32", "--loop"],
        ["--method", "bethe", "--stride", "0", "--height", "40", "--width", "50"],
        ["--height", "40", "--width", "50"],
        ["--height", "100", "--width", "70"],
        ["--loop", "--width", "64"],
        ["--guidance", "2.5", "--style", "dusk,dawn,dusk"],
    ],
)
def test_sizes_and_methods(generate, words):
    assert generate("-o", "out.png", *words)[0] == 0
    settings = about("out.png")["settings"]
    assert read_image("out.png").shape == (3, settings["height"], settings["width"])


def test_json_and_quiet(generate):
    code, out, err = generate("-o", "out.png", "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["path"] == "out.png" and result["settings"] == about("out.png")["settings"]
    assert generate("-o", "out.png", "--quiet") == (0, "", "")


ILLEGAL = {
    "--style dwan": r"must name styles of the model \(dawn, dusk, forest\), got 'dwan'. Did you mean dawn\?",
    "--style sea": r"got 'sea'. Separate several names by commas",
    "--width 0": r"--width must be at least 1, got 0",
    "--width -64": r"--width must be at least 1, got -64",
    "--width 31": r"--width must be at least 32 and --height at least 32, got 31 x 64. Make",
    "--height 16": r"--width must be at least 32 and --height at least 32, got 96 x 16",
    "--width 1000000000": r"--width must give at most 67108864 pixels, got 1000000000 x 64",
    "--upscale 1000": r"got 96 x 64 x 1000\^2",
    "--upscale 0": r"--upscale must be at least 1, got 0",
    "--steps 0": r"--steps must be at least 1, got 0",
    "--max-batch 0": r"--max-batch must be at least 1, got 0",
    "--stride -1": r"--stride must not be negative, got -1",
    "--stride 65": r"--stride must be at most the patch width 64, got 65. Regions would leave gaps",
    "--blend -1": r"--blend must not be negative",
    "--seed -1": r"--seed must not be negative",
    f"--seed {2**63}": r"--seed must be below 2\*\*63",
    "--guidance nan": r"--guidance must be a number from 0 up, got nan",
    "--method mean": r"--method must be one of gaussian, average, bethe, concat, got 'mean'",
    "--solver rk4": r"--solver must be one of dpmpp2m, heun, euler, ddim, ancestral, got 'rk4'",
    "--precision int8": r"--precision must be one of auto, float32",
    "--loop --width 100": r"--width must be a multiple of the stride 16 for a loop, got 100. Use 96 or 112",
    "--loop --method concat": r"--loop must go with overlapping regions, got --method concat",
    "--method bethe": r"--stride must be half a patch, 32, with --method bethe, got 16. Leave it out",
    "--method bethe --stride 0 --loop --width 64": r"--width must be above the patch width 64 for a loop of",
    "--method bethe --stride 0 --loop --width 100": r"--width must be a multiple of the stride 32 for a loop",
    "--device tpu": r"--device must be one that torch sees here, got 'tpu'. Use --device cpu",
    "--device cuda:99": r"--device must be one that torch sees here, got 'cuda:99'",
    "--model absent": r"--model must be a bundled model .* got 'absent' \(No such file or directory\)",
    "--width many": r"Invalid value for '--width'",
    "--wdith 64": r"No such option: --wdith",
}


@pytest.mark.parametrize("words", ILLEGAL, ids=lambda words: words[:24])
def test_illegal_options_are_one_line_and_leave_nothing(generate, tmp_path, words):
    code, out, err = generate("-o", "out.png", *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("intarsia: error: ") and err.count("\n") == 1
    import re

    assert re.search(ILLEGAL[words], err), err
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(generate, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for place, reason in (("no/out.png", "no: No such file"), ("folder.png", "Is a directory")):
        code, _, err = generate("-o", place, "--steps", "100000")
        assert (
            code == 1
            and f"--output must be a file that can be written, got '{place}'" in err
            and reason in err
        )
    code, _, err = generate("-o", "out.jpg")
    assert code == 2 and "--output must end in .png, got 'out.jpg'" in err
    assert os.listdir(tmp_path) == ["folder.png"]


def test_from_files_that_carry_no_settings(generate, tmp_path):
    code, _, err = generate("-o", "out.png", "--from", "absent.png")
    assert code == 1 and err == "intarsia: error: absent.png: No such file or directory\n"
    write_png(torch.zeros(3, 4, 4), "plain.png")
    code, _, err = generate("-o", "out.png", "--from", "plain.png")
    assert code == 2 and "--from must be a picture of intarsia, got 'plain.png' without settings" in err
    (tmp_path / "text.png").write_text("no picture")
    assert "must hold a PNG picture" in generate("-o", "out.png", "--from", "text.png")[2]
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"settings": []}',
        '{"settings": {"colour": 1}}',
        '{"settings": {"width": "64"}}',
        '{"settings": {"loop": 1}}',
        '{"settings": {"style": [1]}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:34],
)
def test_recorded_settings_are_checked(generate, text):
    write_png(torch.zeros(3, 4, 4), "a.png", text={"intarsia": text})
    code, _, err = generate("-o", "out.png", "--from", "a.png")
    assert code == 2 and "--from must hold settings that this version knows" in err and err.count("\n") == 1


def test_recorded_values_are_checked_like_options(generate):
    write_png(torch.zeros(3, 4, 4), "a.png", text={"intarsia": '{"settings": {"guidance": NaN}}'})
    assert "--guidance must be a number from 0 up, got nan" in generate("-o", "out.png", "--from", "a.png")[2]
    write_png(torch.zeros(3, 4, 4), "a.png", text={"intarsia": '{"settings": {"steps": 0}}'})
    assert "--steps must be at least 1" in generate("-o", "out.png", "--from", "a.png")[2]


def test_note_when_a_repeat_may_differ(generate):
    generate("-o", "a.png")
    text = {**about("a.png"), "torch": "2.6.0", "model_sha256": "0" * 64}
    write_png(torch.zeros(3, 4, 4), "a.png", text={"intarsia": json.dumps(text)})
    code, _, err = generate("-o", "b.png", "--from", "a.png")
    assert code == 0 and err.count("note: pixels may differ") == 2
    assert "torch was 2.6.0, here it is" in err and "model_sha256 was 0000" in err


@pytest.mark.parametrize("content", [b"", b"no safetensors", (40).to_bytes(8, "little") + b"{" * 40])
def test_model_files_that_are_none(generate, tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    code, _, err = generate("-o", "out.png", "--model", "m.safetensors")
    assert code == 2 and "--model must be a safetensors file written by intarsia, got 'm.safetensors'" in err


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt, 130), (MemoryError, 1), (RuntimeError("a\nb"), 1)]
)
def test_failure_in_the_middle_leaves_nothing(generate, tmp_path, monkeypatch, error, expected):
    def fail(*args, **settings):
        raise error

    monkeypatch.setattr("intarsia.samplers.sample", fail)
    code, out, err = generate("-o", "out.png")
    assert code == expected and out == "" and err.count("\n") == 1 and "Traceback" not in err
    assert os.listdir(tmp_path) == []
    assert "Traceback" not in err
    if expected == 1:
        assert "Traceback" in generate("-o", "out.png", "--debug")[2]


def test_full_disk_leaves_the_old_picture(generate, tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "out.png").write_bytes(b"old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        code, _, err = generate("-o", "out.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1 and "File too large" in err
    assert os.listdir(tmp_path) == ["out.png"] and (tmp_path / "out.png").read_bytes() == b"old"


def test_name_that_is_not_utf8(generate, tmp_path):
    code, out, err = generate("-o", os.fsdecode(b"caf\xe9.png"))
    assert (code, err) == (0, "") and out.startswith(r"caf\xe9.png: 96 x 64 pixels")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.png"]


def test_progress_on_a_terminal_and_an_interrupt(model, tmp_path):
    pty = pytest.importorskip("pty")
    words = ["generate", "image", "-o", "out.png", "--model", model, "--height", "64", "--steps", "1000000"]
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "intarsia.cli", *words], cwd=tmp_path, stdin=end, stderr=end, stdout=end
    )
    os.close(end)
    shown = b""
    while b"painting 1024 x 64" not in shown or b"steps" not in shown:
        shown += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    while b"interrupted" not in shown:
        shown += os.read(terminal, 4096)
    assert process.wait(timeout=60) == 130
    os.close(terminal)
    assert b"Traceback" not in shown
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif("landscapes" not in bundled(), reason="the bundled weights are not in this checkout")
def test_bundled_model(run):
    code, _, err = run("generate", "image", "-o", "out.png", "--width", "96", "--steps", "4", "--quiet")
    assert (code, err) == (0, "")
    assert read_image("out.png").std() > 0.05
    assert about("out.png")["settings"]["style"] == list(DEFAULT_STYLES["landscapes"])
