# SPDX-License-Identifier: Apache-2.0
"""A progress bar that is there only when somebody looks."""

from __future__ import annotations

import sys
from typing import Protocol


class _Bar(Protocol):
    def update(self) -> object: ...

    def close(self) -> object: ...


class _Silent:
    def update(self) -> None:
        pass

    def close(self) -> None:
        pass


def progress_bar(wanted: bool | None, *, total: int, done: int) -> _Bar:
    """Return a bar of `total` steps, `done` of them behind us; a silent one where none is wanted.

    Raises:
        ImportError: `wanted` is True and tqdm is not installed.

    Example:
        >>> bar = progress_bar(False, total=3, done=0)
        >>> bar.update(), bar.close()
        (None, None)
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (terminal if wanted is None else wanted):
        return _Silent()
    try:
        from tqdm import tqdm
    except ImportError as error:
        if wanted is None:
            return _Silent()
        raise ImportError(
            "sample: progress must be False or None where tqdm is absent, got True. Install tqdm."
        ) from error

    class Bar(tqdm):
        # No watching thread: a run that is interrupted leaves nothing behind.
        monitor_interval = 0

    return Bar(total=total, initial=done, unit="step", dynamic_ncols=True, leave=True)
