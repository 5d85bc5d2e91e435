# SPDX-License-Identifier: Apache-2.0
"""Whether a scene suits its model, and its pictures their places; nothing is decoded, nothing loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intarsia.scene.errors import nearest, refuse, show

if TYPE_CHECKING:
    from intarsia.scene.model import Model
    from intarsia.scene.schema import Scene

__all__ = ["check", "check_files", "patch_of"]

_WORDS_ONLY = ("prompt", "negative")


def patch_of(scene: Scene, model: Model) -> tuple[int, int]:
    """The largest patch that the network sees at once, `(height, width)` in pixels.

    Args:
        scene: its `patch` wins over the model's own size.
        model: its sizes; of several the largest that the canvas has room for.

    Returns:
        The size, not larger than the canvas.

    Raises:
        SceneError: a patch that the model does not know, or a canvas too small for any.
    """
    canvas = scene.canvas.height, scene.canvas.width
    if model.styled:
        legal = [size for size in model.sizes if size[0] <= canvas[0] and size[1] <= canvas[1]]
        if scene.patch is not None:
            wanted = scene.patch[1], scene.patch[0]
            if wanted not in legal:
                sizes = ", ".join(f"[{w}, {h}]" for h, w in legal) or "none on a canvas as small"
                refuse(
                    "patch", f"be a size that {model.name} knows ({sizes})", list(scene.patch), "Choose one."
                )
            return wanted
        if not legal:
            h, w = min(model.sizes, key=lambda size: size[0] * size[1])
            refuse(
                "canvas",
                f"be at least {w} wide and {h} high",
                f"{canvas[1]} x {canvas[0]}",
                "Make it larger.",
            )
        return max(legal, key=lambda size: (size[0] * size[1], size))
    height, width = (scene.patch[1], scene.patch[0]) if scene.patch else model.sizes[0]
    for index, length in enumerate((width, height)):
        if scene.patch is not None:
            _multiple(f"patch[{index}]", length, model.multiple)
    return min(height, canvas[0]), min(width, canvas[1])


def _multiple(key: str, length: int, step: int) -> None:
    if length % step or length == 0:
        below = length // step * step
        legal = f"{below} and {below + step}" if below else f"{step}"
        refuse(
            key, f"be a multiple of {step} for this model", length, f"The nearest legal values are {legal}."
        )


def check(scene: Scene, model: Model) -> None:
    """Refuse a scene that its model cannot paint.

    Args:
        scene: any.
        model: what `Model.open` found.

    Raises:
        SceneError: names the key.
    """
    patch = patch_of(scene, model)
    _check_words(scene, model)
    _check_cells(scene, model)
    overlap = scene.overlap
    for axis, (length, size) in enumerate(zip(overlap or (), reversed(patch), strict=False)):
        key = f"overlap[{axis}]"
        if length >= size:
            refuse(key, f"be below the patch, {size}", length, "Half of it is usual.")
        if length % model.unit:
            _multiple(key, length, model.unit)


def _check_words(scene: Scene, model: Model) -> None:
    """Prompts for those who read, styles for those who do not."""
    places = [("", scene)] + [(f"regions[{i}].", region) for i, region in enumerate(scene.regions)]
    for where, part in places:
        styles = part.style if isinstance(part.style, tuple) else (part.style,) if part.style else ()
        _styles(f"{where}style", styles, model)
        for word in _WORDS_ONLY if model.styled else ():
            if getattr(part, word) is not None:
                _no_words(f"{where}{word}", word, model)
        silent = part.prompt is None and scene.prompt is None and getattr(part, "painted", False)
        if silent and not model.styled:
            refuse(f"{where}prompt", "be given where the scene has none", "none", "Add a prompt to either.")
    grid = scene.grid
    if grid is not None:
        _styles("grid.styles", tuple(style for row in grid.styles or () for style in row), model)
        if model.styled and (grid.prompts is not None or grid.negative is not None):
            _no_words("grid.prompts" if grid.prompts is not None else "grid.negative", "prompts", model)


def _no_words(key: str, word: str, model: Model) -> None:
    refuse(key, f"be left out for {model.name}, which reads no words", f"a {word}", "Use style instead.")


def _styles(key: str, styles: tuple[str, ...], model: Model) -> None:
    for number, name in enumerate(styles):
        where = f"{key}[{number}]" if len(styles) > 1 else key
        if not model.styled:
            refuse(where, "be left out for a model that reads prompts", show(name), "Use prompt instead.")
        if name not in model.styles:
            known = ", ".join(model.styles) or "none"
            refuse(where, f"be a style of {model.name} ({known})", show(name), nearest(name, model.styles))


def _check_cells(scene: Scene, model: Model) -> None:
    """What lies on the canvas of a latent model lies on its elements."""
    if model.unit == 1:
        return
    _multiple("canvas.width", scene.canvas.width, model.multiple)
    _multiple("canvas.height", scene.canvas.height, model.multiple)
    boxes = [
        (f"regions[{i}]", region.box, region.feather)
        for i, region in enumerate(scene.regions)
        if region.painted
    ]
    boxes += [("grid.region", region.box, 0) for region in scene.places[len(scene.regions) :]]
    boxes += [(f"guides[{i}]", guide.box, 0) for i, guide in enumerate(scene.guides)]
    for key, box, feather in boxes:
        for index, edge in enumerate(box or ()):
            if edge % model.unit and not feather:
                below = edge // model.unit * model.unit
                place = key if key.startswith("grid") else f"{key}.box[{index}]"
                legal = f"The nearest legal values are {below} and {below + model.unit}; or give a feather."
                refuse(place, f"be a multiple of {model.unit} for this model", edge, legal)


def check_files(scene: Scene) -> None:
    """Refuse pictures that are absent, or have another size than their place, from their headers alone.

    Args:
        scene: its masks and guides are looked at.

    Raises:
        SceneError: names the key.
    """
    canvas = scene.canvas
    whole = canvas.width, canvas.height
    for index, region in enumerate(scene.regions):
        if region.mask is not None:
            _check_picture(scene, f"regions[{index}].mask", region.mask, whole, "the canvas")
    for index, guide in enumerate(scene.guides):
        box = guide.box or (0, 0, *whole)
        place = box[2] - box[0], box[3] - box[1]
        _check_picture(scene, f"guides[{index}].image", guide.image, place, "its box")


def _check_picture(scene: Scene, key: str, name: str, size: tuple[int, int], place: str) -> None:
    from intarsia.media import MediaError, read_image_size
    from intarsia.scene.errors import SceneError

    path = scene.path(name)
    if path.exists() and not path.is_file():
        # Opening a pipe would wait for ever.
        refuse(key, "be a file", show(name), "Name a picture.")
    try:
        found = read_image_size(path)
    except MediaError as error:
        raise SceneError(key, str(error).partition(": path ")[2] or str(error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        refuse(
            key, "be a picture that can be read", show(name), f"({reason}) Paths begin at the scene's file."
        )
    if found != size:
        got = f"{found[0]} x {found[1]}"
        refuse(
            key,
            f"be as large as {place}, {size[0]} x {size[1]}",
            got,
            "Crop or resize it; nothing is stretched.",
        )
