# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import BODY, wandering
from intarsia.kinematics import Motion, Skeleton, forward_kinematics, from_rotvec, mirrored

DATA = Path(os.environ.get("INTARSIA_DATA", "absent")) / "cmu-motion"


def test_bones_hang_on_their_parents() -> None:
    arm = Skeleton(("a", "b", "c"), (-1, 0, 1), ((0, 0, 0), (1, 0, 0), (1, 0, 0)))
    quarter = from_rotvec(torch.tensor([[0.0, 0.0, math.pi / 2]] * 3, dtype=torch.float64))
    places = forward_kinematics(arm, quarter, torch.zeros(3, dtype=torch.float64))
    expected = torch.tensor([[0.0, 0, 0], [0, 1, 0], [-1, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(places, expected, atol=1e-12, rtol=0)


def test_bones_keep_their_lengths() -> None:
    places = wandering().positions
    parents = list(BODY.parents[1:])
    lengths = (places[:, 1:] - places[:, parents]).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor(BODY.lengths[1:]).double().expand_as(lengths))


def test_kinematics_have_gradients() -> None:
    motion = wandering(3)
    rotations = motion.rotations.requires_grad_(True)
    forward_kinematics(BODY, rotations, motion.translation).square().sum().backward()
    assert rotations.grad is not None and rotations.grad.isfinite().all()


@pytest.mark.skipif(not DATA.is_dir(), reason="INTARSIA_DATA names no folder with cmu-motion")
def test_places_are_those_of_the_data_set() -> None:
    with np.load(DATA / "cmu_motion_30fps.npz") as file:
        expmap = torch.from_numpy(file["expmap"][::17]).double()
        offsets = tuple(map(tuple, file["offsets38_m"].tolist()))
        skeleton = Skeleton(tuple(map(str, range(38))), tuple(file["parents38"].tolist()), offsets)
        # The set writes rotations for row vectors, which turn the other way round.
        motion = Motion(skeleton, from_rotvec(-expmap[:, 3:].unflatten(1, (38, 3))), expmap[:, :3], 30.0)
        expected = torch.from_numpy(file["joints"][::17]).double()
        assert (motion.positions[:, file["kept_joints"]] - expected).abs().max() < 1e-6


def test_placing_moves_the_whole() -> None:
    motion = wandering()
    placed = motion.placed(x=2.0, z=-1.0, heading=0.5)
    torch.testing.assert_close(placed.translation[0, [0, 2]], torch.tensor([2.0, -1.0]).double())
    torch.testing.assert_close(placed.heading[0], torch.tensor(0.5).double())

    def distances(m: Motion) -> torch.Tensor:
        return torch.cdist(m.positions.flatten(0, 1), m.positions.flatten(0, 1))

    torch.testing.assert_close(distances(placed), distances(motion))


def test_a_mirror_exchanges_the_sides() -> None:
    motion = wandering()
    twice = mirrored(mirrored(motion))
    torch.testing.assert_close(twice.rotations, motion.rotations)
    seen, names = mirrored(motion).positions, BODY.names
    expected = motion.positions * torch.tensor([-1.0, 1.0, 1.0])
    for name in names:
        other = name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
        torch.testing.assert_close(seen[:, names.index(name)], expected[:, names.index(other)])
    torch.testing.assert_close(mirrored(motion).heading, -motion.heading)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"Skeleton: parents must be -1 for the first"):
        Skeleton(("a", "b"), (-1, 1), ((0, 0, 0), (0, 0, 0)))
    with pytest.raises(ValueError, match=r"Skeleton: names, parents and offsets must have one entry"):
        Skeleton((), (), ())
    with pytest.raises(ValueError, match=r"Motion: rotations must be \[T, 9, 3, 3\]"):
        Motion(BODY, torch.zeros(2, 3, 3, 3), torch.zeros(2, 3), 30)
    with pytest.raises(ValueError, match=r"Motion: fps must be positive"):
        Motion(BODY, torch.zeros(2, 9, 3, 3), torch.zeros(2, 3), 0)
