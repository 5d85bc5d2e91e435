# SPDX-License-Identifier: Apache-2.0
"""What a model file says of itself, read from its header without torch: styles, patch sizes, digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from intarsia.cli.screen import Problem, show_path

__all__ = ["WEIGHTS", "ModelFile", "bundled"]

WEIGHTS = Path(__file__).parent.parent / "models" / "weights"
_MAX_HEADER = 2**24


@dataclass(frozen=True)
class ModelFile:
    """A safetensors file of `intarsia.models`.

    Attributes:
        path: the file.
        styles: style names in class order, from class 1.
        sizes: patch sizes `(h, w)` that the network was trained on.
    """

    path: Path
    styles: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def open(cls, name: str, *, axes: int | None = 2, command: str = "generate image") -> ModelFile:
        """Read the header of a bundled model, or of a file; its regions must have so many axes, if given."""
        path = WEIGHTS / f"{name}.safetensors" if name in bundled(axes=None) else Path(name)
        try:
            with open(path, "rb") as file:
                about = _about(file)
            sizes = tuple(tuple(int(n) for n in size) for size in about["sizes"])
            if axes is not None and any(len(size) != axes for size in sizes):
                raise ValueError("not a model of pictures")
            return cls(path, tuple(str(style) for style in about["styles"]), sizes)  # type: ignore[arg-type]
        except OSError as error:
            names = ", ".join(bundled()) or "there is none"
            raise Problem(
                f"{command}: --model must be a bundled model ({names}) "
                f"or a file that can be read, got {show_path(name)!r} ({error.strerror}). "
                "Train one with `intarsia train image`."
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Problem(
                f"{command}: --model must be a safetensors file written by intarsia, got "
                f"{show_path(name)!r} ({error}). Train one with `intarsia train image`."
            ) from error

    def sha256(self) -> str:
        """Digest of the file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _about(file: BinaryIO) -> dict[str, Any]:
    """What the header of a model file says."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, os.fstat(file.fileno()).st_size):
        raise ValueError("no safetensors header")
    about: dict[str, Any] = json.loads(json.loads(file.read(length))["__metadata__"]["intarsia"])
    return about


def bundled(*, axes: int | None = 2) -> tuple[str, ...]:
    """Names of the models in this installation, of pictures or of what has as many axes; None: of all."""
    names = []
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(path, "rb") as file:
                other = axes is not None and any(len(size) != axes for size in _about(file)["sizes"])
            if other:
                continue
        names.append(path.stem)
    return tuple(names)
