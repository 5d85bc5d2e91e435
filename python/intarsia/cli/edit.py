# SPDX-License-Identifier: Apache-2.0
"""`intarsia extend` and `intarsia inpaint`: a photograph keeps its pixels and gets new ones beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.cli.edit_settings import EDIT_METHODS, MAX_PIXELS, EditSettings
from intarsia.cli.model_file import ModelFile, bundled
from intarsia.cli.screen import Debug, Problem, Quiet, show_path
from intarsia.cli.settings import PRECISIONS, SOLVERS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["extend", "inpaint"]

_DEFAULT = EditSettings()


def _option(flag: str, metavar: str, panel: str, help: str) -> Any:
    default = getattr(_DEFAULT, flag.removeprefix("--").replace("-", "_"))
    return typer.Option(
        flag,
        metavar=metavar,
        help=f"{help} [dim](default {default})[/dim]",
        rich_help_panel=panel,
        show_default=False,
    )


_Photo = typer.Argument(metavar="PHOTO", help="PNG, JPEG, WebP or TIFF.", show_default=False)
_Output = typer.Option("--output", "-o", metavar="FILE.png", help="The result; replaced if it exists.")
_Json = typer.Option("--json", metavar="", help="Print the result as one line of JSON.")
_Left = _option("--left", "PIXELS", "Canvas", "What to add on the left.")
_Right = _option("--right", "PIXELS", "Canvas", "What to add on the right.")
_Top = _option("--top", "PIXELS", "Canvas", "What to add above.")
_Bottom = _option("--bottom", "PIXELS", "Canvas", "What to add below.")
_Style = _option(
    "--style", "NAME", "Content", "A style of the model, none, or auto: the one that suits the photo best."
)
_Seed = _option("--seed", "N", "Content", "Another number, another picture.")
_Method = _option("--method", "NAME", "Method", f"How regions become one picture: {', '.join(EDIT_METHODS)}.")
_WorkHeight = _option(
    "--work-height", "PIXELS", "Method", "Higher pictures are painted at this height, and enlarged."
)
_Solver = _option("--solver", "NAME", "Method", f"{', '.join(SOLVERS)}.")
_Steps = _option("--steps", "N", "Method", "More is finer and slower.")
_Model = _option(
    "--model", "NAME|FILE", "Machine", f"Bundled ({', '.join(bundled()) or 'none'}) or a file of yours."
)
_Device = _option("--device", "NAME", "Machine", "auto, cpu, cuda, cuda:1 and so on.")
_MaxBatch = _option("--max-batch", "N", "Machine", "Regions in the network at once.")
_Precision = _option("--precision", "NAME", "Machine", f"{', '.join(PRECISIONS)}.")


def extend(
    photo: Annotated[Path, _Photo],
    output: Annotated[Path, _Output],
    left: Annotated[int, _Left] = _DEFAULT.left,
    right: Annotated[int, _Right] = _DEFAULT.right,
    top: Annotated[int, _Top] = _DEFAULT.top,
    bottom: Annotated[int, _Bottom] = _DEFAULT.bottom,
    style: Annotated[str, _Style] = _DEFAULT.style,
    seed: Annotated[int, _Seed] = _DEFAULT.seed,
    method: Annotated[str, _Method] = _DEFAULT.method,
    work_height: Annotated[int, _WorkHeight] = _DEFAULT.work_height,
    solver: Annotated[str, _Solver] = _DEFAULT.solver,
    steps: Annotated[int, _Steps] = _DEFAULT.steps,
    model: Annotated[str, _Model] = _DEFAULT.model,
    device: Annotated[str, _Device] = _DEFAULT.device,
    max_batch: Annotated[int, _MaxBatch] = _DEFAULT.max_batch,
    precision: Annotated[str, _Precision] = _DEFAULT.precision,
    as_json: Annotated[bool, _Json] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Paint on beyond the edges of a photo. Its own pixels stay as they are."""
    settings = EditSettings(
        left, right, top, bottom, style, method, work_height, steps, solver, seed, model, precision, device,
        max_batch,
    )  # fmt: skip
    if not any((left, right, top, bottom)):
        raise Problem(
            "extend: --left, --right, --top or --bottom must say how many pixels to add, got none. "
            "Give one of them."
        )

    def prepare(picture: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        sides = (left, right, top, bottom)
        known = torch.ones(picture.shape[1:], dtype=torch.bool)
        pad = torch.nn.functional.pad
        return pad(picture, sides), pad(known, sides, value=False)

    _edit("extend", settings, [photo], output, prepare, as_json=as_json, quiet=quiet)


def inpaint(
    photo: Annotated[Path, _Photo],
    mask: Annotated[
        Path,
        typer.Argument(
            metavar="MASK", help="A picture of the same size: white is painted anew.", show_default=False
        ),
    ],
    output: Annotated[Path, _Output],
    style: Annotated[str, _Style] = _DEFAULT.style,
    seed: Annotated[int, _Seed] = _DEFAULT.seed,
    method: Annotated[str, _Method] = _DEFAULT.method,
    work_height: Annotated[int, _WorkHeight] = _DEFAULT.work_height,
    solver: Annotated[str, _Solver] = _DEFAULT.solver,
    steps: Annotated[int, _Steps] = _DEFAULT.steps,
    model: Annotated[str, _Model] = _DEFAULT.model,
    device: Annotated[str, _Device] = _DEFAULT.device,
    max_batch: Annotated[int, _MaxBatch] = _DEFAULT.max_batch,
    precision: Annotated[str, _Precision] = _DEFAULT.precision,
    as_json: Annotated[bool, _Json] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Paint a part of a photo anew. All other pixels stay as they are."""
    settings = EditSettings(
        0, 0, 0, 0, style, method, work_height, steps, solver, seed, model, precision, device, max_batch
    )  # fmt: skip

    def prepare(picture: Tensor) -> tuple[Tensor, Tensor]:
        from intarsia.media import read_image

        light = read_image(mask, max_pixels=MAX_PIXELS).mean(0)
        if light.shape != picture.shape[1:]:
            sizes = [f"{t.shape[-1]} x {t.shape[-2]}" for t in (picture, light)]
            raise Problem(
                f"inpaint: MASK must have the size of the photo, {sizes[0]}, got {sizes[1]}. Resize it."
            )
        known = light <= 0
        for state, what in ((known, "white anywhere"), (~known, "black anywhere")):
            if bool(state.all()):
                raise Problem(
                    f"inpaint: MASK must be {what}, got none of it. White is painted anew, black stays."
                )
        return picture, known

    _edit("inpaint", settings, [photo, mask], output, prepare, as_json=as_json, quiet=quiet)


def _edit(
    command: str,
    settings: EditSettings,
    sources: list[Path],
    output: Path,
    prepare: Any,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    began = time.monotonic()
    file = ModelFile.open(settings.model, command=command)
    patch = settings.check(command, file)
    from intarsia.cli import job
    from intarsia.media import read_image, write_png

    job.check_output(output, command=command)
    whole = read_image(sources[0], max_pixels=MAX_PIXELS)
    # Before anything of the new size is set aside.
    settings.check_size(
        command,
        whole.shape[1] + settings.top + settings.bottom,
        whole.shape[2] + settings.left + settings.right,
        patch,
    )
    picture, known = prepare(whole)
    result, settings, device = _paint(command, settings, file, patch, picture, known, quiet=quiet or as_json)
    facts = job.facts_of(settings, file, device, _command(command, settings, sources))
    facts["sources_sha256"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    write_png(result, output, text=job.text_of(facts))
    seconds = time.monotonic() - began
    if as_json:
        about = {"path": show_path(output), "seconds": round(seconds, 2), **facts}
        typer.echo(json.dumps(about, ensure_ascii=True))
    elif not quiet:
        size = f"{result.shape[2]} x {result.shape[1]}"
        typer.echo(
            f"{show_path(output)}: {size} pixels in {seconds:.1f} s, style {settings.style}, "
            f"seed {settings.seed}"
        )


def _paint(
    command: str,
    settings: EditSettings,
    file: ModelFile,
    patch: tuple[int, int],
    picture: Tensor,
    known: Tensor,
    *,
    quiet: bool,
) -> tuple[Tensor, EditSettings, Any]:
    import torch

    from intarsia import models
    from intarsia.cli import job
    from intarsia.cli.fill import fill, paste, reduced, style_like

    device = job.find_device(settings.device, command=command)
    dtype = None if settings.precision == "auto" else getattr(torch, settings.precision)
    denoiser = models.load(str(file.path), device=device, dtype=dtype)
    size = settings.check_size(command, known.shape[0], known.shape[1], patch)
    small, whole = reduced(picture, known, size)
    small = small.to(device)
    names = ("none", *file.styles)
    style = settings.style
    if style == "auto":
        style = names[style_like(denoiser, small, whole, patch, len(file.styles))]
    precision = str(denoiser.compute_dtype).removeprefix("torch.")
    settings = dataclasses.replace(settings, style=style, precision=precision)
    with job.progress(settings.steps, f"painting {known.shape[1]} x {known.shape[0]}", quiet=quiet) as bar:

        def tick(step: int, state: object, info: object) -> None:
            bar.update()

        painted = fill(
            denoiser,
            small,
            whole,
            patch=patch,
            method=settings.method,
            style=0 if style == "none" else denoiser.styles[style],
            solver=settings.solver,
            steps=settings.steps,
            seed=settings.seed,
            max_batch=settings.max_batch,
            sigma_range=(denoiser.sigma_min, denoiser.sigma_max),
            callback=tick,
        )
    return paste(picture, known, painted), settings, device


def _command(command: str, settings: EditSettings, sources: list[Path]) -> str:
    names = ["photo.png", "mask.png"][: len(sources)]
    words = ["intarsia", command, *names, "-o", "picture.png"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            words += ["--" + field.name.replace("_", "-"), str(value)]
    return shlex.join(words)
