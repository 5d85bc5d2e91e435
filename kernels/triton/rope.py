# SPDX-License-Identifier: Apache-2.0
"""Turn queries and keys by the angles of their tokens, in one launch."""

import torch

import triton
import triton.language as tl

from ._launch import check_grid, guard, narrow, power_of_two

__all__ = ["rope"]

ELEMENTS = 2048
HEADS = 4


@triton.jit
def _turn(
    out,  # [B, H, T, D] by strides
    x,  # [B, H, T, D] by strides
    out_batch,
    out_head,
    out_token,
    in_batch,
    in_head,
    in_token,
    heads,
    batch,
    head,
    token,
    live,  # [TOKENS, 1]
    cosine,  # [TOKENS, PAIRS]
    sine,
    pairs,
    INTERLEAVED: tl.constexpr,
    TOKENS: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
):
    start, end = x + batch * in_batch, out + batch * out_batch
    for step in tl.static_range(HEADS):
        h = head + step
        width = tl.where(h < heads, pairs, 0)
        source, target = start + h * in_head + token * in_token, end + h * out_head + token * out_token
        if INTERLEAVED:
            channel = tl.arange(0, 2 * PAIRS)[None, :]
            inside = live & (channel < 2 * width)
            both = tl.load(source + channel, mask=inside, other=0)
            a, b = tl.split(tl.reshape(both, (TOKENS, PAIRS, 2)))
        else:
            channel = tl.arange(0, PAIRS)[None, :]
            inside = live & (channel < width)
            a = tl.load(source + channel, mask=inside, other=0)
            b = tl.load(source + pairs + channel, mask=inside, other=0)
        a, b = a.to(cosine.dtype), b.to(cosine.dtype)
        # Where nothing turns nothing crosses over, not even a NaN or the sign of a zero.
        first = narrow(a * cosine - tl.where(sine == 0, 0.0, b * sine), out)
        second = narrow(b * cosine - tl.where(sine == 0, 0.0, -(a * sine)), out)
        if INTERLEAVED:
            turned = tl.reshape(tl.join(first, second), (TOKENS, 2 * PAIRS))
            tl.store(target + channel, turned, mask=inside)
        else:
            tl.store(target + channel, first, mask=inside)
            tl.store(target + pairs + channel, second, mask=inside)


@triton.jit
def _rope(
    q_out,
    q,  # [B, H, T, D] by strides
    k_out,
    k,
    table,  # [T, 2, PAIRS] or [B, T, 2, PAIRS]
    q_out_batch,
    q_out_head,
    q_out_token,
    q_in_batch,
    q_in_head,
    q_in_token,
    k_out_batch,
    k_out_head,
    k_out_token,
    k_in_batch,
    k_in_head,
    k_in_token,
    q_heads,
    k_heads,
    q_groups,
    groups,
    tokens,
    blocks,
    pairs,
    table_batch,
    INTERLEAVED: tl.constexpr,
    INVERSE: tl.constexpr,
    TOKENS: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    token = (program % blocks) * TOKENS + tl.arange(0, TOKENS)[:, None]
    program = program // blocks
    group = program % groups
    batch = program // groups

    live = token < tokens
    pair = tl.arange(0, PAIRS)[None, :]
    angles = table + batch * table_batch + token * 2 * pairs + pair
    cosine = tl.load(angles, mask=live & (pair < pairs), other=0)
    sine = tl.load(angles + pairs, mask=live & (pair < pairs), other=0)
    if INVERSE:
        sine = -sine
    if group < q_groups:
        _turn(
            q_out,
            q,
            q_out_batch,
            q_out_head,
            q_out_token,
            q_in_batch,
            q_in_head,
            q_in_token,
            q_heads,
            batch,
            group * HEADS,
            token,
            live,
            cosine,
            sine,
            pairs,
            INTERLEAVED,
            TOKENS,
            PAIRS,
            HEADS,
        )
    else:
        _turn(
            k_out,
            k,
            k_out_batch,
            k_out_head,
            k_out_token,
            k_in_batch,
            k_in_head,
            k_in_token,
            k_heads,
            batch,
            (group - q_groups) * HEADS,
            token,
            live,
            cosine,
            sine,
            pairs,
            INTERLEAVED,
            TOKENS,
            PAIRS,
            HEADS,
        )


def rope(
    out: list[torch.Tensor], x: list[torch.Tensor], table: torch.Tensor, interleaved: bool, inverse: bool
) -> None:
    """Write `(a cos - b sin, b cos + a sin)` for each pair of channels of each head and token.

    Args:
        out: one or two tensors `[B, H, T, D]`, rows dense; each may be the tensor of its place in x.
        x: tensors `[B, H, T, D]` of one dtype, rows dense.
        table: `[T, 2, D/2]` or `[B, T, 2, D/2]`, contiguous, fp32 (fp64 for fp64 tensors).
        interleaved: whether pairs are neighbours; else they are half a row apart.
        inverse: whether to turn by the negative angles.
    """
    batch, _, tokens, dim = x[0].shape
    counts = [tensor.shape[1] if tensor.numel() else 0 for tensor in x] + [0]
    if sum(counts) == 0:
        return
    pairs = dim // 2
    width = power_of_two(pairs, 2**20)
    rows = power_of_two(tokens, max(ELEMENTS // (2 * width), 1))
    blocks = triton.cdiv(tokens, rows)
    q_groups, k_groups = (triton.cdiv(count, HEADS) for count in counts[:2])
    grid = check_grid("rope", batch * (q_groups + k_groups) * blocks)
    strides = [tensor.stride()[:3] for tensor in (out[0], x[0], out[-1], x[-1])]
    with guard(table):
        _rope[grid](
            out[0],
            x[0],
            out[-1],
            x[-1],
            table,
            *(stride for three in strides for stride in three),
            *counts[:2],
            q_groups,
            q_groups + k_groups,
            tokens,
            blocks,
            pairs,
            table.stride(0) if table.dim() == 4 else 0,
            INTERLEAVED=interleaved,
            INVERSE=inverse,
            TOKENS=rows,
            PAIRS=width,
            HEADS=HEADS,
            enable_fp_fusion=False,
        )
