# SPDX-License-Identifier: Apache-2.0
"""How far a call has come: a bar for who looks, a callback for who may end it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from intarsia.samplers._progress import progress_bar

Tick: TypeAlias = Callable[[int, int], object]


class Watch:
    """Counts parts as they are done.

    Args:
        total: parts in all.
        progress: show a bar; None: where a terminal looks on.
        callback: told (parts done, parts in all) after each; what it raises ends the call.
    """

    def __init__(self, total: int, progress: bool | None, callback: Tick | None) -> None:
        self.done, self.total, self.callback = 0, total, callback
        self.bar = progress_bar(progress, total=total, done=0)

    def __call__(self) -> None:
        """One more part is done."""
        self.done += 1
        self.bar.update()
        if self.callback is not None:
            self.callback(self.done, self.total)

    def expect(self, more: int) -> None:
        """Some parts have to be done again."""
        self.total += more
        if hasattr(self.bar, "total"):
            self.bar.total = self.total

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
