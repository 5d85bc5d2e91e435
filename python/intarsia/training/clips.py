# SPDX-License-Identifier: Apache-2.0
"""Clips of motion capture for training: cleaned, mirrored, split, drawn by action."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from intarsia.kinematics import FeatureSpace, Motion, mirrored

__all__ = ["MotionClips"]

_FEET = ("LeftFoot", "LeftToeBase", "RightFoot", "RightToeBase")


def _upright(clip: Motion, *, least: int) -> list[Motion]:
    """The stretches of a clip in which the heading is well defined: upright, and turning like a person."""
    turn = clip.heading.diff(prepend=clip.heading[:1])
    turn = (torch.remainder(turn + torch.pi, 2 * torch.pi) - torch.pi).abs() * clip.fps
    good = (clip.rotations[:, 0, 1, 1] > 0.6) & (turn < 8)
    edges = [0, *((~good).nonzero()[:, 0] + 1).tolist(), len(clip) + 1]
    return [clip.cropped(a, b - 1) for a, b in zip(edges, edges[1:], strict=False) if b - 1 - a >= least]


def _continued(features: Tensor, length: int, blend: int = 6) -> Tensor:
    """A short clip `[F, T]` of a cyclic action, gone on with its best cycle until it has `length` frames."""
    if features.shape[1] >= length:
        return features
    windows = features.unfold(1, blend, 1).permute(1, 0, 2).flatten(1)
    distance, index = torch.cdist(windows, windows), torch.arange(len(windows))
    distance[index - index[:, None] < 12] = torch.inf
    first, second = divmod(int(distance.argmin()), len(windows))
    share = torch.linspace(0, 1, blend + 2, dtype=features.dtype)[1:-1]
    joint = torch.lerp(features[:, second : second + blend], features[:, first : first + blend], share)
    cycle = torch.cat([joint, features[:, first + blend : second]], 1)
    times = -(-(length - second) // cycle.shape[1])
    return torch.cat([features[:, :second], *[cycle] * times], 1)


class MotionClips:
    """Windows of clips as features, drawn with equal attention to rare actions.

    Args:
        clips: the motion, its action, and whether it is held out; all of one skeleton at one rate.
        feet: names of the joints that touch the floor.
        sizes: lengths of windows in frames, the longest first.
        channels: features per frame, see `FeatureSpace.fitted`.
        space: the features of a model; None fits them to the training clips.
        balance: actions are drawn in proportion to their frames to this power: 1 as they are, 0 all alike.

    Attributes:
        actions: names in class order, from class 1.
        space: the features, fitted to the training clips.

    Raises:
        ValueError: no clip to train on.
    """

    def __init__(
        self,
        clips: Sequence[tuple[Motion, str, bool]],
        *,
        feet: Sequence[str] = _FEET,
        sizes: tuple[int, ...] = (64, 32),
        channels: int = 64,
        balance: float = 0.3,
        space: FeatureSpace | None = None,
    ) -> None:
        if not clips or all(held for _, _, held in clips):
            raise ValueError("MotionClips: clips must hold one to train on, got none. Check the file.")
        self.sizes = sizes
        self.actions = tuple(sorted({action for _, action, _ in clips}))
        skeleton, fps = clips[0][0].skeleton, clips[0][0].fps
        spread = torch.cat([clip.rotations for clip, _, _ in clips]).std(0).amax((-1, -2))
        joints = tuple(j for j in range(len(skeleton.names)) if spread[j] > 1e-2 or j == 0)
        standing = tuple(skeleton.names.index(name) for name in feet if name in skeleton.names)
        plainly = FeatureSpace(skeleton, joints, standing, fps)
        parts: dict[bool, list[tuple[Motion, int]]] = {False: [], True: []}
        for clip, action, held in self._split(list(clips)):
            for piece in _upright(clip, least=sizes[-1] + 4):
                for side in (piece, mirrored(piece)):
                    parts[held].append((side, self.actions.index(action) + 1))
        plain = {
            held: [(plainly.encode(clip), label) for clip, label in some] for held, some in parts.items()
        }
        self.space = space or plainly.fitted([clip for clip, _ in plain[False]], channels=channels)
        self._clips = {
            held: [(_continued(self.space.encode(clip), sizes[0] + 8).float(), label) for clip, label in some]
            for held, some in parts.items()
        }
        frames = torch.zeros(len(self.actions) + 1)
        for features, label in self._clips[False]:
            frames[label] += features.shape[1]
        self._chances = (frames**balance * (frames > 0)).double().numpy()
        self._chances /= self._chances.sum()

    def _split(self, clips: list[tuple[Motion, str, bool]]) -> list[tuple[Motion, str, bool]]:
        """Give every action both parts: where one is missing, the last fifth of its last clip is held out."""
        result = list(clips)
        for action in self.actions:
            own = [index for index, clip in enumerate(clips) if clip[1] == action]
            if len({clips[index][2] for index in own}) == 1:
                motion = clips[own[-1]][0]
                cut = len(motion) * 4 // 5
                for index in own:
                    result[index] = (clips[index][0], action, False)
                result[own[-1]] = (motion.cropped(0, cut), action, False)
                result.append((motion.cropped(cut, len(motion)), action, True))
        return result

    def batch(self, count: int, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random training windows `[count, F, size]` and their classes `[count]`."""
        windows, labels = [], []
        for label in rng.choice(len(self._chances), count, p=self._chances):
            own = [clip for clip, known in self._clips[False] if known == label and clip.shape[1] >= size]
            room = np.array([clip.shape[1] - size + 1 for clip in own], dtype=float)
            clip = own[rng.choice(len(own), p=room / room.sum())]
            start = int(rng.integers(clip.shape[1] - size + 1))
            windows.append(clip[:, start : start + size])
            labels.append(int(label))
        return torch.stack(windows), torch.tensor(labels)

    def windows(self, size: int, *, held: bool = True, stride: int | None = None) -> tuple[Tensor, Tensor]:
        """All windows `[N, F, size]` of the held-out clips (or the others) at a stride, and their classes."""
        windows, labels = [], []
        for clip, label in self._clips[held]:
            for start in range(0, clip.shape[1] - size + 1, stride or size // 2):
                windows.append(clip[:, start : start + size])
                labels.append(label)
        return torch.stack(windows), torch.tensor(labels)
