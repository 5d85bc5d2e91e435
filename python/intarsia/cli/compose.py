# SPDX-License-Identifier: Apache-2.0
"""`intarsia compose`: a scene's file becomes a picture, or says what it would take."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from intarsia.cli.screen import Debug, Problem, Quiet, show_path

__all__ = ["compose"]


def compose(
    scene: Annotated[
        Path | None,
        typer.Argument(
            metavar="SCENE",
            help="A .yaml or .json file; or a .png that this command made, to repeat it.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.png",
            help="The picture; replaced if it exists.",
            show_default=False,
        ),
    ] = None,
    reroll: Annotated[
        list[str] | None,
        typer.Option(
            "--reroll",
            metavar="NAME=SEED",
            help="Fresh noise for one region; may be given several times.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="FILE.png",
            help="With --reroll: outside those regions, this picture stays to the pixel.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", metavar="", help="Say what it takes, draw the regions; paint nothing."),
    ] = False,
    drawing: Annotated[
        Path | None,
        typer.Option(
            "--drawing", metavar="FILE.png", help="The regions as a picture, in colours.", show_default=False
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", metavar="", help="Print the JSON Schema of scenes.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print the result as one line of JSON.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Paint a scene: regions, guides and prompts or styles, written down in a file.

    The picture carries its scene: [bold]intarsia compose out.png -o again.png[/bold] repeats it, byte for
    byte. Scenes to begin with are in examples/scenes; docs/scenes.md explains every key.
    """
    began = time.monotonic()
    if schema:
        from intarsia.scene import json_schema

        typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=True))
        return
    if scene is None:
        raise Problem(
            "compose: SCENE must be given, got none. Name a .yaml, .json or .png file, or see --help."
        )
    if output is None and drawing is None and not explain:
        raise Problem(
            "compose: --output must be given, got none. Write -o picture.png; or --explain paints nothing."
        )
    from intarsia.cli import compose_job as job

    for path, option in ((output, "--output"), (drawing, "--drawing")):
        if path is not None:
            job.check_output(path, option)
    plan, then = job.prepare(
        scene, rerolls=reroll or [], keep=keep, painting=output is not None and not explain
    )
    if drawing is not None:
        job.draw(plan.scene, drawing)
    if explain:
        job.explain(plan, as_json=as_json)
        return
    if output is None:
        return
    now = job.run(plan, output, quiet=quiet or as_json)
    seconds = time.monotonic() - began
    if then and not quiet:
        job.note_differences(then, now)
    if as_json:
        typer.echo(
            json.dumps({"path": show_path(output), "seconds": round(seconds, 2), **now}, ensure_ascii=True)
        )
    elif not quiet:
        upscale = plan.scene.output.upscale
        size = f"{plan.scene.canvas.width * upscale} x {plan.scene.canvas.height * upscale}"
        typer.echo(f"{show_path(output)}: {size} pixels in {seconds:.1f} s, seed {plan.scene.seed}")
