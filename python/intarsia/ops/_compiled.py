# SPDX-License-Identifier: Apache-2.0
"""The compiled module, or an ImportError that says what is wrong with it."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

LOAD = 1


def require_whole(path: Path) -> None:
    """Refuse an ELF file that ends early: mapping it would end the process with a bus error.

    Raises:
        ImportError: If a part that the file promises lies past its end.
    """
    data = path.read_bytes()
    if not data.startswith(b"\x7fELF\x02\x01"):
        return
    size = len(data)
    try:
        (table,) = struct.unpack_from("<Q", data, 32)
        width, count = struct.unpack_from("<HH", data, 54)
        for header in range(table, table + width * count, width):
            kind, _, offset, _, _, extent = struct.unpack_from("<IIQQQQ", data, header)
            if kind == LOAD and offset + extent > size:
                raise ImportError(f"{path.name} is cut off after {size} bytes")
    except struct.error:
        raise ImportError(f"{path.name} is cut off after {size} bytes") from None


_spec = importlib.util.find_spec("intarsia._C")
if _spec is not None and _spec.origin is not None:
    require_whole(Path(_spec.origin))

from intarsia import _C  # noqa: E402

__all__ = ["_C"]
