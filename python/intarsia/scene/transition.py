# SPDX-License-Identifier: Apache-2.0
"""Styles that follow each other along a canvas: how much of each an interval has."""

from __future__ import annotations

__all__ = ["shares"]


def shares(centre: float, pieces: int, width: float, blend: float, *, loop: bool) -> list[tuple[int, float]]:
    """Each piece's part of an interval of length `blend` around `centre`.

    Args:
        centre: of the interval.
        pieces: equal parts of the width, one for each style.
        width: of the canvas.
        blend: length of the interval; 0 takes the piece of the centre alone.
        loop: whether the last piece is followed by the first.

    Returns:
        `(piece, share)` with positive shares that sum to one, in the order of the pieces.

    Example:
        >>> shares(32, 2, 64, 16, loop=False)
        [(0, 0.5), (1, 0.5)]
    """
    piece = width / pieces
    if blend == 0 or pieces == 1:
        return [(min(int(centre / piece), pieces - 1), 1.0)]
    low, high = centre - blend / 2, centre + blend / 2
    parts: dict[int, float] = {}
    for k in range(-pieces, 2 * pieces):
        begin, end = k * piece, (k + 1) * piece
        if not loop:
            if not 0 <= k < pieces:
                continue
            begin, end = (begin if k else low), (end if k < pieces - 1 else high)
        part = min(high, end) - max(low, begin)
        if part > 1e-9 * blend:
            parts[k % pieces] = parts.get(k % pieces, 0.0) + part / blend
    return sorted(parts.items())
