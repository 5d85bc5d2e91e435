# SPDX-License-Identifier: Apache-2.0
"""Angles of rotary position embedding: frequencies per axis, and the table of cosines and sines per token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia.ops._arguments import INTEGERS
from intarsia.ops._check import FLOATS, fail

__all__ = ["rope_frequencies", "rope_table"]

_TABLE = "rope_table"
_FREQUENCIES = "rope_frequencies"


def rope_frequencies(
    dim: int,
    axes: int = 1,
    *,
    theta: float = 10000.0,
    period: Sequence[float | None] | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """Angles per unit of position, one list for each axis of position.

    f_i[j] = theta^(-j / m_i), j = 0 .. m_i - 1, with sum_i m_i = dim / 2

    The dim / 2 pairs are dealt out as evenly as possible, one more to each of the first axes where they do
    not divide: 64 channels give 32 pairs to one axis, 16 and 16 to two, 11, 11 and 10 to three.

    Args:
        dim: D, channels of a head, even.
        axes: n, axes of position, 1 to 3.
        theta: base, above 0.
        period: per axis, the length after which it closes on itself, or None. There the frequencies are
            rounded to multiples of 2 pi / period, so that places a period apart have the same angles; the
            slowest may become 0.
        device: device of the result; the CPU if None.

    Returns:
        Tuple with n tensors [m_i], float64.

    Raises:
        ValueError: If dim is odd or has fewer pairs than there are axes, or theta or a period is not
            positive and finite.

    Source:
        Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, section 3.2.2; on
        several axes, Heo et al., "Rotary position embedding for vision transformer", 2024, section 3.1.

    Example:
        >>> from intarsia import ops
        >>> rows, columns = ops.rope_frequencies(8, 2, period=(None, 64))
        >>> rows.tolist()
        [1.0, 0.01]
        >>> [round(float(f) * 64 / 6.283185307179586, 6) for f in columns]
        [10.0, 0.0]
    """
    pairs = _pairs(_FREQUENCIES, dim)
    if axes not in (1, 2, 3):
        fail(_FREQUENCIES, "axes", "be 1, 2 or 3", axes, "Give one per coordinate of a token.")
    if pairs < axes:
        wanted = f"hold a pair of channels for each of the {axes} axes"
        fail(_FREQUENCIES, "dim", wanted, dim, "Use more channels per head.")
    if not 0 < theta < math.inf:
        fail(_FREQUENCIES, "theta", "be positive and finite", theta, "10000.0 is the published value.")
    lengths = [None] * axes if period is None else list(period)
    if len(lengths) != axes:
        got = f"{len(lengths)} entries"
        fail(_FREQUENCIES, "period", f"have one entry for each of the {axes} axes", got, "None: no period.")
    found = []
    for axis, length in enumerate(lengths):
        count = pairs // axes + (axis < pairs % axes)
        exponent = torch.arange(count, dtype=torch.float64, device=device) / count
        frequency = torch.pow(torch.tensor(theta, dtype=torch.float64, device=device), -exponent)
        if length is not None:
            if not 0 < length < math.inf:
                remedy = "Use None where it does not wrap."
                fail(_FREQUENCIES, "period", "be positive and finite", length, remedy)
            step = 2 * math.pi / length
            frequency = (frequency / step).round() * step
        found.append(frequency)
    return tuple(found)


def rope_table(
    positions: Tensor,
    dim: int,
    *,
    theta: float = 10000.0,
    frequencies: Sequence[Tensor | Sequence[float]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Cosines and sines of every token's angles, for `rope`; to be made once and kept.

    table[..., t, :, :] = (cos a, sin a), a = positions[..., t, 0] f_0, then positions[..., t, 1] f_1, ...

    Args:
        positions: [T, n] or [B, T, n] coordinates of each token on n = 1 to 3 axes, or [T] on one; integers
            or floating point, in units of one place. Fractions, negative numbers and duplicates are welcome.
        dim: D, channels of a head, even.
        theta: base of the frequencies, unless they are given.
        frequencies: n lists or tensors [m_i] of angles per unit, with sum_i m_i = D / 2: see
            `rope_frequencies`, which gives the default. Any other split of the channels is a matter of
            their lengths.
        dtype: float32, or float64 for heads in float64.

    Returns:
        Table [T, 2, D/2] or [B, T, 2, D/2] in `dtype`, on the device of `positions`.

    Raises:
        ValueError: If a shape or dtype is wrong, or positions or frequencies require grad.

    Note:
        Deterministic. Angles, cosines and sines are computed in float64, so that positions of 10^6 lose
        nothing, and rounded once. Not differentiable.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> table = ops.rope_table(torch.tensor([[0, 0], [0, 1], [0.5, 1]]), 8)
        >>> table.shape
        torch.Size([3, 2, 4])
        >>> [round(float(s), 4) for s in table[2, 1]]
        [0.4794, 0.005, 0.8415, 0.01]
    """
    pairs = _pairs(_TABLE, dim)
    wanted = "be a tensor [T, n] or [B, T, n] of numbers, n = 1 to 3"
    if not isinstance(positions, Tensor):
        fail(_TABLE, "positions", wanted, type(positions).__name__, "Wrap them with torch.tensor.")
    places = positions[:, None] if positions.dim() == 1 else positions
    if places.dim() not in (2, 3) or not 1 <= places.shape[-1] <= 3:
        remedy = "Give one coordinate per axis, last."
        fail(_TABLE, "positions", wanted, f"shape {list(positions.shape)}", remedy)
    if places.dtype not in (*FLOATS, *INTEGERS):
        fail(_TABLE, "positions", wanted, places.dtype, "Convert them.")
    if dtype not in (torch.float32, torch.float64):
        fail(_TABLE, "dtype", "be float32 or float64", dtype, "Heads in half types are turned in float32.")
    if frequencies is None:
        lists = rope_frequencies(dim, places.shape[-1], theta=theta, device=places.device)
    else:
        lists = _lists(frequencies, places.shape[-1], pairs, places.device)
    _refuse_gradients(_TABLE, positions, *lists)
    angles = torch.cat([places[..., axis, None].double() * f for axis, f in enumerate(lists)], -1)
    return torch.stack((angles.cos(), angles.sin()), -2).to(dtype)


