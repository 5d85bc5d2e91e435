# SPDX-License-Identifier: Apache-2.0
"""One scene as a job: read, re-rolled, planned, painted, written with all that repeats it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from intarsia.cli.screen import Problem, say, show_path
from intarsia.scene import Model, Plan, Scene, SceneError, load
from intarsia.scene import plan as make_plan
from intarsia.scene.errors import nearest, show
from intarsia.scene.reading import build, recorded, with_paths

if TYPE_CHECKING:
    import torch

__all__ = ["check_output", "draw", "explain", "note_differences", "prepare", "run"]


def check_output(path: Path, option: str) -> None:
    """Refuse a place where a picture could not be written, before the work begins."""
    if path.suffix.lower() != ".png":
        raise Problem(
            f"compose: {option} must end in .png, got {show_path(path.name)!r}. "
            "Only PNG keeps every pixel and carries the scene."
        )
    from intarsia.media import check_writable

    try:
        check_writable(path)
    except OSError as error:
        raise Problem(
            f"compose: {option} must be a file that can be written, got {show_path(path)!r} "
            f"({show_path(error.filename)}: {error.strerror}). Choose a folder that exists and is yours.",
            code=1,
        ) from error


def prepare(
    path: Path, *, rerolls: Sequence[str], keep: Path | None, painting: bool
) -> tuple[Plan, dict[str, Any]]:
    """Read and plan a scene; returns the plan, and what the picture that it came from carries."""
    try:
        then = recorded(path) if path.suffix.lower() == ".png" else {}
        scene = _rerolled(load(path), rerolls, keep)
        model = Model.open(scene.model, scene.folder, assume=not painting)
        return make_plan(scene, model.fetched() if painting else model), then
    except SceneError as error:
        raise Problem(f"{show_path(path)}: {error}") from error
    except OSError as error:
        named = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else path
        raise Problem(f"{show_path(named)}: {error.strerror}", code=1) from error


def _rerolled(scene: Scene, rerolls: Sequence[str], keep: Path | None) -> Scene:
    """The scene with other seeds, and with a guide that holds everything else."""
    if keep is not None and not rerolls:
        raise Problem("compose: --keep must come with --reroll, got no region. Write --reroll NAME=SEED.")
    names = [str(region.name) for region in scene.places]
    chosen: dict[str, int] = {}
    for word in rerolls:
        name, sign, seed = word.partition("=")
        if name not in names:
            remedy = nearest(name, tuple(names))
            raise Problem(f"compose: --reroll must name a region, got {show(name)}. {remedy}")
        if not sign or not seed.isascii() or not seed.isdigit() or len(seed) > 18:
            raise Problem(f"compose: --reroll must be NAME=SEED, got {show(word)}. A seed is a whole number.")
        chosen[name] = int(seed)
    if not chosen:
        return scene
    plain = scene.model_dump(exclude_defaults=True, mode="json")
    # The grid's regions are written out, so that one of them can have a seed of its own.
    plain.pop("grid", None)
    plain["regions"] = [
        {**region.model_dump(exclude_defaults=True, mode="json"), **_seed(chosen, str(region.name))}
        for region in scene.places
    ]
    if keep is not None:
        image = os.path.relpath(os.path.abspath(keep), os.path.abspath(scene.folder))
        guide = {"image": image, "strength": 1.0, "free": list(chosen)}
        plain["guides"] = [*plain.get("guides", []), guide]
    return build(plain, folder=scene.folder)


def _seed(chosen: dict[str, int], name: str) -> dict[str, int]:
    return {"seed": chosen[name]} if name in chosen else {}


def draw(scene: Scene, path: Path) -> None:
    """Write the drawing of the regions."""
    from intarsia.media import atomic_file
    from intarsia.scene.drawing import chart

    picture = chart(scene)
    with atomic_file(path) as file:
        picture.save(file, format="PNG", optimize=True)


def explain(plan: Plan, *, as_json: bool) -> None:
    """Print what a scene takes."""
    from intarsia.scene.report import facts, lines

    if as_json:
        typer.echo(json.dumps(facts(plan), ensure_ascii=True))
        return
    terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, 100) - 1 if terminal else 76
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "┌╌·".encode(encoding)
        plain = False
    except UnicodeEncodeError:
        plain = True
    colours = terminal and "NO_COLOR" not in os.environ
    for line in lines(plan, width=width, colours=colours, ascii_only=plain):
        typer.echo(line.encode(encoding, "backslashreplace").decode(encoding), color=colours or None)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        usable = device.type == "cpu" or (device.index or 0) < torch.get_device_module(device).device_count()
    except RuntimeError:
        usable = False
    if not usable:
        raise Problem(
            f"machine.device: must be one that torch sees here, got {show(name)}. "
            "Use cpu; `intarsia doctor` shows what there is."
        )
    return device


def _files(scene: Scene) -> dict[str, str]:
    """SHA-256 of every picture that the scene names."""
    names = [region.mask for region in scene.regions if region.mask] + [guide.image for guide in scene.guides]
    found = {}
    for name in names:
        with open(scene.path(name), "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def run(plan: Plan, output: Path, *, quiet: bool) -> dict[str, Any]:
    """Paint and write; returns what the picture carries."""
    import torch
    from tqdm import tqdm

    from intarsia import __version__
    from intarsia.media import enlarge, write_png

    scene = plan.scene
    device = _device(scene.machine.device)
    scene_files = _files(scene)
    with tqdm(
        total=plan.steps_shown,
        desc=f"painting {scene.canvas.width} x {scene.canvas.height}",
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {remaining} left",
        leave=False,
        ncols=min(shutil.get_terminal_size().columns, 100),
        nrows=24,
        disable=True if quiet else None,
    ) as bar:

        def tick(step: int, state: object, info: object) -> None:
            bar.update()

        try:
            if plan.model.styled:
                from intarsia.scene.painting import paint

                painting = paint(plan, device=device, callback=tick)
            else:
                from intarsia.scene.pipeline import paint_pipeline

                painting = paint_pipeline(plan, device=device, callback=tick)
        except SceneError as error:
            raise Problem(str(error)) from error
    # Told to the file: another machine would choose another precision by itself.
    machine = scene.machine.model_copy(update={"precision": painting.precision})
    kept = with_paths(scene.model_copy(update={"machine": machine}), scene.folder, output.parent)
    facts = {
        "intarsia": __version__,
        "torch": torch.__version__,
        "device": painting.device,
        "model_sha256": plan.model.digest(),
        "files": dict(zip((name for name in _names(kept)), scene_files.values(), strict=False)),
        "command": "intarsia compose picture.png -o again.png",
        "scene": kept.model_dump(exclude_defaults=True, mode="json"),
    }
    text = {
        "Software": f"intarsia {__version__}",
        "Comment": "intarsia compose picture.png -o again.png",
        "intarsia": json.dumps(facts, ensure_ascii=False),
    }
    picture = enlarge(painting.picture, factor=scene.output.upscale, loop=scene.wraps[1])
    write_png(picture, output, text=text)
    return facts


def _names(scene: Scene) -> list[str]:
    names = [region.mask for region in scene.regions if region.mask] + [guide.image for guide in scene.guides]
    return list(dict.fromkeys(names))


def note_differences(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Say why a repeated picture may not be the same to the last pixel."""
    if then.get("scene") != json.loads(json.dumps(now["scene"])):
        return
    pairs = [(key, then.get(key), now[key]) for key in ("model_sha256", "intarsia", "torch", "device")]
    found = then.get("files")
    before = found if isinstance(found, dict) else {}
    pairs += [(name, before.get(name), digest) for name, digest in now["files"].items()]
    for key, old, new in pairs:
        if str(old)[:16] != str(new)[:16]:
            text = (
                f"pixels may differ: {show_path(key)} was {show(str(old)[:16])}, here it is {show(new[:16])}"
            )
            say(text, title="note", colour="yellow")
