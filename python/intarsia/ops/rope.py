# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding of queries and keys together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from intarsia.ops._check import compute_dtype, fail
from intarsia.ops._library import choose
from intarsia.ops._rotation import NAME, rotate, rotate_inplace, rotate_out
from intarsia.ops.rope_table import rope_table

__all__ = ["rope"]

_PAIRINGS = ("interleaved", "half")


def rope(
    q: Tensor,
    k: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    table: Tensor | None = None,
    theta: float = 10000.0,
    frequencies: Sequence[Tensor | Sequence[float]] | None = None,
    pairing: str = "interleaved",
    heads_axis: int = 1,
    inplace: bool = False,
    out: tuple[Tensor, Tensor | None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Turn each pair of channels by angles proportional to its token's position, in q and k at once.

    (a, b) -> (a cos w - b sin w, b cos w + a sin w), w = position * frequency

    The inner product of a query and a key then depends on the difference of their positions alone. On two
    axes half of the channels turn with the first coordinate and half with the second, on three a third each
    (`rope_frequencies` has the rule where they do not divide).

    Args:
        q: [B, H, T, D], or [B, T, H, D] with heads_axis=2; float16, bfloat16, float32 or float64; D even.
            Any strides: parts of a packed tensor and transposed ones are read where they lie, as long as
            their last axis is dense.
        k: as q, with heads of its own number; or None.
        positions: [T, n] or [B, T, n] coordinates of each token, n = 1 to 3, or [T]; integers or floating
            point. Fractions, negative numbers and duplicates are welcome.
        table: [T, 2, D/2] or [B, T, 2, D/2] from `rope_table`, instead of positions: made once and kept, it
            leaves nothing to compute but the rotation. A dtype other than that of the arithmetic (float32,
            float64 for float64 heads) costs a conversion in each call.
        theta: base of the frequencies; with positions.
        frequencies: n lists [m_i] of angles per unit of position, sum_i m_i = D / 2; with positions.
        pairing: "interleaved": channels (2j, 2j + 1) are a pair, as published; "half": channels
            (j, j + D / 2), as in GPT-NeoX and Llama. Pairs keep their order on the axes either way.
        heads_axis: 1 or 2, where the heads are.
        inplace: Write q and k themselves. Their elements must not overlap; the strides may be any.
        out: (q', k') to write, shaped as q and k, with dense last axes, apart from every other argument.

    Returns:
        (q', k'), or (q', None) without k: new tensors in the memory order of their sources, or those of out,
        or q and k themselves.

    Raises:
        ValueError: If an argument has the wrong shape, dtype, device or memory layout, positions,
            frequencies or table require grad, or inplace or out is used where gradients are wanted.

    Note:
        Deterministic, the same bits for any strides and number of threads. One pass over memory, one launch
        on a GPU; with a table, inplace or out allocates nothing. Arithmetic is float32 (float64 for
        float64). A pair whose sine is zero never mixes its channels, so position 0 returns every bit as it
        was. Differentiable in q and k any number of times; the gradient is the rotation back.

    Source:
        Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, equation 34; on
        two axes, Heo et al., "Rotary position embedding for vision transformer", 2024, equations 8 to 12.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> q, k = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        >>> turned, _ = ops.rope(q, k, torch.tensor([0.0, 3.14159265 / 2]))
        >>> [[round(x, 3) for x in token] for token in turned[0, 0].tolist()]
        [[1.0, 1.0], [-1.0, 1.0]]
        >>> packed = torch.randn(2, 64, 3, 6, 32)  # [B, T, 3, H, D]
        >>> q, k, v = packed.unbind(2)
        >>> places = torch.cartesian_prod(torch.arange(8), torch.arange(8))
        >>> table = ops.rope_table(places, 32)
        >>> ops.rope(q, k, table=table, heads_axis=2, inplace=True)[0] is q
        True
    """
    if pairing not in _PAIRINGS:
        fail(NAME, "pairing", "be 'interleaved' or 'half'", repr(pairing), "'half' is rotate_half, or NeoX.")
    if heads_axis not in (1, 2):
        fail(NAME, "heads_axis", "be 1 or 2", heads_axis, "1 is [B, H, T, D], 2 is [B, T, H, D].")
    given = [q] if k is None else [q, k]
    for word, heads in zip("qk", given, strict=False):
        if not isinstance(heads, Tensor) or heads.dim() != 4:
            wanted = "be a tensor [B, H, T, D]" if heads_axis == 1 else "be a tensor [B, T, H, D]"
            got = f"shape {list(heads.shape)}" if isinstance(heads, Tensor) else type(heads).__name__
            fail(NAME, word, wanted, got, "Add or fold leading axes.")
    x = given if heads_axis == 1 else [heads.transpose(1, 2) for heads in given]
    angles = _table(q, positions, table, theta, frequencies)
    interleaved = pairing == _PAIRINGS[0]
    if inplace:
        if out is not None:
            fail(NAME, "out", "be None with inplace=True", "both", "Choose one of them.")
        choose("rope_", rotate_inplace, *x, angles)(x, angles, interleaved)
        return q, k
    if out is not None:
        there = _destinations(out, k is not None)
        turned = there if heads_axis == 1 else [to.transpose(1, 2) if to.dim() == 4 else to for to in there]
        choose("rope_out", rotate_out, *x, angles, *turned)(x, angles, interleaved, turned)
        return out[0], out[1]
    turned = choose(NAME, rotate, *x, angles)(x, angles, interleaved, False)
    if heads_axis == 2:
        turned = [heads.transpose(1, 2) for heads in turned]
    return turned[0], turned[1] if k is not None else None


def _table(
    q: Tensor,
    positions: Tensor | None,
    table: Tensor | None,
    theta: float,
    frequencies: Sequence[Tensor | Sequence[float]] | None,
) -> Tensor:
    dtype = compute_dtype(q.dtype)
    if (positions is None) == (table is None):
        got = "neither" if table is None else "both"
        fail(NAME, "positions or table", "be given, one of them", got, "Keep rope_table(positions, D).")
    if table is None:
        assert positions is not None
        if isinstance(positions, Tensor) and positions.device != q.device:
            fail(NAME, "positions", f"be on {q.device}", positions.device, "Move them with .to(device).")
        return rope_table(positions, q.shape[-1], theta=theta, frequencies=frequencies, dtype=dtype)
    if not isinstance(table, Tensor):
        fail(NAME, "table", "be a tensor", type(table).__name__, "Make it with rope_table.")
    if frequencies is not None:
        remedy = "They went into the table: give them to rope_table."
        fail(NAME, "frequencies", "be None with a table", "both", remedy)
    if table.requires_grad:
        fail(NAME, "table", "not require grad", "one that does", "Detach it: gradients flow to q and k only.")
    return table if table.dtype is dtype else table.to(dtype)


def _destinations(out: tuple[Tensor, Tensor | None], both: bool) -> list[Tensor]:
    count = 2 if both else 1
    there = [to for to in out if to is not None] if isinstance(out, (tuple, list)) else []
    if len(there) != count or not all(isinstance(to, Tensor) for to in there) or len(out) != 2:
        wanted = "be (q', k')" if both else "be (q', None)"
        fail(NAME, "out", wanted, type(out).__name__, "Give each tensor its destination.")
    return there
