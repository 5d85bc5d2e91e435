# SPDX-License-Identifier: Apache-2.0
"""Canvas noise place by place, in Python's own integers and its math module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from intarsia.ops._reference_noise import noise_key, philox


def words(seed: int, stream: tuple[int, int], channel: int, place: Sequence[int]) -> tuple[int, ...]:
    """The four words of the counter that serves a place with signed coordinates."""
    *rest, last = place
    x1, x0 = [*reversed(rest), 0, 0][:2]
    counter = [value % 2**32 for value in (channel, last // 4, x1, x0)]
    return philox(counter, noise_key(seed, *stream))


def integer(seed: int, stream: tuple[int, int], channel: int, place: Sequence[int]) -> int:
    return words(seed, stream, channel, place)[place[-1] % 4]


def normal(seed: int, stream: tuple[int, int], channel: int, place: Sequence[int]) -> float:
    lane = place[-1] % 4
    four = words(seed, stream, channel, place)
    return box_muller(*four[:2] if lane < 2 else four[2:])[lane % 2]


def box_muller(a: int, b: int) -> tuple[float, float]:
    """The transform in float64, of uniforms that are float32."""
    u = float(np.float32(a >> 1) + np.float32(0.5)) / 2**31
    radius = math.sqrt(-2 * math.log(u)) * (-1 if b >> 31 else 1)
    fraction = (b << 2) % 2**32
    angle = float(np.float32(fraction - 2**32 if fraction >= 2**31 else fraction)) / 2**31 * math.pi / 4
    pair = radius * math.cos(angle), radius * math.sin(angle)
    return pair[::-1] if b >> 30 & 1 else pair
