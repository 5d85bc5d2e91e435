# SPDX-License-Identifier: Apache-2.0
"""A diffusers folder, looked through before anything is loaded: no code, no pickles, no way out of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["PIPELINES", "FolderError", "PipelineFolder", "check_folder"]

PIPELINES = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "StableDiffusion3Pipeline": "transformer",
    "FluxPipeline": "transformer",
}
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".msgpack", ".npy", ".npz", ".joblib")
_PLAIN = ("", ".json", ".txt", ".safetensors", ".model", ".jinja", ".md", ".yaml", ".yml")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
_MAX_JSON = 2**20
_MAX_INDEX = 2**24
_MAX_FILES = 2000
_MAX_DEPTH = 4
_MAX_HEADER = 100 * 2**20
_CLASS = re.compile(r"[A-Za-z_]\w{0,127}")
_PART = re.compile(r"[a-z][a-z0-9_]{0,63}")


class FolderError(ValueError):
    """A folder that is no pipeline, or one that could run code or read elsewhere."""


@dataclass(frozen=True)
class PipelineFolder:
    """What a diffusers folder says of itself.

    Attributes:
        path: the folder.
        pipeline: the class that it names, one of `PIPELINES`.
        configs: component -> its configuration.
        weight_bytes: size of all safetensors files together.
    """

    path: Path
    pipeline: str
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    weight_bytes: int = 0

    @property
    def network(self) -> dict[str, Any]:
        """The configuration of the network that denoises."""
        return self.configs.get(PIPELINES[self.pipeline], {})

    @property
    def scale(self) -> int:
        """Pixels of one element of the canvas, per axis: two for each halving in the autoencoder."""
        widths = self.configs.get("vae", {}).get("block_out_channels")
        return 2 ** (len(widths) - 1) if isinstance(widths, list) and 0 < len(widths) <= 8 else 8


def _refuse(requirement: str, got: str, remedy: str) -> NoReturn:
    raise FolderError(f"check_folder: path must {requirement}, got {got}. {remedy}")


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, with its name relative to it; nothing outside is followed."""
    root, count = path.resolve(), 0
    homes = [root]
    if root.parent.name == "snapshots":
        # The hub's cache: a snapshot is links to blobs beside it, named by their content.
        homes.append(root.parent.parent / "blobs")
    stack = [(root, 0)]
    while stack:
        folder, depth = stack.pop()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            count += 1
            name = os.path.relpath(entry.path, root)
            if count > _MAX_FILES or depth > _MAX_DEPTH:
                _refuse(
                    f"hold at most {_MAX_FILES} files, {_MAX_DEPTH} deep",
                    ascii(name),
                    "Name the pipeline's own folder.",
                )
            if entry.is_symlink():
                target = Path(entry.path).resolve()
                if not any(target.is_relative_to(home) for home in homes) or not target.is_file():
                    _refuse(
                        "hold no links that lead elsewhere", ascii(name), "Copy the file into the folder."
                    )
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    stack.append((Path(entry.path), depth + 1))
            elif entry.is_file():
                yield Path(entry.path), name
            else:
                _refuse("hold files and folders only", ascii(name), "Remove it.")


def _json(path: Path, name: str, limit: int = _MAX_JSON) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            _refuse(
                f"hold a {name} of at most {limit} bytes", f"{path.stat().st_size}", "Get the file again."
            )
        found = json.loads(data)
    except OSError as error:
        _refuse(
            f"hold a {name} that can be read", f"{error.strerror}", "Save the pipeline with save_pretrained."
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, FolderError):
            raise
        _refuse(f"hold a {name} in JSON", type(error).__name__, "Save the pipeline with save_pretrained.")
    if not isinstance(found, dict):
        _refuse(f"hold a {name} with keys and values", type(found).__name__, "Save it with save_pretrained.")
    return found


def _weights(path: Path, name: str) -> int:
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 10 or not 2 <= header <= min(_MAX_HEADER, size - 8):
        _refuse("hold whole safetensors files", ascii(name), "Get the file again.")
    return size


def _index(path: Path, name: str) -> None:
    parts = _json(path, ascii(name), _MAX_INDEX).get("weight_map", {})
    names = parts.values() if isinstance(parts, dict) else [parts]
    for part in names:
        if not isinstance(part, str) or part != os.path.basename(part) or not part.endswith(".safetensors"):
            _refuse("hold an index of safetensors files beside it", ascii(name), "Get the file again.")


def _components(index: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    configs: dict[str, dict[str, Any]] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if not _PART.fullmatch(name) or len(value) != 2:
            _refuse("name components as [library, class]", ascii(name)[:64], "Save it with save_pretrained.")
        if value == [None, None]:
            continue
        library, kind = value
        if library not in _LIBRARIES or not isinstance(kind, str) or not _CLASS.fullmatch(kind):
            got = ascii(value)[:64]
            _refuse(f"take components from {' or '.join(_LIBRARIES[:2])}", got, "Code in folders is not run.")
        for file in _CONFIGS:
            if (path / name / file).is_file():
                configs[name] = _config(path / name / file, f"{name}/{file}")
    return configs


def _config(path: Path, name: str) -> dict[str, Any]:
    config = _json(path, name)
    kind = config.get("_class_name", "Plain")
    if not isinstance(kind, str) or not _CLASS.fullmatch(kind):
        _refuse(f"name a class in {name}", ascii(kind)[:64], "A list or a path would load code.")
    for key in ("auto_map", "custom_pipelines", "trust_remote_code"):
        if config.get(key):
            _refuse(f"need no code of its own in {name}", f"the key {key}", "Code in folders is not run.")
    return config


def check_folder(path: str | os.PathLike[str]) -> PipelineFolder:
    """Look through a diffusers folder and refuse one that would have to be trusted.

    Allowed are JSON, text and safetensors; classes of diffusers and transformers by name; links within the
    folder, or into the blobs of a hub's cache. Nothing is loaded and no library imported.

    Args:
        path: a folder with a `model_index.json`.

    Returns:
        What it says of itself.

    Raises:
        FolderError: names the file, and what to do.

    Example:
        >>> check_folder("/nowhere")
        Traceback (most recent call last):
        intarsia.adapters.folder.FolderError: check_folder: path must be a folder, got '/nowhere'. Save ...
    """
    home = Path(path)
    if not home.is_dir():
        _refuse(
            "be a folder", ascii(os.fspath(path)), "Save a pipeline there with pipe.save_pretrained(path)."
        )
    weights = 0
    for file, name in _files(home):
        suffix = Path(name).suffix.lower()
        if suffix in _CODE:
            _refuse(
                "hold no code",
                ascii(name),
                "Code in folders is not run; remove it, if you know the model works without.",
            )
        if suffix in _PICKLES:
            remedy = "Such files can run code; keep the safetensors, or save again with save_pretrained."
            _refuse("hold weights as safetensors only", ascii(name), remedy)
        if suffix not in _PLAIN + _PICTURES:
            _refuse(
                "hold JSON, text and safetensors only", ascii(name), "Remove it, or save the pipeline again."
            )
        if suffix == ".safetensors":
            weights += _weights(file, name)
        elif name.endswith(".safetensors.index.json"):
            _index(file, name)
    index = _json(home / "model_index.json", "model_index.json")
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        got = ascii(pipeline)[:64]
        _refuse(
            f"hold one of {', '.join(PIPELINES)}",
            got,
            "Others can be composed in Python, with their network.",
        )
    configs = _components(index, home)
    if weights == 0:
        _refuse("hold weights as safetensors", "none", "Save it with save_pretrained, which writes them so.")
    return PipelineFolder(home, pipeline, configs, weights)
