# SPDX-License-Identifier: Apache-2.0
import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from bodies import BODY, wandering
from intarsia.cli.animate import MotionSettings
from intarsia.kinematics import FeatureSpace
from intarsia.models import EDMDenoiser, UNet

FOLDER = Path(__file__).parents[2] / "experiments" / "motion"
DATA = Path(os.environ.get("INTARSIA_DATA", "absent")) / "cmu-motion" / "cmu_motion_30fps.npz"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("motion_compare", FOLDER / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plans_put_different_actions_in_a_row(compare):
    plans = [compare.plan(index) for index in range(30)]
    assert all(a != b != c for a, b, c in plans) and len(set(plans)) == 30


def test_counted_calls(compare):
    # 720 frames: 22 windows half a window apart with 21 half windows between, or 12 in a row.
    counted = [compare.calls(name, 720, 50, (64, 32)) for name in compare.METHODS]
    assert counted == [600, 1100, 1100, 1625, 1625, 3250]


def test_autoregression_keeps_what_it_has(compare):
    net = UNet(1, in_channels=16, channels=(16,), blocks=1, num_classes=3)
    denoiser = EDMDenoiser(
        net, styles=["a", "b"], sizes=[(16,), (8,)], label="action", sigma_range=(0.01, 9.0)
    )
    settings = MotionSettings(("a", "b"), frames=44, steps=3)
    with torch.no_grad():
        made = compare.autoregressive(denoiser, settings, seed=0)
        again = compare.autoregressive(denoiser, MotionSettings(("a", "a", "a"), frames=16, steps=3), seed=0)
    assert made.shape == (1, 16, 44) and made.isfinite().all()
    torch.testing.assert_close(made[..., :16], again)


def test_measures_of_a_set_against_itself(compare):
    names = [name.replace("Foot", "ToeBase") if name.endswith("Foot") else name for name in BODY.names]
    toes = dataclasses.replace(BODY, names=tuple(names))
    space = FeatureSpace(toes, joints=tuple(range(9)), feet=(2, 5), fps=30.0)
    motions = [space.encode(wandering(200, seed=s)) for s in range(3)]
    real = compare.windows_of(motions, 64, range(0, 200, 32))
    row = compare.measure(motions, real, space, stride=32, size=64)
    assert row["frechet"] < 1e-6 and row["bones"] < 1e-6 and 0.5 < row["jerk"] < 2
    line = compare.table({"data": row}).splitlines()[2]
    assert line.startswith("| data | 0.000 |")


@pytest.mark.skipif(not DATA.is_file(), reason="INTARSIA_DATA names no folder with cmu-motion")
@pytest.mark.skipif(
    "moves" not in __import__("intarsia.models").models.available(), reason="no bundled weights"
)
def test_the_whole_comparison(compare, tmp_path):
    words = [
        "--data",
        str(DATA),
        "--output",
        str(tmp_path),
        "--motions",
        "1",
        "--steps",
        "2",
        "--seconds",
        "6",
    ]
    (tmp_path / "README.md").write_text("a\n<!-- table -->\n<!-- end of table -->\nb\n")
    compare.main(words)
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "results.json", "results.md", "spectra.png"}
    assert (tmp_path / "results.md").read_text() in (tmp_path / "README.md").read_text()
