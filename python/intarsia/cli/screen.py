# SPDX-License-Identifier: Apache-2.0
"""What the command shows: messages, tidy help, paths of any encoding."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Debug", "Group", "Problem", "Quiet", "one_line", "say", "show_path"]


class Problem(Exception):
    """Something to tell the user in one line.

    Args:
        text: the sentence.
        code: exit code; 2 where another command line would help, else 1.
    """

    def __init__(self, text: str, *, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


class Command(TyperCommand):
    """A command whose help does not call `--help` a `<bool>`."""

    def get_help_option(self, ctx: Any) -> Any:
        """The help option, without a type."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


class Group(TyperGroup):
    """A group of commands whose help does not call `--help` a `<bool>`."""

    def get_help_option(self, ctx: Any) -> Any:
        """The help option, without a type."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Show nothing but errors.")]


def show_path(path: str | os.PathLike[str]) -> str:
    r"""A path for the screen; bytes that are not UTF-8 appear as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """`text` without line breaks, and printable everywhere."""
    return show_path(" ".join(text.split()))


def say(text: str, *, title: str = "", colour: str | None = None) -> None:
    """Print one line on standard error, `intarsia: title: text`."""
    head = typer.style(f"{title}: ", fg=colour, bold=True) if title else ""
    line = f"intarsia: {head}{text}"
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    typer.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=True)
