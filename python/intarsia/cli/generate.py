# SPDX-License-Identifier: Apache-2.0
"""`intarsia generate image`."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from intarsia.cli.model_file import ModelFile, bundled
from intarsia.cli.motion import motion
from intarsia.cli.screen import Command, Debug, Group, Problem, Quiet, show_path
from intarsia.cli.settings import DEFAULT_STYLES, METHODS, PRECISIONS, SOLVERS, ImageSettings

__all__ = ["generate"]

generate = typer.Typer(cls=Group, no_args_is_help=True, help="Make something new with a bundled model.")
_DEFAULT = ImageSettings()


@generate.callback()
def _root() -> None:
    pass


def _option(flag: str, metavar: str, panel: str, help: str) -> Any:
    """An option whose default is that of `ImageSettings`; None means that it was not given."""
    name = flag.partition("/")[0].removeprefix("--").replace("-", "_")
    default = getattr(_DEFAULT, name)
    shown = "" if name in ("style", "loop", "stride") else f" [dim](default {default})[/dim]"
    return typer.Option(flag, metavar=metavar, help=help + shown, rich_help_panel=panel, show_default=False)


def _style_help() -> str:
    try:
        known = f" Bundled: {', '.join(ModelFile.open(_DEFAULT.model).styles)}."
    except Problem:
        known = ""
    return known + f" [dim](default {','.join(DEFAULT_STYLES[_DEFAULT.model])})[/dim]"


_Output = typer.Option("--output", "-o", metavar="FILE.png", help="The picture; replaced if it exists.")
_From = typer.Option(
    "--from",
    metavar="FILE.png",
    help="Repeat this picture: its settings hold, except those given beside.",
    show_default=False,
)
_Json = typer.Option("--json", metavar="", help="Print the result as one line of JSON.")
_Width = _option("--width", "PIXELS", "Canvas", "Any from 32 up.")
_Height = _option("--height", "PIXELS", "Canvas", "Any from 32 up.")
_Loop = _option("--loop/--no-loop", "", "Canvas", "Let the right edge continue at the left one.")
_Upscale = _option("--upscale", "FACTOR", "Canvas", "Enlarge the finished picture.")
_Style = _option("--style", "NAME[,...]", "Content", f"What is seen, from left to right.{_style_help()}")
_Blend = _option("--blend", "PIXELS", "Content", "Width over which two styles mix.")
_Guidance = _option("--guidance", "SCALE", "Content", "Above 1 exaggerates the style and doubles the time.")
_Seed = _option("--seed", "N", "Content", "Another number, another picture.")
_Method = _option("--method", "NAME", "Method", f"How regions become one picture: {', '.join(METHODS)}.")
_Stride = _option("--stride", "PIXELS", "Method", "From region to region. [dim](default: half of one)[/dim]")
_Solver = _option("--solver", "NAME", "Method", f"{', '.join(SOLVERS)}.")
_Steps = _option("--steps", "N", "Method", "More is finer and slower.")
_Model = _option(
    "--model", "NAME|FILE", "Machine", f"Bundled ({', '.join(bundled()) or 'none'}) or a file of yours."
)
_Device = _option("--device", "NAME", "Machine", "auto, cpu, cuda, cuda:1 and so on.")
_MaxBatch = _option("--max-batch", "N", "Machine", "Regions in the network at once.")
_Precision = _option("--precision", "NAME", "Machine", f"{', '.join(PRECISIONS)}.")


@generate.command("image", cls=Command)
def image(
    output: Annotated[Path, _Output],
    source: Annotated[Path | None, _From] = None,
    width: Annotated[int | None, _Width] = None,
    height: Annotated[int | None, _Height] = None,
    loop: Annotated[bool | None, _Loop] = None,
    upscale: Annotated[int | None, _Upscale] = None,
    style: Annotated[str | None, _Style] = None,
    blend: Annotated[int | None, _Blend] = None,
    guidance: Annotated[float | None, _Guidance] = None,
    seed: Annotated[int | None, _Seed] = None,
    method: Annotated[str | None, _Method] = None,
    stride: Annotated[int | None, _Stride] = None,
    solver: Annotated[str | None, _Solver] = None,
    steps: Annotated[int | None, _Steps] = None,
    model: Annotated[str | None, _Model] = None,
    device: Annotated[str | None, _Device] = None,
    max_batch: Annotated[int | None, _MaxBatch] = None,
    precision: Annotated[str | None, _Precision] = None,
    as_json: Annotated[bool, _Json] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a wide, seamless picture with a model that only knows small ones.

    The picture carries every setting; [bold]--from[/bold] repeats it, pixel by pixel.
    """
    began = time.monotonic()
    from intarsia.cli import job

    base, then = job.recorded(source) if source else (_DEFAULT, {})
    given: dict[str, Any] = {
        "width": width,
        "height": height,
        "loop": loop,
        "upscale": upscale,
        "style": None if style is None else tuple(name.strip() for name in style.split(",") if name.strip()),
        "blend": blend,
        "guidance": guidance,
        "seed": seed,
        "method": method,
        "stride": stride,
        "solver": solver,
        "steps": steps,
        "model": model,
        "device": device,
        "max_batch": max_batch,
        "precision": precision,
    }
    if style is None and source is None:
        given["style"] = DEFAULT_STYLES.get(model or base.model)
    settings = dataclasses.replace(
        base, **{name: value for name, value in given.items() if value is not None}
    )
    settings.check()
    file = ModelFile.open(settings.model)
    patch = settings.check_model(file)
    job.check_output(output)
    now = job.run(settings, file, patch, output, quiet=quiet or as_json)
    seconds = time.monotonic() - began
    if then and not quiet:
        job.note_differences(then, now)
    if as_json:
        about = {"path": show_path(output), "seconds": round(seconds, 2), **now}
        typer.echo(json.dumps(about, ensure_ascii=True))
    elif not quiet:
        size = f"{settings.width * settings.upscale} x {settings.height * settings.upscale}"
        typer.echo(f"{show_path(output)}: {size} pixels in {seconds:.1f} s, seed {settings.seed}")


generate.command("motion", cls=Command)(motion)
