# SPDX-License-Identifier: Apache-2.0
"""Canvas noise in plain PyTorch: Philox4x32-10 on int64 tensors, then Box and Muller's transform.

The same integers and the same roundings as every other backend, so the same bits. Source: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ROUNDS = 10
M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF
TWO_LOG_2 = 1.3862943611198906

# -2 log(1 + t) + 2 t = t^2 (q0 + q1 t + ...) on [-1/3, 1/3]; sin(pi/4 y) = y (s0 + s1 y^2 + ...); cos alike.
_HEX_LOGARITHM = (
    "0x1.ffff90p-1 -0x1.5561aep-1 0x1.002598p-1 -0x1.952ef4p-2 0x1.4dfa00p-2 -0x1.6023acp-2 0x1.460370p-2"
)
_HEX_SINE = "0x1.921fb4p-1 -0x1.4abba8p-4 0x1.465a3ep-9 -0x1.2cf5d4p-15"
_HEX_COSINE = "1.0 -0x1.3bd3a2p-2 0x1.03b162p-6 -0x1.4ea9e6p-12"
LOGARITHM, SINE, COSINE = (
    [float.fromhex(word) for word in words.split()] for words in (_HEX_LOGARITHM, _HEX_SINE, _HEX_COSINE)
)


def _series() -> tuple[list[float], list[float], list[float]]:
    quarter = 0.7853981633974483
    logarithm, sine, cosine = [1.0], [quarter], [1.0]
    for k in range(1, 13):
        logarithm.append(1.0 / (2 * k + 1))
        sine.append(-sine[-1] * (quarter * quarter) / (2 * k * (2 * k + 1)))
        cosine.append(-cosine[-1] * (quarter * quarter) / ((2 * k - 1) * 2 * k))
    return logarithm, sine, cosine


# The same in float64, log((1 + s) / (1 - s)) = 2 s (1 + s^2 / 3 + ...).
SERIES = _series()


def philox(counter: Sequence[Any], key: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Four words from a counter of four and a key of two: Python integers or int64 tensors below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = _product(M0, c0), _product(M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + W0) & WORD, (k1 + W1) & WORD
    return c0, c1, c2, c3


def _product(factor: int, word: Any) -> tuple[Any, Any]:
    # By halves: an int64 cannot hold 64 bits and no sign.
    low = factor * (word & 0xFFFF)
    high = factor * (word >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def noise_key(seed: int, purpose: int, step: int) -> tuple[int, int]:
    """The key of a stream: the first two words of the Philox block (purpose, step, 0, 0) under the seed."""
    seed &= 2**64 - 1
    return philox((purpose, step, 0, 0), (seed & WORD, seed >> 32))[:2]


def canvas_integers(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S], int64: the word of each place."""
    _fill(out, seed, purpose, step, offset, lambda words: torch.stack(words, -1))


def canvas_noise(out: Tensor, seed: Sequence[int], purpose: int, step: int, offset: Sequence[int]) -> None:
    """Out [B, C, *S], floating: the normal of each place."""
    real = torch.float64 if out.dtype is torch.float64 else torch.float32

    def normals(words: tuple[Tensor, ...]) -> Tensor:
        pairs = box_muller(words[0], words[1], real), box_muller(words[2], words[3], real)
        return torch.stack([*pairs[0], *pairs[1]], -1)

    _fill(out, seed, purpose, step, offset, normals)


def _fill(
    out: Tensor,
    seed: Sequence[int],
    purpose: int,
    step: int,
    offset: Sequence[int],
    values: Callable[[Any], Tensor],
) -> None:
    if out.numel() == 0:
        return
    device, ndim = out.device, out.dim() - 2

    def axis(start: int, length: int, place: int) -> Tensor:
        words = torch.arange(start, start + length, dtype=torch.int64, device=device) & WORD
        return words.view(-1, *[1] * (3 - place))

    first, skip = offset[-1] >> 2, offset[-1] & 3
    blocks = (skip + out.shape[-1] + 3) // 4
    starts, lengths = [0] * (3 - ndim) + list(offset), [1] * (3 - ndim) + list(out.shape[2:])
    channel = axis(0, out.shape[1], 0)
    rows = [axis(starts[i], lengths[i], i + 1) for i in range(2)]
    counter = (channel, axis(first, blocks, 3), rows[1], rows[0])
    for sample, number in zip(out, seed, strict=True):
        run = values(philox(counter, noise_key(number, purpose, step))).flatten(-2)
        sample.copy_(run[..., skip : skip + out.shape[-1]].reshape(sample.shape))


def box_muller(a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent normals of float32 or float64 from two words (int64 tensors below 2^32).

    a gives u = ((a >> 1) + 1/2) / 2^31 in float32, whatever the dtype; the two top bits of b choose a quarter
    of the circle and the others the angle within.
    """
    bits = ((a >> 1).to(torch.float32) + 0.5).view(torch.int32)
    exponent = (bits - 0x3F2AAAAB) & ~0x7FFFFF
    halvings = (31 - (exponent >> 23)).to(dtype)
    t = ((bits - exponent).view(torch.float32) - 1).to(dtype)
    turn = (b << 2) & WORD
    y = ((turn ^ 0x80000000) - 0x80000000).to(torch.float32).mul(2.0**-31).to(dtype)
    if dtype is torch.float32:
        squared = halvings * TWO_LOG_2 + (t * t * _polynomial(t, LOGARITHM) - (t + t))
        sine, cosine = y * _polynomial(y * y, SINE), _polynomial(y * y, COSINE)
    else:
        s = t / (t + 2)
        logarithm = (s + s) * _polynomial(s * s, SERIES[0])
        squared = halvings * TWO_LOG_2 - (logarithm + logarithm)
        sine, cosine = y * _polynomial(y * y, SERIES[1]), _polynomial(y * y, SERIES[2])
    # PyTorch's own float32 root is not always the nearest number; the float64 one, rounded, is.
    radius = squared.double().sqrt().to(dtype)
    radius = torch.where(b >> 31 != 0, -radius, radius)
    swap = b & 0x40000000 != 0
    return radius * torch.where(swap, sine, cosine), radius * torch.where(swap, cosine, sine)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * x + coefficient
    return total
