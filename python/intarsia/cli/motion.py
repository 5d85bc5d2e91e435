# SPDX-License-Identifier: Apache-2.0
"""`intarsia generate motion`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.cli.screen import Debug, Problem, Quiet, say, show_path

if TYPE_CHECKING:
    from intarsia.kinematics import FeatureSpace
    from intarsia.models import EDMDenoiser

__all__ = ["motion"]

_MODEL, _MAX_SECONDS = "moves", 600.0
_METHODS = ("bethe", "average", "concat")


def _refuse(option: str, requirement: str, got: object, remedy: str, *, code: int = 2) -> Problem:
    return Problem(f"generate motion: --{option} must {requirement}, got {got}. {remedy}", code=code)


_Output = typer.Option("--output", "-o", metavar="FILE.bvh|.npz", help="The motion; replaced if it exists.")
_Actions = typer.Option(
    metavar="NAME[,...]",
    help="What is done, in order, each for an equal part of the time: walking, running, jumping, soccer, "
    "basketball, basketball_signal, directing_traffic, washwindow.",
)
_Seconds = typer.Option(metavar="S", help="A loop is rounded up to the next length that closes.")
_Loop = typer.Option("--loop", metavar="", help="Let the last frame go on into the first.")
_Method = typer.Option(metavar="NAME", help=f"How windows become one motion: {', '.join(_METHODS)}.")
_Seed = typer.Option(metavar="N", help="Another number, another motion.")
_Steps = typer.Option(metavar="N", help="More is finer and slower.")
_Guidance = typer.Option(metavar="SCALE", help="Above 1 exaggerates the actions and takes longer.")
_Plant = typer.Option("--plant/--no-plant", metavar="", help="Keep standing feet where they stand.")
_Smooth = typer.Option("--smooth/--no-smooth", metavar="", help="Take off the trembling above some 3 Hz.")
_Preview = typer.Option(metavar="FILE.gif|.mp4", help="A stick-figure film; mp4 needs ffmpeg.")
_Model = typer.Option(metavar="NAME|FILE", help="Bundled, or a file of yours.")
_Json = typer.Option("--json", metavar="", help="Print the result as one line of JSON.")


def motion(
    output: Annotated[Path, _Output],
    actions: Annotated[str, _Actions] = "walking,jumping,walking",
    seconds: Annotated[float, _Seconds] = 24.0,
    loop: Annotated[bool, _Loop] = False,
    method: Annotated[str, _Method] = "bethe",
    seed: Annotated[int, _Seed] = 0,
    steps: Annotated[int, _Steps] = 50,
    guidance: Annotated[float, _Guidance] = 1.0,
    plant: Annotated[bool, _Plant] = True,
    smooth: Annotated[bool, _Smooth] = True,
    preview: Annotated[Path | None, _Preview] = None,
    model: Annotated[str, _Model] = _MODEL,
    as_json: Annotated[bool, _Json] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a long motion with a model that only knows two seconds.

    BVH files are in metres, y up, 30 frames a second; bones keep their lengths.
    """
    began = time.monotonic()
    names = tuple(name.strip() for name in actions.split(",") if name.strip())
    _check(names, seconds, method, loop, seed, steps, guidance)
    _check_files(output, preview)
    denoiser, space = _open(model)
    for name in names:
        if name not in denoiser.styles:
            raise _refuse(
                "actions", "be known to the model", repr(name), f"Known: {', '.join(denoiser.styles)}."
            )
    facts = _make(
        denoiser,
        space,
        output,
        preview,
        {
            "actions": names,
            "loop": loop,
            "method": method,
            "steps": steps,
            "guidance": guidance,
            "seed": seed,
        },
        seconds=seconds,
        polish={"plant": plant, "smooth": smooth},
        quiet=quiet or as_json,
    )
    facts["wall_seconds"] = round(time.monotonic() - began, 2)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=True))
    elif not quiet:
        kind = "loop" if loop else "motion"
        typer.echo(
            f"{show_path(output)}: a {kind} of {facts['seconds']:g} s, {facts['frames']} frames, "
            f"in {facts['wall_seconds']:.1f} s, seed {seed}"
        )


