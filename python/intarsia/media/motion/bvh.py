# SPDX-License-Identifier: Apache-2.0
"""BVH files: read with limits, written so that Blender and its like accept them."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from intarsia.kinematics.rotations import from_euler, to_euler
from intarsia.kinematics.skeleton import Motion, Skeleton
from intarsia.media.files import atomic_file
from intarsia.media.image import MediaError

__all__ = ["read_bvh", "write_bvh"]

_MAX_BYTES, _MAX_JOINTS, _MAX_DEPTH, _MAX_HEADER = 2**28, 1024, 128, 2**20
_CHANNELS = frozenset(f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation"))


def _refuse(requirement: str, got: object, remedy: str = "Export it again as BVH.") -> MediaError:
    return MediaError(f"read_bvh: path must {requirement}, got {got!s:.80}. {remedy}")


@dataclass
class _Tree:
    """The hierarchy as it is read."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[tuple[float, ...]] = field(default_factory=list)
    channels: list[list[str]] = field(default_factory=list)
    tips: set[int] = field(default_factory=set)

    def add(self, name: str, parent: int, *, tip: bool = False) -> int:
        """A new joint; a name that is taken gets a number."""
        if len(self.names) >= _MAX_JOINTS:
            raise _refuse(f"have at most {_MAX_JOINTS} joints", "more")
        known, wanted, count = set(self.names), name, 2
        while name in known:
            name, count = f"{wanted}{count}", count + 1
        if tip:
            self.tips.add(len(self.names))
        self.names.append(name)
        self.parents.append(parent)
        self.offsets.append((0.0, 0.0, 0.0))
        self.channels.append([])
        return len(self.names) - 1


def _numbers(words: list[str], count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in words)
    except ValueError as error:
        raise _refuse("hold numbers", error) from error
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise _refuse(f"hold {count} finite numbers here", " ".join(words))
    return values


def _hierarchy(text: str) -> _Tree:
    tree, stack = _Tree(), list[int]()
    fresh: int | None = None
    for line in re.sub(r"([{}])", r"\n\1\n", text).splitlines():
        words = line.split()
        if not words or words == ["HIERARCHY"]:
            continue
        match words[0].upper():
            case "ROOT" | "JOINT" | "END":
                first = words[0].upper() == "ROOT"
                if (first and tree.names) or (not first and not stack) or fresh is not None:
                    raise _refuse("have one root, and joints inside it", line.strip())
                tip = words[0].upper() == "END"
                parent = stack[-1] if stack else -1
                name = f"{tree.names[parent]}End" if tip else " ".join(words[1:]) or "joint"
                fresh = tree.add(name, parent, tip=tip)
            case "{":
                if fresh is None or len(stack) >= _MAX_DEPTH:
                    raise _refuse(f"open a brace after a joint, at most {_MAX_DEPTH} deep", "another")
                stack.append(fresh)
                fresh = None
            case "}":
                if not stack or fresh is not None:
                    raise _refuse("have balanced braces", "one too many")
                stack.pop()
            case "OFFSET" if stack:
                tree.offsets[stack[-1]] = _numbers(words[1:], 3)
            case "CHANNELS" if stack and len(words) > 1 and words[1] == str(len(words) - 2):
                found = [word[:1].upper() + word[1:].lower() for word in words[2:]]
                if not set(found) <= _CHANNELS or len(set(found)) != len(found):
                    raise _refuse("have channels of positions and rotations", line.strip())
                tree.channels[stack[-1]] = found
            case _:
                raise _refuse("have a hierarchy of joints", line.strip())
    if stack or fresh is not None or not tree.names:
        raise _refuse("have a whole hierarchy", "the end of the file")
    return tree


def read_bvh(path: str | os.PathLike[str], *, unit: float = 1.0) -> Motion:
    """Read a BVH file.

    Args:
        path: the file.
        unit: metres per unit of the file, which does not state it: 1 for `write_bvh` and Blender's default,
            0.01 for centimetres, 0.0254 / 0.45 for CMU's own conversions.

    Returns:
        The motion, in float64. End Sites are its tips, but for those of no length.

    Raises:
        MediaError: a file that is damaged, too large, or that moves joints other than the root.
        OSError: a file that cannot be opened.

    Note:
        What the header claims is compared with the size of the file before memory is taken.
    """
    if not 0 < unit < math.inf:
        raise ValueError(f"read_bvh: unit must be positive and finite, got {unit}. Use 1 for metres.")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_MAX_HEADER)
        match = re.search(
            rb"MOTION\s+Frames:\s*(\d{1,18})\s+Frame\s+Time:\s*(\S{1,40})[ \t]*\r?\n?", head, re.I
        )
        if size > _MAX_BYTES or match is None or not head.lstrip()[:9].upper() == b"HIERARCHY":
            raise _refuse(f"be a BVH file of at most {_MAX_BYTES:,} bytes", f"another, of {size:,}")
        tree = _hierarchy(head[: match.start()].decode("utf-8", "replace"))
        frames, width = int(match[1]), sum(map(len, tree.channels))
        (interval,) = _numbers([match[2].decode("ascii", "replace")], 1)
        if not frames or not width or interval <= 0:
            raise _refuse("have frames, channels and a frame time", f"{frames} x {width}, {interval}")
        # Each number takes a digit and a space, save the last.
        if frames * width * 2 - 1 > size - match.end():
            raise _refuse("hold the frames its header claims", f"{frames} frames in {size:,} bytes")
        file.seek(match.end())
        words = file.read().split()
    if len(words) != frames * width:
        raise _refuse(f"hold {frames} frames of {width} numbers", f"{len(words)} numbers")
    try:
        table = torch.from_numpy(np.array(words, dtype="S32").astype(np.float64)).reshape(frames, width)
    except ValueError as error:
        raise _refuse("hold numbers", error) from error
    if not table.isfinite().all():
        raise _refuse("hold finite numbers", "others")
    # Files round the frame time: .0333 means 30 frames a second.
    fps = 1 / interval
    whole = round(fps)
    return _motion(tree, table, fps=whole if abs(fps - whole) < 2e-4 * fps else fps, unit=unit)


