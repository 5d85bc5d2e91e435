# SPDX-License-Identifier: Apache-2.0
"""The registered operators behind `rope`: on heads [B, H, T, D] of any strides, rows dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import _backend
from intarsia.ops._check import FLOATS, FOUR, compute_dtype, fail
from intarsia.ops._library import bump, register
from intarsia.ops._memory import any_shared, may_repeat

NAME = "rope"
_WORDS = ("q", "k")
_ROWS = "Call .contiguous() first: only the last axis must be dense, the others may lie anywhere."


def check_heads(x: Sequence[Tensor], table: Tensor) -> None:
    """Shapes, dtypes and devices of heads [B, H, T, D] and their table [T, 2, D/2] or [B, T, 2, D/2]."""
    first = x[0]
    for word, heads in zip(_WORDS, x, strict=False):
        if heads.dim() != 4:
            remedy = "Add the missing axes; heads_axis=2 says [B, T, H, D]."
            fail(NAME, word, "have shape [B, H, T, D]", f"shape {list(heads.shape)}", remedy)
        if heads.dtype not in FLOATS:
            fail(NAME, word, FOUR, heads.dtype, "Convert it with .float().")
        if heads.layout is not torch.strided:
            fail(NAME, word, "be dense", heads.layout, "Call .to_dense() first.")
        if heads.shape[3] % 2:
            fail(NAME, word, "have an even number of channels", heads.shape[3], "Channels turn in pairs.")
        if heads.dtype is not first.dtype or heads.device != first.device:
            got = f"{heads.dtype} on {heads.device}"
            fail(NAME, word, f"be {first.dtype} on {first.device}, as q is", got, "Convert one of them.")
        if (heads.shape[0], heads.shape[2], heads.shape[3]) != (
            first.shape[0],
            first.shape[2],
            first.shape[3],
        ):
            got = f"{list(heads.shape)} beside {list(first.shape)}"
            fail(NAME, word, "share B, T and D with q", got, "Only the number of heads may differ.")
    if table.device != first.device:
        fail(NAME, "table", f"be on {first.device}", table.device, "Move it with .to(device).")
    if table.dtype is not compute_dtype(first.dtype):
        wanted = f"be {compute_dtype(first.dtype)}"
        fail(NAME, "table", wanted, table.dtype, "Heads are turned in this dtype.")
    batch, tokens, dim = first.shape[0], first.shape[2], first.shape[3]
    wanted_shape = (tokens, 2, dim // 2)
    if table.shape != wanted_shape and table.shape != (batch, *wanted_shape):
        wanted = f"have shape [T, 2, D/2] = {list(wanted_shape)}, or [B, T, 2, D/2] with B = {batch}"
        remedy = "Give one position per token, and rope_table the D of these heads."
        fail(NAME, "table", wanted, f"shape {list(table.shape)}", remedy)


def _check_destinations(argument: str, out: Sequence[Tensor], x: Sequence[Tensor]) -> None:
    if len(out) != len(x):
        fail(NAME, argument, f"hold {len(x)} tensors", len(out), "Give each tensor its destination.")
    for to, heads in zip(out, x, strict=True):
        if to.shape != heads.shape or to.dtype is not heads.dtype or to.device != heads.device:
            wanted = f"be {heads.dtype} {list(heads.shape)} on {heads.device}"
            fail(
                NAME, argument, wanted, f"{to.dtype} {list(to.shape)} on {to.device}", "Use torch.empty_like."
            )
        if to.stride(3) != 1 and to.shape[3] > 1:
            fail(NAME, argument, "be dense along its last axis", f"strides {to.stride()}", _ROWS)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*out, *x)):
        remedy = "Leave out= and inplace=, or run under torch.no_grad()."
        fail(NAME, argument, "be used without gradients", "an argument that requires grad", remedy)


def _check_memory(argument: str, out: Sequence[Tensor], read: Sequence[Tensor]) -> None:
    for tensor in out:
        if tensor.numel() and may_repeat(tensor):
            remedy = "Write a tensor that was not expanded."
            fail(NAME, argument, "have one place per element", f"strides {tensor.stride()}", remedy)
    if any_shared(out, read):
        remedy = "Allocate it apart, or pass inplace=True to write the heads themselves."
        fail(NAME, argument, "not overlap another tensor of the call", "memory shared with one", remedy)


def _empty(heads: Tensor) -> Tensor:
    # Dense, with heads and tokens in the order of the source: attention reads it as it read that.
    batch, count, tokens, dim = heads.shape
    if count > 1 and tokens > 1 and heads.stride(1) < heads.stride(2):
        stride = (tokens * count * dim, dim, count * dim, 1)
        return torch.empty_strided(heads.shape, stride, dtype=heads.dtype, device=heads.device)
    return torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)


def _turn(
    out: Sequence[Tensor], x: Sequence[Tensor], table: Tensor, interleaved: bool, inverse: bool
) -> None:
    if any(heads.numel() for heads in x):
        backend = _backend.select(table.device)
        backend.rope(list(out), list(x), table.contiguous(), interleaved, inverse)


def rotate(x: Sequence[Tensor], table: Tensor, interleaved: bool, inverse: bool) -> list[Tensor]:
    """The kernel of `rope`."""
    check_heads(x, table)
    out = [_empty(heads) for heads in x]
    rows = [heads if heads.stride(3) == 1 or heads.shape[3] <= 1 else heads.contiguous() for heads in x]
    _turn(out, rows, table, interleaved, inverse)
    return out


def _fake(x: Sequence[Tensor], table: Tensor, interleaved: bool, inverse: bool) -> list[Tensor]:
    check_heads(x, table)
    return [_empty(heads) for heads in x]


def rotate_out(x: Sequence[Tensor], table: Tensor, interleaved: bool, out: Sequence[Tensor]) -> None:
    """The kernel of `rope_out`."""
    _fake_out(x, table, interleaved, out)
    _check_memory("out", out, (*x, table))
    rows = [heads if heads.stride(3) == 1 or heads.shape[3] <= 1 else heads.contiguous() for heads in x]
    _turn(out, rows, table, interleaved, False)
    for to in out:
        bump(to)


def _fake_out(x: Sequence[Tensor], table: Tensor, interleaved: bool, out: Sequence[Tensor]) -> None:
    check_heads(x, table)
    _check_destinations("out", out, x)


def rotate_inplace(x: Sequence[Tensor], table: Tensor, interleaved: bool) -> None:
    """The kernel of `rope_`."""
    _fake_inplace(x, table, interleaved)
    _check_memory("inplace", x, (table,))
    _turn(x, x, table, interleaved, False)
    for heads in x:
        bump(heads)


def _fake_inplace(x: Sequence[Tensor], table: Tensor, interleaved: bool) -> None:
    check_heads(x, table)
    _check_destinations("inplace", x, x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    _, table, interleaved, inverse = inputs
    if table.requires_grad:
        fail(NAME, "table", "not require grad", "one that does", "Detach it: gradients flow to q and k only.")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(table)
    ctx.turn = (interleaved, not inverse)
    ctx.backend = _backend.forced_here()


def _backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    (table,) = ctx.saved_tensors
    result: list[Tensor | None] = [None] * len(grads)
    wanted = [i for i, grad in enumerate(grads) if grad is not None and ctx.needs_input_grad[0][i]]
    if wanted:
        with _backend.resume(ctx.backend):
            turned = torch.ops.intarsia.rope([grads[i] for i in wanted], table, *ctx.turn)
        for i, grad in zip(wanted, turned, strict=True):
            result[i] = grad
    return result, None, None, None


_SHARED = "Tensor table, bool interleaved"
register(
    NAME,
    f"(Tensor[] x, {_SHARED}, bool inverse) -> Tensor[]",
    rotate,
    _fake,
    setup=_setup,
    backward=_backward,
)
register("rope_out", f"(Tensor[] x, {_SHARED}, Tensor(a!)[] out) -> ()", rotate_out, _fake_out)
register("rope_", f"(Tensor(a!)[] x, {_SHARED}) -> ()", rotate_inplace, _fake_inplace)
