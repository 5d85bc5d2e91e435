# SPDX-License-Identifier: Apache-2.0
"""A skeleton, a motion of it, and where its joints are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.kinematics.rotations import yaw

__all__ = ["Motion", "Skeleton", "forward_kinematics", "mirrored"]


@dataclass(frozen=True)
class Skeleton:
    """Joints and bones; bones have one length for all time.

    Attributes:
        names: of the joints, all different; parents stand before their children.
        parents: index of each joint's parent, -1 for the first joint, the root.
        offsets: per joint, its place relative to its parent (x, y, z) in metres, y up, at rest facing +z.
        tips: indices of joints without children or rotation, which BVH calls End Site.

    Raises:
        ValueError: lengths that differ, no joint, a parent after its child, or a second root.

    Example:
        >>> Skeleton(("hips", "head"), (-1, 0), ((0, 0, 0), (0, 0.6, 0))).lengths
        (0.0, 0.6)
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: tuple[tuple[float, float, float], ...]
    tips: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Check the tree."""
        if not len(self.names) == len(self.parents) == len(self.offsets) or not self.names:
            raise ValueError(
                "Skeleton: names, parents and offsets must have one entry per joint, got "
                f"{len(self.names)}, {len(self.parents)} and {len(self.offsets)}. Give at least the root."
            )
        if self.parents[0] != -1 or any(not 0 <= p < j for j, p in enumerate(self.parents) if j):
            raise ValueError(
                "Skeleton: parents must be -1 for the first joint and smaller than the index of every other, "
                f"got {self.parents[:8]}. Put parents before their children."
            )

    @property
    def lengths(self) -> tuple[float, ...]:
        """Length of the bone to each joint, in metres."""
        return tuple(sum(c * c for c in offset) ** 0.5 for offset in self.offsets)


@dataclass(frozen=True)
class Motion:
    """A skeleton in motion.

    Attributes:
        skeleton: its joints.
        rotations: `[T, J, 3, 3]` floating, of each joint relative to its parent, for column vectors.
        translation: `[T, 3]` of the root in metres.
        fps: frames per second.

    Raises:
        ValueError: shapes that do not fit the skeleton, no frame, or `fps` not positive.
    """

    skeleton: Skeleton
    rotations: Tensor
    translation: Tensor
    fps: float

    def __post_init__(self) -> None:
        """Check the shapes."""
        wanted = (self.translation.shape[0], len(self.skeleton.names), 3, 3)
        if tuple(self.rotations.shape) != wanted or self.translation.shape[1:] != (3,) or not wanted[0]:
            raise ValueError(
                f"Motion: rotations must be [T, {wanted[1]}, 3, 3] and translation [T, 3], T > 0, got "
                f"{tuple(self.rotations.shape)} and {tuple(self.translation.shape)}. Give each frame both."
            )
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"Motion: fps must be positive and finite, got {self.fps}. Use e.g. 30.")

    def __len__(self) -> int:
        return self.translation.shape[0]

    @property
    def positions(self) -> Tensor:
        """`[T, J, 3]` places of the joints in metres."""
        return forward_kinematics(self.skeleton, self.rotations, self.translation)

    @property
    def heading(self) -> Tensor:
        """`[T]` angle about y, in radians, that the hips face: 0 faces +z, a quarter turn +x."""
        side = self.rotations[:, 0, :, 0]
        return torch.atan2(-side[:, 2], side[:, 0])

    def cropped(self, start: int, stop: int) -> Motion:
        """Frames `start` to `stop`, as in a slice."""
        return dataclasses.replace(
            self, rotations=self.rotations[start:stop], translation=self.translation[start:stop]
        )

    def placed(self, *, x: float = 0.0, z: float = 0.0, heading: float = 0.0) -> Motion:
        """The same motion, begun at this place of the floor, facing this way."""
        turn = yaw(heading - self.heading[0])
        first = self.translation[0] * torch.tensor([1.0, 0.0, 1.0], dtype=self.translation.dtype)
        start = torch.tensor([x, 0.0, z], dtype=self.translation.dtype)
        rotations = self.rotations.clone()
        rotations[:, 0] = turn @ rotations[:, 0]
        return dataclasses.replace(
            self, rotations=rotations, translation=(self.translation - first) @ turn.T + start
        )


def forward_kinematics(skeleton: Skeleton, rotations: Tensor, translation: Tensor) -> Tensor:
    """Places of all joints: `x_j = x_parent + R_parent offset_j`, `R_j = R_parent local_j`.

    Args:
        skeleton: joints, parents and offsets.
        rotations: `[..., J, 3, 3]` relative to the parents, for column vectors.
        translation: `[..., 3]` of the root, to which its offset is added.

    Returns:
        `[..., J, 3]` in the unit of the offsets.

    Note:
        Differentiable in rotations and translation; in their dtype, on their device.

    Example:
        >>> arm = Skeleton(("a", "b"), (-1, 0), ((0, 0, 0), (0, 1, 0)))
        >>> forward_kinematics(arm, torch.eye(3).expand(2, 3, 3), torch.zeros(3))[1].tolist()
        [0.0, 1.0, 0.0]
    """
    offsets = torch.tensor(skeleton.offsets, dtype=rotations.dtype, device=rotations.device)
    turns, places = [rotations[..., 0, :, :]], [translation + offsets[0]]
    for joint, parent in enumerate(skeleton.parents[1:], 1):
        places.append(places[parent] + (turns[parent] @ offsets[joint][:, None]).squeeze(-1))
        turns.append(turns[parent] @ rotations[..., joint, :, :])
    return torch.stack(places, -2)


def mirrored(motion: Motion) -> Motion:
    """The motion seen in a mirror: `Left` joints move as `Right` ones did, and x is negated.

    Args:
        motion: of a skeleton whose paired joints are named `Left...` and `Right...`, or `L...` and `R...`.

    Returns:
        A motion of the same skeleton, exact where that is symmetric.

    Example:
        >>> pair = Skeleton(("hips", "LeftLeg", "RightLeg"), (-1, 0, 0), ((0, 0, 0), (1, 0, 0), (-1, 0, 0)))
        >>> mirrored(Motion(pair, torch.eye(3).expand(1, 3, 3, 3), torch.ones(1, 3), 30)).translation.tolist()
        [[-1.0, 1.0, 1.0]]
    """
    names = motion.skeleton.names
    swap = {"Left": "Right", "Right": "Left", "L": "R", "R": "L"}
    order = []
    for index, name in enumerate(names):
        others = [swap[side] + name.removeprefix(side) for side in swap if name.startswith(side)]
        order.append(next((names.index(other) for other in others if other in names), index))
    sign = torch.tensor([-1.0, 1.0, 1.0], dtype=motion.rotations.dtype)
    rotations = motion.rotations[:, order] * sign[:, None] * sign
    return dataclasses.replace(motion, rotations=rotations, translation=motion.translation * sign)
