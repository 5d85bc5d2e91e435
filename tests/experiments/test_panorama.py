# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from intarsia.media import read_image, write_png
from intarsia.models import EDMDenoiser, UNet, save

FOLDER = Path(__file__).parents[2] / "experiments" / "panorama"


@pytest.fixture
def compare(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import compare

    settings = {"ndim": 2, "in_channels": 3, "channels": [16], "num_classes": 3, "num_positions": 2}
    denoiser = EDMDenoiser(UNet(**settings), styles=["sea", "wood"], sizes=[(64, 64)])
    save(denoiser, tmp_path / "m.safetensors", settings)
    generator = torch.Generator().manual_seed(0)
    for style in denoiser.styles:
        (tmp_path / "photos" / style).mkdir(parents=True)
        write_png(torch.rand(3, 80, 120, generator=generator), tmp_path / "photos" / style / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")

    def call(*words):
        places = {"data": "photos", "model": "m.safetensors", "output": "out", "work": "work"}
        fixed = " ".join(f"--{option} {tmp_path}/{place}" for option, place in places.items())
        small = "--style sea,wood --pictures 3 --width 128 --steps 2 --crops 8 --patches 50 --resamples 3"
        compare.main([*fixed.split(), *small.split(), *words])
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return call


def test_everything_is_written_and_work_is_kept(compare, tmp_path, capsys):
    found = compare()
    assert list(found["rows"]) == ["photographs", "single pieces", "concat", "average", "gaussian"]
    assert found["rows"]["concat"]["regions"] == 2 and found["rows"]["gaussian"]["regions"] == 5
    assert found["rows"]["concat"]["own borders"] == found["rows"]["concat"]["common borders"]
    low, high = found["rows"]["average"]["own borders"]["interval"]
    assert low <= found["rows"]["average"]["own borders"]["ratio"] <= high
    readme, table = (
        (tmp_path / "out" / "README.md").read_text(),
        (tmp_path / "out" / "results.md").read_text(),
    )
    from compare import SHEET

    assert readme == f"before\n<!-- table -->\n{table}{SHEET}<!-- end of table -->\nafter\n"
    assert table.count("\n") == 7 and table in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "sheet.png").shape[-1] > 256
    painted = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert len(painted) == 9
    assert compare()["rows"] == found["rows"]
    assert painted == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}


def test_pieces_must_be_whole(compare):
    with pytest.raises(SystemExit, match="--width must be a multiple of 64"):
        compare("--width", "100")


def test_the_committed_table_is_the_readme_s():
    assert (FOLDER / "results.md").read_text() in (FOLDER / "README.md").read_text()
    rows = json.loads((FOLDER / "results.json").read_text())
    assert rows["settings"]["pictures"] >= 32 and (FOLDER / "sheet.png").exists()
