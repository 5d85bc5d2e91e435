# SPDX-License-Identifier: Apache-2.0
"""Standard normal noise that belongs to places of a canvas, not to elements of memory."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._arguments import as_ints
from intarsia.ops._backend import select
from intarsia.ops._check import FLOATS, FOUR, check_out_argument, fail
from intarsia.ops._library import bump, choose, register

__all__ = ["canvas_noise"]

_NAME = "canvas_noise"
_WORDS = 2**32


def canvas_noise(
    seed: int | Sequence[int],
    stream: tuple[int, int],
    offset: Sequence[int],
    size: Sequence[int],
    *,
    channels: int = 1,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Standard normal noise of a box of canvas places; a crop, a larger or a shifted box has the same noise.

    out[b, c, x] = n(seed[b], stream; c, offset + x), n independent in every argument

    The integers are Philox4x32-10 with key(seed, purpose, step) and counter (channel, floor(x / 4) along the
    last axis, the other coordinates from the last to the first, 0 for an axis that is not there); the word
    is x mod 4. The key is the first half of the Philox block (purpose, step, 0, 0) under the seed. Two
    neighbours, 2k and 2k + 1, are made of their two words by Box and Muller's transform.

    Args:
        seed: One 64-bit integer, or B of them, one per sample; a negative one means its bits.
        stream: (purpose, step), each from 0 to 2^32 - 1: for what the noise is drawn, and when.
            `intarsia.types.Purpose` names those that the samplers use.
        offset: Signed coordinates of the first place in axis order, -2^31 to 2^31 - 1.
        size: Lengths S of the box in axis order, one to three axes.
        channels: C.
        dtype: float16, bfloat16, float32 or float64; that of `out`, or float32, if None.
        device: Device of the noise; that of `out`, or the CPU, if None.
        out: [B, C, *S] contiguous, written and returned.

    Returns:
        [B, C, *S], B = 1 for one seed.

    Raises:
        ValueError: If an argument has the wrong type or length, or a coordinate does not fit 32 signed bits.

    Note:
        Deterministic: no state, any number of threads. Integers and float32 normals are equal on every
        backend; |z| <= 6.67. Float64 normals are computed from the same float32 uniforms, so that the noise
        of all dtypes differs by rounding alone. Of the 64 bits of a key, two streams share all with a
        chance of 2^-64. No gradient. A CUDA graph replays the noise it was captured with.

    Source:
        Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Example:
        >>> from intarsia import ops
        >>> wide = ops.canvas_noise(7, (0, 0), (0, -32), (64, 128), channels=3)
        >>> bool((wide[..., 32:] == ops.canvas_noise(7, (0, 0), (0, 0), (64, 96), channels=3)).all())
        True
    """
    seeds = as_seeds(_NAME, seed)
    purpose, step = _stream(stream)
    start, extents = as_ints(_NAME, "offset", offset), as_ints(_NAME, "size", size)
    (count,) = as_ints(_NAME, "channels", [channels])
    if out is None:
        real = torch.float32 if dtype is None else dtype
        where = torch.device("cpu") if device is None else torch.device(device)
        return choose(_NAME, _noise)(seeds, purpose, step, start, extents, count, real, where)
    check_out_argument(_NAME, out, dtype)
    if device is not None and not _names(torch.device(device), out.device):
        fail(_NAME, "out", f"be on {device}", out.device, "Leave device out to take it from out.")
    if out.shape != (len(seeds), count, *extents):
        _shape(seeds, purpose, step, start, extents, count, out.dtype, out.shape)
    choose(f"{_NAME}_out", _noise_out, out)(seeds, purpose, step, start, out)
    return out


def _names(device: torch.device, actual: torch.device) -> bool:
    return device.type == actual.type and device.index in (None, actual.index)


def as_seeds(function: str, seed: int | Sequence[int]) -> list[int]:
    """Seeds as signed 64-bit integers, one per sample.

    Raises:
        ValueError: If one is no integer, or does not fit 64 bits.
    """
    each = seed if isinstance(seed, Sequence) else [seed]
    seeds = []
    for one in each:
        try:
            number = operator.index(one)
        except TypeError:
            wanted = "be an integer, or a sequence of one for each sample"
            fail(function, "seed", wanted, repr(one), "Pass 42, say.")
        if not -(2**63) <= number < 2**64:
            fail(function, "seed", "fit 64 bits", number, "Take it modulo 2**64.")
        seeds.append(number - 2**64 if number >= 2**63 else number)
    return seeds


