# SPDX-License-Identifier: Apache-2.0
"""Motion as numbers that a network can learn and a composite can join anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intarsia.kinematics.rotations import from_six, to_six, yaw
from intarsia.kinematics.skeleton import Motion, Skeleton

__all__ = ["FeatureSpace"]


def _rounded(values: Tensor) -> tuple[float, ...]:
    """Eight digits are enough, and short in a file."""
    return tuple(float(f"{value:.8g}") for value in values.tolist())


def _smoothed(features: Tensor, loop: bool) -> Tensor:
    kernel = torch.tensor([-2.0, 3, 6, 7, 6, 3, -2], dtype=torch.float64) / 21
    if loop:
        padded = torch.cat([features[:, -3:], features, features[:, :3]], 1)
        return torch.nn.functional.conv1d(padded[:, None], kernel[None, None])[:, 0]
    if features.shape[1] < 7:
        return features
    middle = torch.nn.functional.conv1d(features[:, None], kernel[None, None])[:, 0]
    return torch.cat([features[:, :3], middle, features[:, -3:]], 1)


@dataclass(frozen=True)
class FeatureSpace:
    """Per frame: turn, ground velocity, height, rotations in 6-D, foot contacts.

    The turn (rad/s) and velocity (x, z in m/s, in the frame of the heading) lead from the frame before; the
    root's rotation is relative to its heading. So the numbers do not say where on the floor a motion
    is nor where it faces: windows can be joined at any place, and a loop closes in them without a return to
    the start. Lengths of bones are no part of them, so decoding cannot change a bone.

    Attributes:
        skeleton: whose motion it is.
        joints: joints that rotate, the root (0) first; all others keep the rotation of rest.
        feet: joints whose contact with the floor is told, 1 or 0.
        fps: frames per second.
        mean: per number, taken off; none: 0. See `fitted`.
        scale: per number, divided by; none: 1.
        basis: orthonormal rows: the directions that are kept, most varied first; none: all numbers.

    Example:
        >>> arm = Skeleton(("hips", "tip"), (-1, 0), ((0, 0, 0), (0, 1, 0)))
        >>> space = FeatureSpace(arm, joints=(0,), feet=(1,), fps=30.0)
        >>> still = Motion(arm, torch.eye(3).expand(9, 2, 3, 3), torch.zeros(9, 3), 30.0)
        >>> space.encode(still).shape
        torch.Size([11, 9])
    """

    skeleton: Skeleton
    joints: tuple[int, ...]
    feet: tuple[int, ...]
    fps: float
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    basis: tuple[tuple[float, ...], ...] = ()

    @property
    def numbers(self) -> int:
        """Numbers that describe a frame."""
        return 4 + 6 * len(self.joints) + len(self.feet)

    @property
    def channels(self) -> int:
        """Features of a frame: the kept directions of its numbers."""
        return len(self.basis) or self.numbers

    def encode(self, motion: Motion) -> Tensor:
        """Features of a motion.

        Args:
            motion: of this skeleton, at this rate.

        Returns:
            `[F, T]` in the dtype of the motion. The first frame's turn and velocity are those of the second.

        Raises:
            ValueError: another skeleton size or rate.
        """
        if len(motion.skeleton.names) != len(self.skeleton.names) or abs(motion.fps - self.fps) > 1e-3:
            raise ValueError(
                f"FeatureSpace.encode: motion must have {len(self.skeleton.names)} joints at {self.fps:g} "
                f"fps, got {len(motion.skeleton.names)} at {motion.fps:g}. Retarget or resample it first."
            )
        heading = motion.heading
        back = yaw(-heading)
        step = motion.translation.diff(dim=0, prepend=motion.translation[:1])
        velocity = (back @ step[:, :, None])[:, [0, 2], 0] * self.fps
        turn = torch.remainder(heading.diff(prepend=heading[:1]) + torch.pi, 2 * torch.pi) - torch.pi
        turn = turn[:, None] * self.fps
        rotations = motion.rotations[:, list(self.joints)].clone()
        rotations[:, 0] = back @ rotations[:, 0]
        parts = [
            turn,
            velocity,
            motion.translation[:, 1:2],
            to_six(rotations).flatten(1),
            self._touch(motion),
        ]
        features = torch.cat(parts, 1)
        if len(motion) > 1:
            features[0, :3] = features[1, :3]
        mean, scale, basis = self._units()
        return (((features - mean) / scale) @ basis.T).T.to(features.dtype).contiguous()

    def decode(
        self, features: Tensor, *, smooth: bool = False, plant: bool = False, loop: bool = False
    ) -> Motion:
        """The motion that features describe, begun at the origin, facing +z.

        Args:
            features: `[F, T]` floating.
            smooth: fit a parabola to every 7 frames and take its middle (Savitzky and Golay 1964), which
                leaves what is slower than about 3 Hz and takes off the trembling that sampling leaves.
            plant: move the root over the floor so that feet in contact stay where they are: the velocity
                becomes what the standing feet ask for, the more the surer their contact is.
            loop: close the path on the floor, too: the turn of each step is changed in proportion to its
                length, so that the whole makes full turns, and what is missing to the start is spread evenly.

        Returns:
            The motion, in float64.

        Raises:
            ValueError: another number of channels, or no frame.

        Note:
            The inverse of `encode` up to place and heading of the first frame, and what the basis leaves out.
        """
        if features.ndim != 2 or features.shape[0] != self.channels or not features.shape[1]:
            raise ValueError(
                f"FeatureSpace.decode: features must be [{self.channels}, T] with T > 0, got "
                f"{tuple(features.shape)}. Pass one motion at a time."
            )
        mean, scale, basis = self._units()
        known = features.detach().double().cpu()
        if smooth:
            known = _smoothed(known, loop)
        rows = (known.T @ basis) * scale + mean
        end = 4 + 6 * len(self.joints)
        turn, move = rows[:, 0] / self.fps, torch.zeros(len(rows), 3, dtype=torch.float64)
        move[:, [0, 2]] = rows[:, 1:3] / self.fps
        rotations = torch.eye(3, dtype=torch.float64).repeat(len(rows), len(self.skeleton.names), 1, 1)
        rotations[:, list(self.joints)] = from_six(rows[:, 4:end].unflatten(1, (-1, 6)))
        if plant and self.feet:
            move = self._planted(rotations, turn, move, rows[:, end:], loop)
        if loop:
            length = move.norm(dim=1)
            missing = (turn.sum() / (2 * torch.pi)).round() * 2 * torch.pi - turn.sum()
            if length.sum() > 4:
                # Without a full turn, a path that leads somewhere cannot come back.
                missing = (
                    missing
                    if missing.abs() > torch.pi / 2 or turn.sum().abs() > 5
                    else missing + 2 * torch.pi
                )
            turn = turn + missing * length / length.sum().clamp_min(1e-9)
        heading = turn.cumsum(0)
        heading = heading - heading[0]
        forth = yaw(heading)
        step = (forth @ move[:, :, None]).squeeze(-1)
        if loop:
            step = step - step.mean(0)
        step[0] = 0
        rotations[:, 0] = forth @ rotations[:, 0]
        translation = step.cumsum(0)
        translation[:, 1] = rows[:, 3]
        return Motion(self.skeleton, rotations, translation, self.fps)

    def fitted(self, clips: Sequence[Tensor], *, channels: int, deviation: float = 0.5) -> FeatureSpace:
        """The space of the directions in which clips vary most, where a number counts by what it moves.

        A rotation is weighed by the reach of the joints that hang on it, the root's own motion and the
        contacts by their deviation; principal directions follow. A network of a given width cannot take noise
        away from more directions than that, and noise in directions that hold no motion is only in its way.

        Args:
            clips: `[F, T]` features of this space without mean, scale and basis.
            channels: directions to keep.
            deviation: of the fitted space's features, root mean square over directions.

        Returns:
            The space.
        """
        frames = torch.cat([clip.double().T for clip in clips])
        mean, spread = frames.mean(0), frames.std(0).clamp_min(1e-6)
        end = 4 + 6 * len(self.joints)
        weight = torch.zeros_like(mean)
        weight[4:end] = self._reach()[list(self.joints)].clamp_min(0.01).repeat_interleave(6)
        moved = (weight * spread).square().sum().sqrt() / (3 * len(self.joints)) ** 0.5
        weight = weight / moved.clamp_min(1e-6)
        weight[[0, 3]] = 1.6 / spread[[0, 3]]
        weight[1:3] = 1.6 / spread[1:3].square().mean().sqrt()
        weight[end:] = 0.8 / spread[end:].mean()
        shown = (frames - mean) * weight
        size, basis = torch.linalg.eigh(shown.T @ shown / len(shown))
        kept = basis[:, -channels:].flip(1).T
        scale = (size[-channels:].mean().sqrt() / deviation) / weight
        return dataclasses.replace(
            self,
            mean=_rounded(mean),
            scale=_rounded(scale),
            basis=tuple(_rounded(row) for row in kept),
        )

    def _reach(self) -> Tensor:
        """`[J]` root mean square distance of all joints to this one, counting those that hang on it."""
        parents, count = self.skeleton.parents, len(self.skeleton.names)
        rest = Motion(
            self.skeleton, torch.eye(3).double().expand(1, count, 3, 3), torch.zeros(1, 3).double(), 1
        )
        places, total = rest.positions[0], torch.zeros(count, dtype=torch.float64)
        for joint in range(count):
            above = parents[joint]
            while above >= 0:
                total[above] += (places[joint] - places[above]).square().sum()
                above = parents[above]
        return (total / count).sqrt()

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        about = dataclasses.asdict(self)
        about["skeleton"]["tips"] = sorted(self.skeleton.tips)
        return about

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> FeatureSpace:
        """The space that `to_json` described.

        Args:
            about: names, numbers and lists of them.

        Returns:
            The space.

        Raises:
            ValueError: anything missing or of another kind.
        """
        try:
            bones = about["skeleton"]
            x = [tuple(map(float, offset)) for offset in bones["offsets"]]
            names = tuple(map(str, bones["names"]))
            skeleton = Skeleton(names, tuple(map(int, bones["parents"])), tuple(x), frozenset(bones["tips"]))  # type: ignore[arg-type]
            space = cls(
                skeleton,
                tuple(map(int, about["joints"])),
                tuple(map(int, about["feet"])),
                float(about["fps"]),
                tuple(map(float, about["mean"])),
                tuple(map(float, about["scale"])),
                tuple(tuple(map(float, row)) for row in about["basis"]),
            )
            lists = (space.mean, space.scale, *(row or (0.0,) for row in space.basis))
            if any(len(numbers) not in (0, space.numbers) for numbers in lists):
                raise ValueError("mean, scale or basis of another length")
            if any(not 0 <= j < len(names) for j in (*space.joints, *space.feet)):
                raise ValueError("a joint that is none")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"FeatureSpace.from_json: about must be what to_json gave, got {error!s:.80}. "
                "Use the model file as it was written."
            ) from error
        return space

    def _units(self) -> tuple[Tensor, Tensor, Tensor]:
        zero, one = (0.0,) * self.numbers, (1.0,) * self.numbers
        basis = (
            torch.tensor(self.basis, dtype=torch.float64) if self.basis else torch.eye(self.numbers).double()
        )
        return (
            torch.tensor(self.mean or zero, dtype=torch.float64),
            torch.tensor(self.scale or one, dtype=torch.float64),
            basis,
        )

    def _touch(self, motion: Motion) -> Tensor:
        """`[T, feet]` 1 where a foot rests: slower than 0.35 m/s and lower than its lowest place + 6 cm."""
        feet = motion.positions[:, list(self.feet)]
        speed = feet.diff(dim=0, prepend=feet[:1]).norm(dim=-1) * self.fps
        low = feet[..., 1] < feet[..., 1].quantile(0.05, dim=0) + 0.06
        return ((speed < 0.35) & low).to(motion.rotations.dtype)

    def _planted(self, rotations: Tensor, turn: Tensor, move: Tensor, contact: Tensor, loop: bool) -> Tensor:
        """Moves of the root, in the frame of the heading, under which feet in contact stand still."""
        still = Motion(self.skeleton, rotations, torch.zeros_like(move), self.fps)
        feet = still.positions[:, list(self.feet)]
        # Seen from the new heading, feet that stood where they were have turned back.
        before = feet.roll(1, 0) @ yaw(-turn).transpose(-1, -2)
        asked = before - feet
        held = ((contact - 0.5) * 4).clamp(0, 1)
        held = torch.minimum(held, held.roll(1, 0))
        if not loop:
            held[0] = 0
        share = held.amax(1, keepdim=True)
        wanted = (held[..., None] * asked).sum(1) / held.sum(1, keepdim=True).clamp_min(1e-6)
        planted = move + share * (wanted - move)
        planted[:, 1] = 0
        return planted