def _pairs(function: str, dim: int) -> int:
    if dim < 2 or dim % 2:
        fail(function, "dim", "be even and positive", dim, "Channels turn in pairs.")
    return dim // 2


def _lists(
    given: Sequence[Tensor | Sequence[float]], axes: int, pairs: int, device: torch.device
) -> tuple[Tensor, ...]:
    wanted = f"be one list for each of the {axes} axes"
    if not isinstance(given, (tuple, list)) or len(given) != axes:
        got = f"{len(given)} of them" if isinstance(given, (tuple, list)) else type(given).__name__
        fail(_TABLE, "frequencies", wanted, got, "Pass (f_0, ..., f_n), each of rank 1.")
    lists = tuple(f if isinstance(f, Tensor) else torch.tensor(f, dtype=torch.float64) for f in given)
    if any(f.dim() != 1 for f in lists) or sum(f.shape[0] for f in lists) != pairs:
        got = f"shapes {[list(f.shape) for f in lists]}"
        remedy = "Give each axis its share of the pairs."
        fail(_TABLE, "frequencies", f"have rank 1 and D / 2 = {pairs} entries in all", got, remedy)
    _refuse_gradients(_TABLE, *lists)
    return tuple(f.to(device=device, dtype=torch.float64) for f in lists)


def _refuse_gradients(function: str, *tensors: Tensor) -> None:
    if any(tensor.requires_grad for tensor in tensors):
        remedy = "Detach them: gradients flow through the heads only."
        fail(function, "positions and frequencies", "not require grad", "one that does", remedy)