def _motion(tree: _Tree, table: Tensor, *, fps: float, unit: float) -> Motion:
    rotations = torch.eye(3, dtype=torch.float64).repeat(len(table), len(tree.names), 1, 1)
    translation, start = torch.zeros(len(table), 3, dtype=torch.float64), 0
    for joint, channels in enumerate(tree.channels):
        own = table[:, start : start + len(channels)]
        start += len(channels)
        turns = [index for index, name in enumerate(channels) if name.endswith("rotation")]
        order = "".join(channels[index][0] for index in turns)
        rotations[:, joint] = from_euler(own[:, turns].deg2rad(), order=order)
        moves = {"XYZ".index(name[0]): i for i, name in enumerate(channels) if name.endswith("position")}
        if joint == 0:
            for axis, index in moves.items():
                translation[:, axis] = own[:, index] * unit
        elif moves:
            place = own[:, [moves[axis] for axis in sorted(moves)]]
            if len(moves) < 3 or (place - place[0]).abs().max() > 1e-3 * place[0].norm().clamp_min(1e-9):
                raise _refuse("keep its bones' lengths", f"a joint that moves, {tree.names[joint]!r}")
            tree.offsets[joint] = tuple(place[0].tolist())
    keep = [j for j in range(len(tree.names)) if j not in tree.tips or any(tree.offsets[j])]
    where = {old: new for new, old in enumerate(keep)} | {-1: -1}
    skeleton = Skeleton(
        tuple(tree.names[j] for j in keep),
        tuple(where[tree.parents[j]] for j in keep),
        tuple((x * unit, y * unit, z * unit) for x, y, z in (tree.offsets[j] for j in keep)),
        frozenset(where[j] for j in tree.tips if j in where),
    )
    return Motion(skeleton, rotations[:, keep], translation, fps)


def write_bvh(motion: Motion, path: str | os.PathLike[str], *, unit: float = 1.0) -> None:
    """Write a motion as a BVH file, whole or not at all.

    The root has six channels, every other joint three rotations in the order Z, Y, X; y is up. BVH cannot say
    its unit: readers take it for metres (Blender) unless told otherwise. Bones keep their lengths.

    Args:
        motion: what to write.
        path: destination.
        unit: metres per unit of the file; 0.01 writes centimetres.

    Raises:
        ValueError: numbers that are not finite, or a unit that is not positive.
    """
    if not 0 < unit < math.inf:
        raise ValueError(f"write_bvh: unit must be positive and finite, got {unit}. Use 1 for metres.")
    if not (motion.rotations.isfinite().all() and motion.translation.isfinite().all()):
        raise ValueError("write_bvh: motion must be finite, got NaN or infinity. Sample it in float32.")
    skeleton = motion.skeleton
    children: dict[int, list[int]] = {}
    for joint, parent in enumerate(skeleton.parents):
        children.setdefault(parent, []).append(joint)
    lines, order = ["HIERARCHY"], []

    def offset(joint: int) -> str:
        return "OFFSET " + " ".join(f"{c / unit:.6f}" for c in skeleton.offsets[joint])

    def put(joint: int, depth: int) -> None:
        pad, inner = "\t" * depth, "\t" * (depth + 1)
        order.append(joint)
        name = re.sub(r"[{}\s]+", "_", skeleton.names[joint])
        place = "Xposition Yposition Zposition " if depth == 0 else ""
        lines.extend(
            [
                f"{pad}{'JOINT' if depth else 'ROOT'} {name}",
                pad + "{",
                inner + (offset(joint) if depth else "OFFSET 0.000000 0.000000 0.000000"),
                f"{inner}CHANNELS {3 if depth else 6} {place}Zrotation Yrotation Xrotation",
            ]
        )
        below = children.get(joint, [])
        if len(below) == 1 and below[0] in skeleton.tips or not below:
            end = offset(below[0]) if below else "OFFSET 0.000000 0.000000 0.000000"
            lines.extend([inner + "End Site", inner + "{", f"{inner}\t{end}", inner + "}"])
        else:
            for child in below:
                put(child, depth + 1)
        lines.append(pad + "}")

    put(0, 0)
    angles = to_euler(motion.rotations.detach().double().cpu())[:, order].rad2deg().flatten(1)
    root = torch.tensor(skeleton.offsets[0], dtype=torch.float64)
    place = (motion.translation.detach().double().cpu() + root) / unit
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.8f}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in torch.cat([place, angles], 1).tolist()]
    with atomic_file(Path(path)) as file:
        file.write(("\n".join(lines) + "\n").encode())
