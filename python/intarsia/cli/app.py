# SPDX-License-Identifier: Apache-2.0
"""The root of the command, and how it ends: exit codes and one-line errors."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, TextIO

import typer
import typer.main

from intarsia.cli.compose import compose
from intarsia.cli.doctor import doctor
from intarsia.cli.edit import extend, inpaint
from intarsia.cli.generate import generate
from intarsia.cli.panorama360 import panorama360
from intarsia.cli.screen import Command, Group, Problem, one_line, say
from intarsia.cli.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Compose small diffusion models into pictures larger than any of them was trained for.",
    epilog="First picture: [bold]intarsia generate image -o panorama.png[/bold]",
)
generate.command("panorama360", cls=Command)(panorama360)
app.add_typer(generate, name="generate")
app.add_typer(train, name="train")
app.command("compose", cls=Command, no_args_is_help=True)(compose)
app.command("extend", cls=Command)(extend)
app.command("inpaint", cls=Command)(inpaint)
app.command("doctor", cls=Command)(doctor)


def _version(value: bool) -> None:
    if value:
        from intarsia import __version__

        typer.echo(f"intarsia {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _explain(error: Exception) -> tuple[str, int]:
    """What to tell the user, and the exit code: 2 where another command line would help, else 1."""
    if isinstance(error, Problem):
        return str(error), error.code
    if hasattr(error, "format_message"):
        return error.format_message(), getattr(error, "exit_code", 2)
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{place}{error.strerror}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory. Use a smaller --max-batch, --width or --height.", 1
    if isinstance(error, ValueError) and not hasattr(error, "step"):
        return str(error), 2
    return str(error) or type(error).__name__, 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(one_line(str(message)), title="note", colour="yellow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the program's name; None takes `sys.argv`.

    Returns:
        The exit code: 0 done, 1 failed, 2 the command line is not legal, 130 interrupted.

    Example:
        >>> main(["--version"]) # doctest: +ELLIPSIS
        intarsia ...
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = typer.main.get_command(app).main(given, prog_name="intarsia", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if "--debug" in given:
            import traceback

            traceback.print_exc()
        if type(error).__name__ == "NoArgsIsHelpError":
            return 0
        text, code = _explain(error)
        say(one_line(text), title="error", colour="red")
        return code
    if code == 130:
        say("interrupted; no partial file is left")
    return code if isinstance(code, int) else 0
