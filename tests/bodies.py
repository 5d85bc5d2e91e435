# SPDX-License-Identifier: Apache-2.0
"""A small body and random motions of it."""

from __future__ import annotations

import torch
from intarsia.kinematics import Motion, Skeleton, from_rotvec

BODY = Skeleton(
    (
        "Hips",
        "LeftUpLeg",
        "LeftFoot",
        "LeftFootEnd",
        "RightUpLeg",
        "RightFoot",
        "RightFootEnd",
        "Spine",
        "Head",
    ),
    (-1, 0, 1, 2, 0, 4, 5, 0, 7),
    (
        (0.0, 0.0, 0.0),
        (0.1, -0.1, 0.0),
        (0.0, -0.8, 0.0),
        (0.0, -0.05, 0.15),
        (-0.1, -0.1, 0.0),
        (0.0, -0.8, 0.0),
        (0.0, -0.05, 0.15),
        (0.0, 0.3, 0.0),
        (0.0, 0.3, 0.02),
    ),
    frozenset({3, 6}),
)


def wandering(frames: int = 40, *, seed: int = 0, fps: float = 30.0) -> Motion:
    """A smooth random motion; tips do not rotate."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.3 * torch.rand(len(BODY.names), 3, generator=generator, dtype=torch.float64)
    time = torch.arange(frames, dtype=torch.float64)[:, None, None] / fps
    rotvec = 0.5 * torch.sin(4 * time + phase)
    rotvec[:, 0, 1] += 2 * time[:, 0, 0]
    rotvec[:, sorted(BODY.tips)] = 0
    place = torch.stack([time[:, 0, 0], 0.9 + 0.05 * torch.sin(5 * time[:, 0, 0]), time[:, 0, 0] ** 2], 1)
    return Motion(BODY, from_rotvec(rotvec), place, fps)
