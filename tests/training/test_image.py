# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from intarsia.models import load
from intarsia.training import EMA, ImageTraining, train
from intarsia.training.photos import PhotoFolder
from PIL import Image

TINY = ImageTraining(
    iterations=6,
    batch=2,
    sizes=((16, 16), (8, 16)),
    proportions=(0.5, 0.5),
    channels=(16, 32),
    attention=(1,),
    warmup=2,
    max_height=40,
    checkpoint_every=3,
    samples=0,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for style, count in (("sea", 2), ("sky", 1)):
        folder = tmp_path / "photos" / style
        folder.mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    (tmp_path / "photos" / "sky" / "weight.txt").write_text("3")
    return tmp_path / "photos"


def test_crops_know_their_place(tmp_path: Path) -> None:
    # A vertical ramp: the mean of a crop tells where it came from.
    folder = tmp_path / "p" / "ramp"
    folder.mkdir(parents=True)
    Image.fromarray(np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 300, 1).repeat(3, 2)).save(
        folder / "r.png"
    )
    reader = PhotoFolder(tmp_path / "p", max_height=100)
    rng = np.random.default_rng(1)
    for _ in range(50):
        pixels, (centre, extent) = reader.crop("ramp", (16, 24), rng)
        assert pixels.shape == (16, 24, 3)
        assert 0 <= centre - extent / 2 and centre + extent / 2 <= 1 + 1e-9
        assert abs(pixels.mean() / 200 - centre) < 0.02
        assert abs((float(pixels[-1].mean()) - float(pixels[0].mean())) / 200 - extent * 15 / 16) < 0.03


def test_crops_as_high_as_their_picture(photos: Path) -> None:
    for height in range(8, 40):
        reader = PhotoFolder(photos, max_height=height)
        _, (centre, extent) = reader.crop("sea", (height, height), np.random.default_rng(height))
        assert 0 <= centre - extent / 2 <= centre + extent / 2 <= 1 + 1e-12


def test_batches_follow_the_weights_and_drop_classes(photos: Path) -> None:
    reader = PhotoFolder(photos, max_height=40, drop=0.25)
    crops = reader.batch(4000, (8, 8), np.random.default_rng(0))
    shares = torch.bincount(crops.style, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.75 * 0.25, 0.75 * 0.75]), atol=0.03, rtol=0)
    assert crops.pixels.min() >= -1 and crops.pixels.max() <= 1


def test_a_resumed_run_repeats_an_unbroken_one(photos: Path, tmp_path: Path) -> None:
    whole = train(photos, tmp_path / "a", TINY, progress=False)
    # The rate depends on the planned length, so the broken run must stop early, not be planned shorter.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("intarsia.training.run.Run.advance", stop_at(3))
        with pytest.raises(KeyboardInterrupt):
            train(photos, tmp_path / "b", TINY, progress=False)
    assert torch.load(tmp_path / "b" / "checkpoint.pt", weights_only=True)["step"] == 3
    again = train(photos, tmp_path / "b", TINY, progress=False)
    assert whole.read_bytes() == again.read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6 and np.isfinite(lines[-1]["loss"])
    assert list(load(again).styles) == ["sea", "sky"]


def stop_at(step: int):
    from intarsia.training import Run

    advance = Run.advance

    def patched(run: Run) -> float:
        if run.step == step:
            raise KeyboardInterrupt
        return advance(run)

    return patched


def test_an_interrupt_while_writing_leaves_the_last_checkpoint_whole(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "a", dataclasses.replace(TINY, iterations=3), progress=False)
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "a").iterdir() if p.suffix == ".pt")

    def half(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            train(photos, tmp_path / "a", TINY, progress=False)
    after = sorted((p.name, p.read_bytes()) for p in (tmp_path / "a").iterdir() if p.suffix == ".pt")
    assert before == after
    assert not list((tmp_path / "a").glob("*.part"))


def test_the_log_tells_of_one_run(photos: Path, tmp_path: Path) -> None:
    for resume in (True, True, False):
        train(photos, tmp_path / "a", TINY, resume=resume, progress=False)
        log = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in log] == [6]


def test_photographs_are_read_as_the_camera_was_held(tmp_path: Path) -> None:
    (tmp_path / "p" / "x").mkdir(parents=True)
    upright = Image.new("RGB", (20, 40), "black")
    upright.paste("white", (0, 0, 20, 20))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    turned.save(tmp_path / "p" / "x" / "a.png", exif=exif)
    Image.new("RGBA", (20, 40), (0, 0, 0, 0)).save(tmp_path / "p" / "x" / "b.png")
    (tmp_path / "p" / "x" / "._a.png").write_bytes(b"a file manager's notes")
    first, second = PhotoFolder(tmp_path / "p").photos["x"]
    assert first.size == (20, 40) and first.getpixel((5, 5)) == (255, 255, 255)
    assert second.getpixel((5, 5)) == (255, 255, 255)
    (tmp_path / "p" / "x" / "c.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="PhotoFolder: folder must hold readable photographs, got .*c.png"):
        PhotoFolder(tmp_path / "p")


def test_training_learns(tmp_path: Path) -> None:
    (tmp_path / "photos" / "plain").mkdir(parents=True)
    Image.new("RGB", (60, 40), (200, 90, 30)).save(tmp_path / "photos" / "plain" / "p.png")
    photos = tmp_path / "photos"
    settings = dataclasses.replace(
        TINY, iterations=100, batch=8, sizes=((8, 8),), proportions=(1.0,), learning_rate=5e-3
    )
    train(photos, tmp_path / "a", settings, progress=False)
    lines = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["loss"] for line in lines)
    assert last < 0.6 * first


def test_the_sample_sheet_shows_every_style(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "a", dataclasses.replace(TINY, iterations=1, samples=3), progress=False)
    with Image.open(tmp_path / "a" / "samples.png") as sheet:
        # Two rows of three patches of 16 x 16 with gaps of 2 beside a label, enlarged twice.
        assert sheet.size == (2 * (66 + 3 * 18), 2 * (2 * 18))
        patch = np.asarray(sheet)[:32, 132:164]
    assert patch.std() > 10  # noise at least: the network has hardly learnt
    assert not [p.name for p in (tmp_path / "a").iterdir() if "part" in p.name]


def test_errors(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="folder must hold one sub-folder of photographs per style"):
        train(tmp_path / "empty", tmp_path / "a", TINY, progress=False)
    train(photos, tmp_path / "b", dataclasses.replace(TINY, iterations=1), progress=False)
    with pytest.raises(ValueError, match="train: settings must equal those of .*checkpoint.pt, got others"):
        train(photos, tmp_path / "b", dataclasses.replace(TINY, batch=3), progress=False)
    with pytest.raises(ValueError, match=r"EMA: decay must lie in \[0, 1\), got 1"):
        EMA(torch.nn.Linear(1, 1), decay=1)


def test_the_average_trails_the_parameters() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    average = EMA(net, decay=0.5)
    net.weight.data.fill_(1.0)
    average.update(net)  # decay 0.1 at the first update
    assert average.module.weight.item() == pytest.approx(0.9)
    average.update(net)  # then 2/11
    assert average.module.weight.item() == pytest.approx(1 - 0.1 * 2 / 11)