def _stream(stream: Any) -> tuple[Any, Any]:
    if not isinstance(stream, Sequence) or isinstance(stream, str) or len(stream) != 2:
        fail(_NAME, "stream", "be a pair (purpose, step)", repr(stream), "Pass (0, 0), say.")
    purpose, step = as_ints(_NAME, "stream", stream)
    return purpose, step


def _shape(
    seed: Sequence[int],
    purpose: Any,
    step: Any,
    offset: Sequence[Any],
    size: Sequence[Any],
    channels: Any,
    dtype: torch.dtype,
    given: Sequence[Any] | None = None,
) -> tuple[Any, ...]:
    for number in (purpose, step):
        if not 0 <= number < _WORDS:
            remedy = "Purpose and step are 32 bits each."
            fail(_NAME, "stream", "hold integers from 0 to 2^32 - 1", (purpose, step), remedy)
    if not 1 <= len(size) <= 3:
        fail(_NAME, "size", "have one to three axes", tuple(size), "Fold the other axes into channels.")
    if len(offset) != len(size):
        remedy = "Use 0 where a canvas begins."
        fail(_NAME, "offset", f"have one coordinate for each of the {len(size)} axes", tuple(offset), remedy)
    for start, length in zip(offset, size, strict=True):
        if length < 0:
            fail(_NAME, "size", "not be negative", tuple(size), "0 is an empty canvas.")
        if start < -(2**31) or start + length > 2**31:
            got = f"offset {tuple(offset)} and size {tuple(size)}"
            fail(_NAME, "offset", "keep coordinates within 32 signed bits", got, "Count from elsewhere.")
    if not 0 <= channels <= _WORDS:
        fail(_NAME, "channels", "be from 0 to 2^32", channels, "Channels are counted in 32 bits.")
    if dtype not in FLOATS:
        fail(_NAME, "dtype", FOUR, dtype, "Choose one of them.")
    shape = (len(seed), channels, *size)
    if given is not None and tuple(given) != shape:
        fail(_NAME, "out", f"have shape {list(shape)}", f"shape {list(given)}", "Use torch.empty.")
    return shape


def _noise(*inputs: Any) -> Tensor:
    seed, purpose, step, offset, size, channels, dtype, device = inputs
    out = torch.empty(_shape(*inputs[:-1]), dtype=dtype, device=device)
    if out.numel():
        select(out.device).canvas_noise(out, seed, purpose, step, offset)
    return out


def _fake(*inputs: Any) -> Tensor:
    return torch.empty(_shape(*inputs[:-1]), dtype=inputs[-2], device=inputs[-1])


def _check_out(seed: Any, purpose: Any, step: Any, offset: Any, out: Tensor) -> None:
    _shape(seed, purpose, step, offset, out.shape[2:], out.shape[1], out.dtype, out.shape)
    if not out.is_contiguous():
        fail(_NAME, "out", "be contiguous", f"strides {out.stride()}", "Write a dense tensor and copy.")
    if torch.is_grad_enabled() and out.requires_grad:
        remedy = "Leave out=, or run under torch.no_grad()."
        fail(_NAME, "out", "be used without gradients", "a tensor that requires grad", remedy)


def _noise_out(*inputs: Any) -> None:
    seed, purpose, step, offset, out = inputs
    _check_out(*inputs)
    if out.numel():
        select(out.device).canvas_noise(out, seed, purpose, step, offset)
    bump(out)


_PLACE = "int[] seed, SymInt purpose, SymInt step, SymInt[] offset"
register(
    _NAME,
    f"({_PLACE}, SymInt[] size, SymInt channels, ScalarType dtype, Device device) -> Tensor",
    _noise,
    _fake,
)
register(f"{_NAME}_out", f"({_PLACE}, Tensor(a!) out) -> ()", _noise_out, _check_out)
