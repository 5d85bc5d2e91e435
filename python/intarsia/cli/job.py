# SPDX-License-Identifier: Apache-2.0
"""One picture as a job: settings read from a PNG, the device found, painted, written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intarsia.cli.model_file import ModelFile
from intarsia.cli.screen import Problem, say, show_path
from intarsia.cli.settings import ImageSettings

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_output",
    "facts_of",
    "find_device",
    "note_differences",
    "progress",
    "recorded",
    "run",
    "text_of",
]


def recorded(path: Path) -> tuple[ImageSettings, dict[str, Any]]:
    """Settings and facts that a picture carries."""
    from intarsia.media import read_png_text

    text = read_png_text(path).get("intarsia")
    if text is None:
        raise Problem(
            f"generate image: --from must be a picture of intarsia, got {show_path(path)!r} without "
            "settings. Other programs drop them when they save a picture; use the original."
        )
    return ImageSettings.parse(text), json.loads(text)


def check_output(path: Path, *, command: str = "generate image") -> None:
    """Refuse a place where the picture could not be written, before the work begins."""
    if path.suffix.lower() != ".png":
        raise Problem(
            f"{command}: --output must end in .png, got {show_path(path.name)!r}. "
            "Only PNG keeps every pixel and carries the settings."
        )
    from intarsia.media import check_writable

    try:
        check_writable(path)
    except OSError as error:
        raise Problem(
            f"{command}: --output must be a file that can be written, got {show_path(path)!r} "
            f"({show_path(error.filename)}: {error.strerror}). Choose a folder that exists and is yours.",
            code=1,
        ) from error


def find_device(name: str, *, command: str = "generate image") -> torch.device:
    """The device that `--device` means."""
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
            f"{command}: --device must be one that torch sees here, got {name!r}. "
            "Use --device cpu; `intarsia doctor` shows what there is."
        )
    return device


def progress(steps: int, what: str, *, quiet: bool) -> Any:
    """A bar on standard error, where that is a terminal; a context."""
    from tqdm import tqdm

    # Terminals may claim 0 x 0, where tqdm of itself shows nothing.
    return tqdm(
        total=steps,
        desc=what,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {remaining} left",
        leave=False,
        ncols=min(shutil.get_terminal_size().columns, 100),
        nrows=24,
        disable=True if quiet else None,
    )


def facts_of(settings: Any, file: ModelFile, device: torch.device, command: str) -> dict[str, Any]:
    """What a picture carries: all that decides its pixels. `settings` is a dataclass."""
    import torch

    from intarsia import __version__

    return {
        "intarsia": __version__,
        "torch": torch.__version__,
        "device": device.type,
        "model_sha256": file.sha256(),
        "command": command,
        "settings": dataclasses.asdict(settings),
    }


def text_of(facts: dict[str, Any]) -> dict[str, str]:
    """The text chunks of a picture with these facts."""
    return {
        "Software": f"intarsia {facts['intarsia']}",
        "Comment": facts["command"],
        "intarsia": json.dumps(facts, ensure_ascii=True),
    }


def run(
    settings: ImageSettings, file: ModelFile, patch: tuple[int, int], output: Path, *, quiet: bool
) -> dict[str, Any]:
    """Paint and write; returns what the picture carries."""
    import torch

    from intarsia import models
    from intarsia.cli.picture import paint
    from intarsia.media import enlarge, write_png

    device = find_device(settings.device)
    dtype = None if settings.precision == "auto" else getattr(torch, settings.precision)
    denoiser = models.load(str(file.path), device=device, dtype=dtype)
    settings = dataclasses.replace(settings, precision=str(denoiser.compute_dtype).removeprefix("torch."))
    with progress(settings.steps, f"painting {settings.width} x {settings.height}", quiet=quiet) as bar:

        def tick(step: int, state: object, info: object) -> None:
            bar.update()

        picture = paint(
            denoiser,
            settings,
            patch=patch,
            classes=[denoiser.styles[name] for name in settings.style],
            sigma_range=(denoiser.sigma_min, denoiser.sigma_max),
            device=device,
            callback=tick,
        )[0]
    facts = facts_of(settings, file, device, settings.command())
    write_png(enlarge(picture, factor=settings.upscale, loop=settings.loop), output, text=text_of(facts))
    return facts


def note_differences(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Say why a repeated picture may not be the same to the last pixel."""
    if then.get("settings") != json.loads(json.dumps(now["settings"])):
        return
    for key in ("model_sha256", "intarsia", "torch", "device"):
        before, after = str(then.get(key))[:16], str(now[key])[:16]
        if before != after:
            text = f"pixels may differ: {key} was {before}, here it is {after}"
            say(text, title="note", colour="yellow")
