# SPDX-License-Identifier: Apache-2.0
"""`load`: a scene from a YAML or JSON file, from text, or from a picture that carries one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from intarsia.scene import tree
from intarsia.scene.errors import SceneError, nearest, refuse, show
from intarsia.scene.faults import fault
from intarsia.scene.schema import MAX_PIXELS, MAX_REGIONS, Scene

__all__ = ["build", "load", "recorded", "with_paths"]

_FORMS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
_JSON = re.compile(r'\s*\{\s*["}]')


def load(source: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None) -> Scene:
    """Read a scene without trusting it.

    Args:
        source: the path of a .yaml, .yml, .json or .png file; or the text of a scene, YAML or JSON, which is
            told from a path by its line breaks, colons or braces.
        folder: where relative paths begin; None takes the folder of the file, or the current one.

    Returns:
        The scene, checked as far as it goes without its model and its pictures.

    Raises:
        SceneError: in one line, with the key.
        OSError: a file that cannot be read.

    Note:
        Imports neither torch nor the command line, except to read a picture.

    Example:
        >>> load("canvas: {width: 256, height: 64}").canvas.width
        256
    """
    if isinstance(source, str) and any(sign in source for sign in ("\n", "{", ": ")):
        return build(
            tree.parse(source, form="json" if _JSON.match(source) else "yaml"), folder=folder or Path()
        )
    path = Path(source)
    home = path.parent if folder is None else Path(folder)
    if path.suffix.lower() == ".png":
        return build(recorded(path)["scene"], folder=home)
    form = _FORMS.get(path.suffix.lower(), "")
    if not form:
        legal = "end in .yaml, .yml, .json or .png"
        refuse("", legal, show(path.suffix), "Rename it, if it is one of these.")
    return build(tree.parse(_text(path), form=form), folder=home)


def _text(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(tree.MAX_BYTES + 1)
    if len(data) > tree.MAX_BYTES:
        raise SceneError("", f"must have at most {tree.MAX_BYTES} bytes. Make the scene smaller.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SceneError(
            "", f"must be UTF-8 text, got byte {error.start} that is not. Save it again."
        ) from None


def recorded(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a picture of `intarsia compose` carries: its scene, and the facts it was made with.

    Args:
        path: a PNG file.

    Returns:
        A mapping with "scene", "files" and more.

    Raises:
        SceneError: a picture without a scene.
        OSError: a file that cannot be read.
    """
    from intarsia.media import MediaError, read_png_text

    try:
        text = read_png_text(path).get("intarsia")
    except MediaError as error:
        raise SceneError("", str(error)) from None
    about = None if text is None else tree.parse(text, form="json")
    if not isinstance(about, dict) or not isinstance(about.get("scene"), dict):
        raise SceneError(
            "",
            "must be a picture made by `intarsia compose`, got one without a scene. Other programs drop "
            "what a picture carries when they save it; use the original, or the scene's file.",
        )
    return about


def build(plain: Any, *, folder: str | os.PathLike[str]) -> Scene:
    """A scene from a tree of plain values, as a server gets it.

    Args:
        plain: what `tree.parse` returned.
        folder: where relative paths begin.

    Returns:
        The scene.

    Raises:
        SceneError: in one line, with the key.
    """
    if not isinstance(plain, dict):
        raise SceneError("", f"must be keys with values, got {show(plain)}. A scene begins with `canvas:`.")
    try:
        scene = Scene.model_validate(plain)
    except ValidationError as error:
        raise fault(error, Scene) from None
    except RecursionError:
        raise SceneError("", "must be nested less deeply. Scenes need no more than four levels.") from None
    object.__setattr__(scene, "_folder", Path(folder))
    _consistent(scene)
    return scene


def with_paths(scene: Scene, old: Path, new: Path) -> Scene:
    """A scene whose relative paths begin in another folder.

    Args:
        scene: any.
        old: where its paths begin.
        new: where they shall begin.

    Returns:
        The scene of the same files.
    """
    before, after = os.path.abspath(old), os.path.abspath(new)
    if before == after:
        return scene

    def moved(name: str) -> str:
        return name if os.path.isabs(name) else os.path.relpath(os.path.join(before, name), after)

    regions = [
        region.model_copy(update={"mask": moved(region.mask)}) if region.mask else region
        for region in scene.regions
    ]
    guides = [guide.model_copy(update={"image": moved(guide.image)}) for guide in scene.guides]
    update: dict[str, Any] = {"regions": tuple(regions), "guides": tuple(guides)}
    if (Path(old) / scene.model).exists():
        update["model"] = moved(scene.model)
    found = scene.model_copy(update=update)
    object.__setattr__(found, "_folder", Path(new))
    return found


def _consistent(scene: Scene) -> None:
    """Refuse what single values do not show."""
    canvas = scene.canvas
    if canvas.width * canvas.height * scene.output.upscale**2 > MAX_PIXELS:
        size = f"{canvas.width} x {canvas.height}"
        size += f" x {scene.output.upscale}^2" if scene.output.upscale > 1 else ""
        refuse("canvas", f"have at most {MAX_PIXELS} pixels", size, "Make the picture smaller.")
    if scene.patch is not None and min(scene.patch) < 1:
        refuse("patch", "be at least 1 on both axes", list(scene.patch), "Leave it out for the model's own.")
    count = len(scene.regions) + (scene.grid.rows * scene.grid.columns if scene.grid else 0)
    if count > MAX_REGIONS:
        key = "grid" if scene.grid else "regions"
        refuse(key, f"give at most {MAX_REGIONS} regions in all", count, "Use fewer, larger regions.")
    names: set[str] = set()
    for index, region in enumerate(scene.places):
        key = f"regions[{index}]" if index < len(scene.regions) else f"grid ({region.name})"
        if (region.box is None) == (region.mask is None):
            got = "neither" if region.box is None else "both"
            refuse(key, "have either a box or a mask", got, "Add box: [left, top, right, bottom].")
        if region.name in names:
            refuse(f"{key}.name", "be used once", show(region.name), "Choose another name.")
        names.add(str(region.name))
        if region.box is not None:
            _box(f"{key}.box", region.box, scene)
        elif region.feather:
            refuse(f"{key}.feather", "go with a box", "a mask", "Blur the mask instead: grey counts in part.")
    for index, guide in enumerate(scene.guides):
        if guide.box is not None:
            _box(f"guides[{index}].box", guide.box, scene)
        for number, name in enumerate(guide.free):
            if name not in names:
                got, key = show(name), f"guides[{index}].free[{number}]"
                refuse(key, "name a region", got, nearest(name, tuple(sorted(names))))


def _box(key: str, box: tuple[int, int, int, int], scene: Scene) -> None:
    for axis, (length, wrap) in enumerate(
        zip((scene.canvas.width, scene.canvas.height), reversed(scene.wraps), strict=True)
    ):
        low, high = box[axis], box[axis + 2]
        first, last = ("left", "right") if axis == 0 else ("top", "bottom")
        if high <= low:
            refuse(key, f"have {last} beyond {first}", list(box), "It is [left, top, right, bottom].")
        if not wrap and high > length:
            remedy = f"The canvas ends at {length}; on one that wraps, boxes may cross the edge."
            refuse(f"{key}[{axis + 2}]", f"be at most {length}", high, remedy)
        if wrap and (low >= length or high - low > length):
            refuse(key, f"begin on the canvas and span at most {length} pixels", list(box), "Move it.")
