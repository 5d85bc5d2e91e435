# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import wandering
from intarsia.kinematics import FeatureSpace, Motion
from intarsia.models import load
from intarsia.training import MotionClips, MotionTraining, train_motion
from intarsia.training.clips import _continued, _upright

TINY = MotionTraining(
    iterations=4,
    batch=4,
    sizes=(16, 8),
    features=16,
    channels=(16, 16),
    attention=(),
    warmup=2,
    dropout=0.0,
    checkpoint_every=2,
)
FEET = ("LeftFoot", "RightFoot")


def clips() -> list[tuple[Motion, str, bool]]:
    walks = [(wandering(60, seed=s), "walk", s == 0) for s in range(3)]
    return [*walks, (wandering(90, seed=7), "jump", False)]


def made() -> MotionClips:
    return MotionClips(clips(), feet=FEET, sizes=(16, 8), channels=16)


def test_windows_are_cut_from_the_clips() -> None:
    windows = made()
    assert windows.actions == ("jump", "walk") and windows.space.channels == 16
    batch, labels = windows.batch(200, 16, np.random.default_rng(0))
    assert batch.shape == (200, 16, 16) and set(labels.tolist()) == {1, 2}
    assert 0.8 < float((labels == 2).sum() / (labels == 1).sum()) < 2
    known = torch.cat([windows.space.encode(m) for m, _, held in clips() if not held], 1).float()
    for window in batch[:20]:
        nearest = (known.unfold(1, 16, 1).permute(1, 0, 2) - window).abs().amax((1, 2)).min()
        mirrors = windows.space.decode(window).positions
        assert nearest < 1e-3 or mirrors.isfinite().all()


def test_every_action_has_a_held_out_part() -> None:
    windows = made()
    for held in (True, False):
        assert set(windows.windows(8, held=held)[1].tolist()) == {1, 2}
    assert windows.windows(8, held=True, stride=8)[0].shape[1:] == (16, 8)


def test_stretches_without_a_heading_are_cut_out() -> None:
    motion = wandering(60)
    rotations = motion.rotations.clone()
    rotations[30, 0] = rotations[30, 0] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]).double())
    pieces = _upright(dataclasses.replace(motion, rotations=rotations), least=10)
    assert [len(piece) for piece in pieces] == [30, 29]


def test_short_clips_go_on_with_their_cycle() -> None:
    time = torch.arange(41, dtype=torch.float64)
    cycle = torch.stack([torch.sin(time * 2 * torch.pi / 20), torch.cos(time * 2 * torch.pi / 20)])
    longer = _continued(cycle, 100)
    time = torch.arange(longer.shape[1], dtype=torch.float64)
    assert longer.shape[1] >= 100
    torch.testing.assert_close(longer[0], torch.sin(time * 2 * torch.pi / 20), atol=1e-9, rtol=0)


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = train_motion(clips(), tmp_path / "a", TINY, progress=False)
    train_motion(clips(), tmp_path / "b", dataclasses.replace(TINY, iterations=2, decay=0.6), progress=False)
    part = train_motion(clips(), tmp_path / "c", TINY, progress=False)
    assert whole.read_bytes() == part.read_bytes()
    log = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [4]
    assert {f"{part} {sigma}" for part in ("held", "seen") for sigma in (0.1, 0.4, 1.6)} < set(log[0])
    with pytest.raises(ValueError, match=r"train: settings must equal those of"):
        train_motion(clips(), tmp_path / "b", TINY, progress=False)


def test_the_model_file_tells_how_motions_become_numbers(tmp_path: Path) -> None:
    denoiser = load(train_motion(clips(), tmp_path, TINY, progress=False), dtype=torch.float32)
    assert denoiser.styles == {"jump": 1, "walk": 2} and denoiser.sizes == ((16,), (8,))
    space = FeatureSpace.from_json(denoiser.about["motion"])
    assert space.channels == denoiser.net.channels == 16
    answer = denoiser(torch.randn(2, 16, 16), torch.ones(2), {"action": torch.tensor([0, 2])})
    assert len(space.decode(answer[0])) == 16
    with pytest.raises(ValueError, match="cond must hold action only, got style"):
        denoiser(torch.randn(1, 16, 16), torch.ones(1), {"style": torch.tensor([1])})


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="MotionClips: clips must hold one to train on"):
        MotionClips([])
