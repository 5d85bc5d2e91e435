# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from bodies import BODY, wandering
from intarsia.kinematics import FeatureSpace, Motion
from torch import Tensor

SPACE = FeatureSpace(BODY, joints=(0, 1, 2, 4, 5, 7, 8), feet=(2, 5), fps=30.0)


def fitted(channels: int) -> FeatureSpace:
    return SPACE.fitted([SPACE.encode(wandering(80, seed=s)) for s in range(8)], channels=channels)


def test_decoding_undoes_encoding_up_to_place_and_heading() -> None:
    motion = wandering()
    for space in (SPACE, fitted(SPACE.numbers)):
        again = space.decode(space.encode(motion))
        placed = motion.placed()
        torch.testing.assert_close(again.positions, placed.positions, atol=1e-6, rtol=0)
        torch.testing.assert_close(again.rotations, placed.rotations, atol=1e-6, rtol=0)


def test_features_do_not_tell_place_and_heading() -> None:
    motion = wandering()
    moved = motion.placed(x=7.0, z=3.0, heading=2.0)
    torch.testing.assert_close(SPACE.encode(moved), SPACE.encode(motion), atol=1e-9, rtol=0)
    turned = dataclasses.replace(motion, translation=motion.translation + torch.tensor([0.0, 0.1, 0.0]))
    assert (SPACE.encode(turned) - SPACE.encode(motion)).abs().max() > 0.05


def test_windows_join_anywhere() -> None:
    # Two windows cut from one motion and put together are that motion: no feature depends on the cut.
    features = SPACE.encode(wandering(60))
    joined = torch.cat([features[:, :25], features[:, 25:]], 1)
    torch.testing.assert_close(SPACE.decode(joined).positions, SPACE.decode(features).positions)


def test_fitted_spaces() -> None:
    space = fitted(24)
    assert space.channels == 24 and space.numbers == 4 + 6 * 7 + 2
    basis = torch.tensor(space.basis)
    torch.testing.assert_close(basis @ basis.T, torch.eye(24), atol=1e-6, rtol=0)
    clips = torch.cat([space.encode(wandering(80, seed=s)) for s in range(8)], 1)
    assert abs(float(clips.square().mean().sqrt()) - 0.5) < 1e-3
    assert (clips.var(1).diff() <= 1e-9).all()
    motion = wandering(80)
    assert (space.decode(space.encode(motion)).positions - motion.placed().positions).norm(
        dim=-1
    ).mean() < 0.02


def test_bones_keep_their_lengths_whatever_the_features() -> None:
    noise = torch.randn(SPACE.channels, 50, generator=torch.Generator().manual_seed(0))
    places = SPACE.decode(noise).positions
    lengths = (places[:, 1:] - places[:, list(BODY.parents[1:])]).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor(BODY.lengths[1:]).double().expand_as(lengths))


def walking(speed: float = 1.2, frames: int = 90) -> Tensor:
    """Features of a stiff body that glides ahead, its left foot said to stand."""
    features = torch.zeros(SPACE.channels, frames, dtype=torch.float64)
    features[2] = speed
    features[3] = 1.0
    features[4:-2] = SPACE.encode(Motion(BODY, torch.eye(3).expand(1, 9, 3, 3), torch.zeros(1, 3), 30.0))[
        4:-2
    ]
    features[-2] = 1.0
    return features


def test_planted_feet_stand() -> None:
    swept = SPACE.decode(walking()).positions[:, 2]
    planted = SPACE.decode(walking(), plant=True).positions[:, 2]
    assert swept.diff(dim=0).norm(dim=1)[1:].min() > 0.03
    assert planted[1:].diff(dim=0).norm(dim=1).max() < 1e-9
    turning = walking()
    turning[0] = 0.8
    planted = SPACE.decode(turning, plant=True).positions[:, 2]
    assert planted[1:].diff(dim=0).norm(dim=1).max() < 1e-9


def test_smoothing_takes_off_trembling_and_keeps_motion() -> None:
    time = torch.arange(120, dtype=torch.float64) / 30
    slow = walking(frames=120)
    slow[10] += 0.2 * torch.sin(6.28 * 1.5 * time)
    shaken = slow + 0.05 * torch.randn(slow.shape, generator=torch.Generator().manual_seed(0))
    kept, raw, wanted = (SPACE.decode(slow, smooth=True), SPACE.decode(shaken), SPACE.decode(slow))
    assert (kept.rotations - wanted.rotations).abs().max() < 5e-3
    better = (SPACE.decode(shaken, smooth=True).rotations - wanted.rotations).std()
    assert better < 0.7 * (raw.rotations - wanted.rotations).std()
    turned = SPACE.decode(shaken.roll(40, 1), smooth=True, loop=True)
    closed = SPACE.decode(shaken, smooth=True, loop=True)
    torch.testing.assert_close(turned.rotations[40:, 1:], closed.rotations[:-40, 1:])


def test_loops_close_on_the_floor() -> None:
    features = walking(frames=300)
    assert SPACE.decode(features).translation[-1].norm() > 10
    motion = SPACE.decode(features, loop=True)
    steps = motion.translation.diff(dim=0).norm(dim=1)
    closing = (motion.translation[0] - motion.translation[-1]).norm()
    assert abs(float(closing) - 0.04) < 1e-3 and (steps - 0.04).abs().max() < 1e-3
    turn = motion.heading[0] - motion.heading[-1]
    assert abs(math.remainder(float(turn) - float(motion.heading[1] - motion.heading[0]), 2 * math.pi)) < 1e-6


def test_spaces_come_back_from_json() -> None:
    for space in (SPACE, fitted(12)):
        assert FeatureSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    broken = SPACE.to_json()
    for key, value in (("joints", [99]), ("fps", "x"), ("mean", [1.0]), ("basis", [[1.0]]), ("skeleton", 3)):
        with pytest.raises(ValueError, match=r"FeatureSpace\.from_json: about must be what to_json gave"):
            FeatureSpace.from_json({**broken, key: value})


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"encode: motion must have 9 joints at 30 fps, got 9 at 60"):
        SPACE.encode(wandering(fps=60.0))
    with pytest.raises(ValueError, match=r"decode: features must be \[48, T\]"):
        SPACE.decode(torch.zeros(3, 4))
