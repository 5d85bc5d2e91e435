# SPDX-License-Identifier: Apache-2.0
"""Clips of motion capture, with the action that each shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from intarsia.kinematics import Motion, Skeleton, from_rotvec
from intarsia.media.image import MediaError
from intarsia.media.motion.npz import open_npz

__all__ = ["Clip", "read_clips"]

_NAMES = (
    "Hips LHipJoint LeftUpLeg LeftLeg LeftFoot LeftToeBase LeftToeEnd RHipJoint RightUpLeg RightLeg "
    "RightFoot RightToeBase RightToeEnd LowerBack Spine Spine1 Neck Neck1 Head HeadEnd LeftShoulder LeftArm "
    "LeftForeArm LeftHand LeftFingerBase LeftHandIndex1 LeftHandEnd LThumb LThumbEnd RightShoulder RightArm "
    "RightForeArm RightHand RightFingerBase RightHandIndex1 RightHandEnd RThumb RThumbEnd"
).split()


@dataclass(frozen=True)
class Clip:
    """A stretch of motion capture.

    Attributes:
        motion: float64, the floor at height 0.
        action: what is done.
        held: whether the clip is held out from training.
    """

    motion: Motion
    action: str
    held: bool


def read_clips(path: str | Path) -> list[Clip]:
    """Read clips of the CMU motion capture set.

    Args:
        path: an npz file with `expmap [N, 117]` (root translation in metres, then 38 exponential maps, for
            row vectors), `clip_start [K + 1]`, `clip_action [K]`, `clip_split [K]` (train or test),
            `parents38 [38]`, `offsets38_m [38, 3]` and `fps`.

    Returns:
        The clips in the order of the file, at its rate.

    Raises:
        MediaError: a damaged file, or one without these arrays.
        OSError: a file that cannot be opened.
    """
    arrays = open_npz(path, text=("clip_action", "clip_split"))
    try:
        expmap = torch.from_numpy(arrays["expmap"]).double()
        parents = tuple(map(int, arrays["parents38"].tolist()))
        offsets = tuple((float(x), float(y), float(z)) for x, y, z in arrays["offsets38_m"].tolist())
        tips = frozenset(range(len(parents))) - frozenset(parents)
        skeleton = Skeleton(tuple(_NAMES), parents, offsets, tips)
        # Row vectors rotate the other way round.
        rotations = from_rotvec(-expmap[:, 3:].unflatten(1, (len(parents), 3)))
        whole = Motion(skeleton, rotations, expmap[:, :3].clone(), float(arrays["fps"]))
        starts, actions = arrays["clip_start"].tolist(), arrays["clip_action"].tolist()
        splits = arrays["clip_split"].tolist()
        clips = []
        for start, stop, action, split in zip(starts[:-1], starts[1:], actions, splits, strict=True):
            motion = whole.cropped(start, stop)
            motion.translation[:, 1] -= motion.positions[..., 1].amin(1).quantile(0.1)
            clips.append(Clip(motion, str(action), split == "test"))
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise MediaError(
            f"read_clips: path must be a clip file of the CMU set, got {str(path)!r} ({error!s:.80}). "
            "The model's card says where it comes from."
        ) from error
    return clips