def _check(
    names: tuple[str, ...], seconds: float, method: str, loop: bool, seed: int, steps: int, guidance: float
) -> None:
    if not names or len(names) > 256:
        raise _refuse("actions", "name 1 to 256 actions", len(names), "Try walking,jumping,walking.")
    if not 0.1 <= seconds <= _MAX_SECONDS:
        raise _refuse("seconds", f"lie in 0.1 to {_MAX_SECONDS:g}", seconds, "Make longer ones in Python.")
    if method not in _METHODS:
        raise _refuse("method", f"be one of {', '.join(_METHODS)}", repr(method), "bethe is the default.")
    if loop and method == "concat":
        raise _refuse("method", "be bethe or average with --loop", "concat", "Its windows share no frames.")
    if not 0 <= seed < 2**63:
        raise _refuse("seed", "lie in 0 to 2^63 - 1", seed, "Choose another.")
    if not 1 <= steps <= 1000:
        raise _refuse("steps", "lie in 1 to 1000", steps, "50 is the default.")
    if not 0 <= guidance <= 100:
        raise _refuse("guidance", "lie in 0 to 100", guidance, "1 follows the model.")


def _check_files(output: Path, preview: Path | None) -> None:
    """Refuse places where nothing could be written, before the work begins."""
    from intarsia.media import check_writable
    from intarsia.media.motion import check_preview

    if output.suffix.lower() not in (".bvh", ".npz"):
        raise _refuse("output", "end in .bvh or .npz", repr(show_path(output.name)), "Blender reads BVH.")
    if preview is not None:
        check_preview(preview)
    for option, path in (("output", output), ("preview", preview)):
        try:
            if path is not None:
                check_writable(path)
        except OSError as error:
            reason = f"{show_path(path or '')!r} ({show_path(error.filename)}: {error.strerror})"
            remedy = "Choose a folder that exists and is yours."
            raise _refuse(option, "be a file that can be written", reason, remedy, code=1) from error


def _open(model: str) -> tuple[EDMDenoiser, FeatureSpace]:
    from intarsia import models
    from intarsia.kinematics import FeatureSpace

    try:
        denoiser = models.load(model)
        return denoiser, FeatureSpace.from_json(denoiser.about["motion"])
    except (ValueError, KeyError) as error:
        reason = f"{show_path(model)!r} ({error if isinstance(error, ValueError) else 'no model of motion'})"
        raise _refuse(
            "model", "be a model of motion", reason, "Train one: `intarsia train motion`."
        ) from error


def _make(
    denoiser: EDMDenoiser,
    space: FeatureSpace,
    output: Path,
    preview: Path | None,
    settings: dict[str, Any],
    *,
    seconds: float,
    polish: dict[str, bool],
    quiet: bool,
) -> dict[str, Any]:
    """Sample and write; returns the facts."""
    from tqdm import tqdm

    from intarsia.cli.animate import MotionSettings, animate
    from intarsia.media.motion import write_bvh, write_npz, write_preview

    chosen = MotionSettings(frames=max(1, round(seconds * space.fps)), **settings)

    def bar(total: int, words: str, unit: str) -> Any:
        return tqdm(
            total=total,
            desc=words,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} " + unit + ", {remaining} left",
            leave=False,
            ncols=min(shutil.get_terminal_size().columns, 100),
            nrows=24,
            disable=True if quiet else None,
        )

    with bar(chosen.steps, f"moving {seconds:g} s", "steps") as shown:
        features = animate(denoiser, chosen, callback=lambda *_: shown.update() and None)[0]
    made = space.decode(features, loop=chosen.loop, **polish)
    (write_npz if output.suffix.lower() == ".npz" else write_bvh)(made, output)
    if chosen.loop and abs(len(made) / space.fps - seconds) > 1e-6 and not quiet:
        say(f"a loop that closes takes {len(made) / space.fps:g} s", title="note", colour="yellow")
    if preview is not None:
        captions = [chosen.actions[i * len(chosen.actions) // len(made)] for i in range(len(made))]
        with bar(
            int(len(made) * (30 if preview.suffix.lower() == ".mp4" else 15) / space.fps), "drawing", "frames"
        ) as shown:
            write_preview(made, preview, captions=captions, callback=shown.update)
    facts = {"path": show_path(output), "frames": len(made), "seconds": round(len(made) / space.fps, 3)}
    return facts | settings | polish | {"preview": None if preview is None else show_path(preview)}
