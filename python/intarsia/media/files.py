# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_file", "check_writable"]


def _open_beside(target: Path) -> tuple[Path, BinaryIO]:
    """A new file in the folder of `target`: only there is the final rename atomic."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists():
        if not stat.S_ISREG(target.stat().st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(target))
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    temporary = target.with_name(f".intarsia-{secrets.token_hex(8)}.part")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        folder = target.parent if error.errno != errno.ENAMETOOLONG else target
        raise type(error)(error.errno, error.strerror, str(folder)) from None
    return temporary, os.fdopen(descriptor, "wb")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Fail now if `atomic_file(path)` could not create its file.

    Long work should call it first: a folder that does not exist is found before the work, not after it.
    The folder is left as it was.

    Args:
        path: the file that will be written.

    Raises:
        OSError: the system's own error; its `filename` is the folder or file in the way.

    Example:
        >>> check_writable("no/such/folder/out.png")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no/such/folder'
    """
    target = Path(path)
    temporary, file = _open_beside(Path(os.path.realpath(target)) if target.is_symlink() else target)
    file.close()
    temporary.unlink()


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes its place at `path` only when the `with` body ends without an error.

    The bytes go to a hidden file in the same folder, reach the disk, and one rename puts them in place; on
    any error, Ctrl-C included, the hidden file is removed and what was at `path` before is untouched. A
    symbolic link is followed, so that the link itself survives.

    Args:
        path: where the file shall appear; replaced if it exists.

    Yields:
        The open file.

    Raises:
        OSError: if the folder is missing or not writable, `path` is no regular file, or the disk is full.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "out.bin"
        >>> with atomic_file(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    target = Path(path)
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    temporary, file = _open_beside(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
