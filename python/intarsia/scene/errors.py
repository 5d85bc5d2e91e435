# SPDX-License-Identifier: Apache-2.0
"""SceneError: what is wrong with a scene, in one line that names the key."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, NoReturn

__all__ = ["SceneError", "key_path", "nearest", "refuse", "show"]

_WORD = re.compile(r"[A-Za-z_][\w-]{0,63}")


class SceneError(ValueError):
    """A scene that is not legal.

    Args:
        key: where, such as `regions[3].box`; empty where the file as a whole is meant.
        message: what must be, what there is, and the remedy.

    Attributes:
        key: as given.
        message: as given, on one line.

    Example:
        >>> print(SceneError("canvas.width", "must be at least 1, got 0."))
        canvas.width: must be at least 1, got 0.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key, self.message = key, " ".join(message.split())
        super().__init__(f"{key}: {self.message}" if key else self.message)


def show(value: object, *, limit: int = 48) -> str:
    """A value as it may stand in a message: short, printable, on one line.

    Args:
        value: anything that a file can hold.
        limit: most characters.

    Returns:
        Its `ascii()`, shortened in the middle.

    Example:
        >>> show("a" * 100, limit=11)
        "'aaa...aaa'"
    """
    # Only the ends of a long text are looked at: a message costs the same whatever the file holds.
    if isinstance(value, str) and len(value) > 4 * limit:
        value = value[: 2 * limit] + value[-2 * limit :]
    if isinstance(value, (dict, list)) and len(value) > limit:
        return f"{len(value)} entries"
    text = ascii(value)
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def key_path(parts: tuple[Any, ...]) -> str:
    """`("regions", 3, "box")` as `regions[3].box`; what is no plain word is quoted.

    Args:
        parts: keys and indices from the root.

    Returns:
        The path.

    Example:
        >>> key_path(("regions", 3, "box"))
        'regions[3].box'
    """
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            word = part if isinstance(part, str) and _WORD.fullmatch(part) else show(part)
            path += f".{word}" if path else word
    return path


def nearest(name: str, legal: tuple[str, ...]) -> str:
    """A remedy for a name that is not legal: the nearest legal one, and all of them if they are few.

    Args:
        name: what was written.
        legal: what could have been.

    Returns:
        One sentence.

    Example:
        >>> nearest("widht", ("height", "width"))
        'Did you mean width?'
    """
    near = get_close_matches(name[:64], legal, 1, 0.5)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Legal: {', '.join(legal)}." if legal else "There is none."


def refuse(key: str, requirement: str, got: object, remedy: str) -> NoReturn:
    """Raise the SceneError `<key>: must <requirement>, got <got>. <remedy>`.

    Args:
        key: where.
        requirement: after "must".
        got: what there is, ready to be shown.
        remedy: a sentence.

    Raises:
        SceneError: always.
    """
    raise SceneError(key, f"must {requirement}, got {got}. {remedy}")
