# SPDX-License-Identifier: Apache-2.0
"""npz files of motion: read with limits and without pickle, written whole or not at all."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intarsia.kinematics.rotations import from_rotvec, to_rotvec
from intarsia.kinematics.skeleton import Motion, Skeleton
from intarsia.media.files import atomic_file
from intarsia.media.image import MediaError

__all__ = ["open_npz", "read_npz", "write_npz"]

_MAX_BYTES, _MAX_ARRAYS = 2**28, 64


def _refuse(path: str | os.PathLike[str], requirement: str, got: object, remedy: str) -> MediaError:
    return MediaError(f"read_npz: path must {requirement}, got {got} in {os.fspath(path)!r}. {remedy}")


def open_npz(
    path: str | os.PathLike[str], *, text: Sequence[str] = (), max_bytes: int = _MAX_BYTES
) -> dict[str, Any]:
    """Read the arrays of an npz file, after its directory and every array's header have been checked.

    Args:
        path: the file.
        text: names of arrays that may hold text; all others hold numbers.
        max_bytes: most bytes of all arrays together, unpacked.

    Returns:
        The arrays by name; those of other kinds, such as text that is not asked for, are left out.

    Raises:
        MediaError: no npz file, damaged, too large, or with arrays of Python objects.
        OSError: a file that cannot be opened.

    Note:
        Nothing is unpacked before the sizes are known to be within the limit, and no more than the headers
        state. Arrays of objects would need pickle, which can run code: they are refused.
    """
    arrays: dict[str, Any] = {}
    remedy = "Write it with numpy.savez."
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                total = sum(member.file_size for member in members)
                if len(members) > _MAX_ARRAYS or total > max_bytes:
                    raise _refuse(
                        path,
                        f"hold at most {_MAX_ARRAYS} arrays and {max_bytes:,} bytes",
                        f"{len(members)} and {total:,}",
                        "Cut it into several files.",
                    )
                for member in members:
                    with archive.open(member) as stream:
                        shape, dtype = _header(stream)
                        if dtype.hasobject:
                            raise _refuse(path, "hold no Python objects", repr(member.filename), remedy)
                        size = dtype.itemsize
                        for extent in shape:
                            size *= extent
                        if size > member.file_size:
                            raise _refuse(path, "be whole", f"{size:,} bytes claimed", remedy)
                    name = member.filename.removesuffix(".npy")
                    if dtype.kind in "fiub" or (dtype.kind == "U" and name in text):
                        with archive.open(member) as stream:
                            data = io.BytesIO(stream.read(member.file_size))
                        arrays[name] = np.lib.format.read_array(data, allow_pickle=False)
        except MediaError:
            raise
        except (
            zipfile.BadZipFile,
            ValueError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            raise _refuse(path, "be an npz file", f"{error!s:.80}", remedy) from error
        except Exception as error:
            # zlib and lzma have errors of their own; a damaged header may raise nearly anything.
            raise _refuse(path, "be a whole npz file", type(error).__name__, remedy) from error
    return arrays


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy version {version}")
    if any(extent < 0 for extent in shape):
        raise ValueError("a negative extent")
    return shape, dtype


def write_npz(motion: Motion, path: str | os.PathLike[str]) -> None:
    """Write a motion as an npz file, whole or not at all.

    Args:
        motion: what to write. Arrays: `translation [T, 3]` metres and `rotvec [T, J, 3]` radians (axis times
            angle, of each joint relative to its parent, column vectors), both float32; `parents [J]`,
            `offsets [J, 3]` metres, `names [J]`, `tips`, `fps`.
        path: destination.
    """
    skeleton = motion.skeleton
    with atomic_file(path) as file:
        np.savez_compressed(
            file,
            translation=motion.translation.detach().float().cpu().numpy(),
            rotvec=to_rotvec(motion.rotations.detach().double().cpu()).float().numpy(),
            parents=np.array(skeleton.parents, dtype=np.int32),
            offsets=np.array(skeleton.offsets, dtype=np.float64),
            names=np.array(skeleton.names),
            tips=np.array(sorted(skeleton.tips), dtype=np.int32),
            fps=np.array(motion.fps, dtype=np.float64),
        )


def read_npz(path: str | Path) -> Motion:
    """Read a motion that `write_npz` wrote.

    Args:
        path: the file.

    Returns:
        The motion, in float64.

    Raises:
        MediaError: a file that is damaged, too large, of other content, or with numbers that are not finite.
        OSError: a file that cannot be opened.
    """
    arrays = open_npz(path, text=("names",))
    try:
        rotvec = torch.from_numpy(arrays["rotvec"]).double()
        translation = torch.from_numpy(arrays["translation"]).double()
        offsets = [tuple(map(float, row)) for row in arrays["offsets"].tolist()]
        parents = tuple(map(int, arrays["parents"].tolist()))
        tips = frozenset(map(int, arrays["tips"].tolist()))
        names = tuple(map(str, arrays["names"].tolist()))
        skeleton = Skeleton(names, parents, tuple(offsets), tips)  # type: ignore[arg-type]
        motion = Motion(skeleton, from_rotvec(rotvec), translation, float(arrays["fps"]))
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _refuse(path, "hold a motion", f"{error!s:.80}", "Write it with write_npz.") from error
    if not (motion.rotations.isfinite().all() and translation.isfinite().all()):
        raise _refuse(path, "hold finite numbers", "others", "Write it with write_npz.")
    return motion
