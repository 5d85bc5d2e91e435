# SPDX-License-Identifier: Apache-2.0
"""What a scene's model is, read without its weights: sizes, styles, units."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from intarsia.adapters.folder import FolderError, PipelineFolder, check_folder
from intarsia.scene.errors import SceneError, refuse, show

__all__ = ["Model", "bundled"]

_WEIGHTS = Path(__file__).parent.parent / "models" / "weights"
_HUB = re.compile(r"([\w.-]{1,96}/[\w.-]{1,96})@([0-9a-f]{40})")
_MAX_HEADER = 2**24
# FLUX is told its guidance as a number: one row for each patch.
_GUIDANCE = {"StableDiffusionXLPipeline": 5.0, "StableDiffusion3Pipeline": 7.0, "FluxPipeline": 3.5}


def bundled() -> tuple[str, ...]:
    """Names of the models of this installation.

    Returns:
        The names, sorted.
    """
    return tuple(sorted(path.stem for path in _WEIGHTS.glob("*.safetensors")))


@dataclass(frozen=True)
class Model:
    """What is known of a model before it is loaded.

    Attributes:
        kind: "pixels", a bundled model or a file of `intarsia train`; "diffusers", a folder or a hub's.
        name: as the scene has it.
        path: the file or folder, or None where it still has to be fetched.
        styles: names that regions may have; only of "pixels".
        sizes: legal patches `(height, width)` in pixels; of "diffusers" the one it was trained on.
        unit: pixels of one element of the canvas, per axis.
        multiple: of which sizes of canvas and regions are multiples, in pixels.
        channels: of the canvas.
        pipeline: the diffusers class, or "".
        scheduler: the class of the scheduler that came with it, or "".
        guidance: the scale that it has by default.
        weight_bytes: size of its files.
        assumed: the files are not here; Stable Diffusion's sizes are taken.
        repository: `(id, revision)` on a hub, or None.
    """

    kind: Literal["pixels", "diffusers"]
    name: str
    path: Path | None
    styles: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    unit: int = 8
    multiple: int = 8
    channels: int = 4
    pipeline: str = ""
    scheduler: str = ""
    guidance: float = 7.5
    weight_bytes: int = 0
    assumed: bool = False
    repository: tuple[str, str] | None = None

    @classmethod
    def open(cls, name: str, folder: str | os.PathLike[str] = ".", *, assume: bool = False) -> Model:
        """Find a model and read what it says of itself.

        Args:
            name: a bundled model's name, the path of a model file or a diffusers folder, or
                `OWNER/NAME@REVISION` with the 40 hexadecimal digits of a commit.
            folder: where relative paths begin.
            assume: take Stable Diffusion's sizes for a folder that is not here, as plans may.

        Returns:
            The model.

        Raises:
            SceneError: `model: ...`, it cannot be found, or must not be loaded.

        Example:
            >>> Model.open("landscapes").sizes[0]
            (64, 64)
        """
        if name in bundled():
            return _pixels(name, _WEIGHTS / f"{name}.safetensors")
        hub = _HUB.fullmatch(name)
        path = Path(folder) / name
        try:
            if hub:
                return cls("diffusers", name, None, assumed=True, repository=(hub[1], hub[2]))
            if path.is_dir():
                return _diffusers(name, check_folder(path))
            if path.is_file():
                return _pixels(name, path)
        except FolderError as error:
            raise SceneError("model", str(error).removeprefix("check_folder: path ")) from None
        except (OSError, ValueError) as error:
            if isinstance(error, SceneError):
                raise
            reason = getattr(error, "strerror", None) or type(error).__name__
            refuse("model", "be a name or a path that can be read", show(name), f"({reason})")
        if assume:
            return cls("diffusers", name, None, assumed=True)
        names = ", ".join(bundled()) or "none"
        remedy = "A hub's model is written OWNER/NAME@REVISION, with the 40 digits of a commit."
        refuse("model", f"be a bundled model ({names}), a file or a folder", show(name), remedy)

    @property
    def styled(self) -> bool:
        """Whether it knows styles rather than prompts."""
        return self.kind == "pixels"

    def fetched(self) -> Model:
        """The model with its files here: a hub's commit is brought and looked through, others stay.

        Raises:
            SceneError: `model: ...`, it cannot be reached, or must not be loaded.
        """
        if self.repository is None or self.path is not None:
            return self
        from intarsia.adapters.pipeline import fetch

        try:
            found = _diffusers(self.name, check_folder(fetch(*self.repository)))
        except FolderError as error:
            raise SceneError("model", str(error).partition(": ")[2]) from None
        return replace(found, repository=self.repository)

    def digest(self) -> str:
        """SHA-256 of a file, or of a folder's index and the names and sizes of its files; a hub's commit."""
        if self.repository is not None or self.path is None:
            return self.repository[1] if self.repository else ""
        if self.path.is_file():
            with open(self.path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        listing = [[path.relative_to(self.path).as_posix(), path.stat().st_size] for path in files]
        index = (self.path / "model_index.json").read_text()
        return hashlib.sha256(json.dumps([listing, index]).encode()).hexdigest()


def _pixels(name: str, path: Path) -> Model:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if path.suffix != ".safetensors" or not 2 <= length <= min(
                _MAX_HEADER, os.fstat(file.fileno()).st_size
            ):
                raise ValueError("no safetensors header")
            about = json.loads(json.loads(file.read(length))["__metadata__"]["intarsia"])
            sizes = tuple((int(h), int(w)) for h, w in about["sizes"])
            if not sizes or min(map(min, sizes)) < 1:
                raise ValueError("no patch sizes")
            styles = tuple(str(style) for style in about["styles"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        remedy = "Train one with `intarsia train image`; pickled weights are not read."
        refuse(
            "model", "be a safetensors file written by intarsia, or a diffusers folder", show(name), remedy
        )
    size = path.stat().st_size
    return Model("pixels", name, path, styles, sizes, 1, 1, 3, guidance=1.0, weight_bytes=size)


def _diffusers(name: str, folder: PipelineFolder) -> Model:
    network, scale = folder.network, folder.scale
    # FLUX packs 2 x 2 elements into a token itself, so its network counts four times the channels.
    packed = folder.pipeline == "FluxPipeline"
    channels = network.get("in_channels")
    channels = channels if isinstance(channels, int) and 0 < channels <= 1024 else 4
    side = _side(network.get("sample_size"), 128 if packed else 64)
    return Model(
        "diffusers",
        name,
        folder.path,
        sizes=((side[0] * scale, side[1] * scale),),
        unit=scale,
        multiple=scale * (1 if "transformer" not in folder.configs else 2),
        channels=channels // 4 if packed else channels,
        pipeline=folder.pipeline,
        scheduler=str(folder.configs.get("scheduler", {}).get("_class_name", "")),
        guidance=_GUIDANCE.get(folder.pipeline, 7.5),
        weight_bytes=folder.weight_bytes,
    )


def _side(value: Any, default: int) -> tuple[int, int]:
    """The network's own size in elements, (rows, columns)."""
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if all(type(side) is int and 0 < side <= 4096 for side in sides):
        return int(sides[0]), int(sides[1])
    return default, default
