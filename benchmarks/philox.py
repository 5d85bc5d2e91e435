# SPDX-License-Identifier: Apache-2.0
"""The float64 truth of canvas noise, in numpy from the definition: Philox4x32-10, then Box and Muller.

The key of a stream is the first half of the block (purpose, step, 0, 0) under the seed; the four numbers at
4 b .. 4 b + 3 of the last axis come of the block (channel, b, x1, x0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["canvas_normals"]

Words = npt.NDArray[np.uint64]
FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEPS = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF
HALF = np.uint64(32)


def _philox(counter: tuple[Words, ...], key: tuple[int, int]) -> tuple[Words, ...]:
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    for number in range(10):
        k0, k1 = (np.uint64((k + number * s) & LOW) for k, s in zip(key, STEPS, strict=True))
        first, second = FACTORS[0] * c0, FACTORS[1] * c2
        low = np.uint64(LOW)
        c0, c1 = (second >> HALF) ^ c1 ^ k0, second & low
        c2, c3 = (first >> HALF) ^ c3 ^ k1, first & low
    return c0, c1, c2, c3


def _normals(a: Words, b: Words) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    # The uniform number is a float32 by definition, all that follows is exact arithmetic, rounded here.
    u = ((a >> np.uint64(1)).astype(np.float32) + np.float32(0.5)).astype(np.float64) * 2.0**-31
    quarter = ((b << np.uint64(2)) & np.uint64(LOW)).astype(np.uint32).view(np.int32)
    angle = quarter.astype(np.float32).astype(np.float64) * 2.0**-31 * (np.pi / 4)
    radius = np.sqrt(np.maximum(-2 * np.log(u), 0)) * np.where(b >> np.uint64(31), -1.0, 1.0)
    swap = (b & np.uint64(0x40000000)) != 0
    sine, cosine = np.sin(angle), np.cos(angle)
    return radius * np.where(swap, sine, cosine), radius * np.where(swap, cosine, sine)


def canvas_normals(seed: int, stream: tuple[int, int], rows: range, width: int, channel: int = 0) -> Tensor:
    """Return the normals of some rows of a two-dimensional canvas at the origin, [rows, width] float64."""

    def words(*numbers: int) -> tuple[Words, ...]:
        return tuple(np.array([number], dtype=np.uint64) for number in numbers)

    key = _philox(words(*stream, 0, 0), (seed & LOW, seed >> 32))[:2]
    blocks = np.arange(-(-width // 4), dtype=np.uint64)[None]
    place = np.array(rows, dtype=np.uint64)[:, None]
    counter = (words(channel)[0], blocks, place, words(0)[0])
    a, b, c, d = _philox(counter, (int(key[0][0]), int(key[1][0])))
    found = np.stack([*_normals(a, b), *_normals(c, d)], axis=-1).reshape(len(rows), -1)[:, :width]
    return torch.from_numpy(np.ascontiguousarray(found))
