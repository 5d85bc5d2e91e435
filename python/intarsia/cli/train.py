# SPDX-License-Identifier: Apache-2.0
"""`intarsia train image`: the front of `intarsia.training.image`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from intarsia.cli.screen import Command, Debug, Group, Problem, Quiet, say, show_path

__all__ = ["train"]

train = typer.Typer(cls=Group, no_args_is_help=True, help="Train the small networks that intarsia composes.")


@train.callback()
def _root() -> None:
    pass


@train.command("image", cls=Command)
def image(
    data: Annotated[
        Path, typer.Option("--data", "-d", metavar="FOLDER", help="Photographs, one sub-folder per style.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="For model, checkpoint, log and sample sheet."),
    ],
    iterations: Annotated[
        int | None, typer.Option(metavar="N", show_default="12000", help="Optimiser steps.")
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", show_default="16", help="Crops per step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", show_default="0.0004", help="Adam's, after the warm-up.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", show_default="0", help="Of every random number.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", metavar="", help="Start again, even if there is a checkpoint.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a picture model on a folder of photographs.

    An interrupted run goes on from its last checkpoint when the same command is given again. Then:
    [bold]intarsia generate image --model FOLDER/model.safetensors -o out.png[/bold]
    """
    if not data.is_dir():
        raise Problem(
            f"train image: --data must be a folder with one sub-folder of photographs per style, got "
            f"{show_path(data)!r}. Put pictures into FOLDER/<style>/."
        )
    given = {"iterations": iterations, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if not value >= (0 if name == "seed" else 1e-12):
            raise Problem(
                f"train image: --{name.replace('_', '-')} must be positive, got {value}. "
                "Leave it out for the default."
            )
    from intarsia.training.image import ImageTraining
    from intarsia.training.image import train as run

    path = run(data, output, ImageTraining(**chosen), resume=not fresh, progress=not quiet)
    if not quiet:
        say(f"wrote {show_path(path)}")


@train.command("motion", cls=Command)
def motion(
    data: Annotated[
        Path, typer.Option("--data", "-d", metavar="FILE.npz", help="Clips of the CMU motion capture set.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="For model, checkpoint and log.")
    ],
    iterations: Annotated[
        int | None, typer.Option(metavar="N", show_default="6000", help="Optimiser steps.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", show_default="0", help="Of every random number.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", metavar="", help="Start again, even if there is a checkpoint.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a motion model on clips of motion capture.

    An interrupted run goes on from its last checkpoint when the same command is given again. Then:
    [bold]intarsia generate motion --model FOLDER/model.safetensors -o out.bvh[/bold]
    """
    given = {"iterations": iterations, "seed": seed}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if value < (name != "seed"):
            raise Problem(
                f"train motion: --{name} must be positive, got {value}. Leave it out for the default."
            )
    from intarsia.media.motion import read_clips
    from intarsia.training import MotionTraining, train_motion

    clips = [(clip.motion, clip.action, clip.held) for clip in read_clips(data)]
    path = train_motion(clips, output, MotionTraining(**chosen), resume=not fresh, progress=not quiet)
    if not quiet:
        say(f"wrote {show_path(path)}")
