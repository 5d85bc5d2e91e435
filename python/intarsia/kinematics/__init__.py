# SPDX-License-Identifier: Apache-2.0
"""Skeletons: where joints are, rotations in their forms, and motion as numbers for a network."""

from intarsia.kinematics.features import FeatureSpace
from intarsia.kinematics.rotations import (
    from_euler,
    from_rotvec,
    from_six,
    to_euler,
    to_rotvec,
    to_six,
    yaw,
)
from intarsia.kinematics.skeleton import Motion, Skeleton, forward_kinematics, mirrored

__all__ = [
    "FeatureSpace",
    "Motion",
    "Skeleton",
    "forward_kinematics",
    "from_euler",
    "from_rotvec",
    "from_six",
    "mirrored",
    "to_euler",
    "to_rotvec",
    "to_six",
    "yaw",
]
