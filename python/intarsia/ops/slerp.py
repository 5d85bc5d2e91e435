# SPDX-License-Identifier: Apache-2.0
"""Interpolation along great circles."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from intarsia.ops._backend import forced_here, resume, select
from intarsia.ops._check import FLOATS, FOUR, check_apart, check_out, check_out_argument, fail
from intarsia.ops._library import bump, choose, register
from intarsia.ops._slerp_gradient import slerp_gradients

__all__ = ["slerp"]

_NAME = "slerp"


def slerp(x0: Tensor, x1: Tensor, w: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """Interpolate on the sphere between two tensors, sample by sample.

    out[b] = |x0|^(1-w) |x1|^w (sin((1-w) t) x0/|x0| + sin(w t) x1/|x1|) / sin t

    with x0, x1 the vectors of sample b and t the angle between their directions: the direction runs along
    the great circle, the norm geometrically from one to the other.

    Args:
        x0: [B, ...] float16, bfloat16, float32 or float64; all axes but the first are one vector; any
            strides.
        x1: [B, ...] like x0.
        w: Share of x1: 0 gives x0 bit for bit, 1 gives x1; a float, or [B] with one share per sample.
            Values outside [0, 1] continue along the circle.
        out: [B, ...] contiguous, written and returned.

    Returns:
        Interpolated [B, ...].

    Raises:
        ValueError: If shapes, dtypes or devices differ, w is not finite (a tensor's values are not looked
            at), or a w that requires grad is given.

    Note:
        Where sin t < 1e-4 no great circle is told apart. Directions that agree are interpolated linearly and
        normalised. Opposite ones have no shortest way: the result keeps the direction of the nearer end, of
        x0 at w = 1/2. Between a zero vector and any other the norm, and so the result, is zero. Inner
        products are summed in float64 in one order: the same bits for any thread count. Differentiable in x0
        and x1, with the formula of the branch taken. Nothing is read back from a GPU.

    Source:
        Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> x0, x1 = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 8.0]])
        >>> ops.slerp(x0, x1, 0.5).square().round().tolist()
        [[8.0, 8.0]]
    """
    _check_tensors(x0, x1)
    share, shares = as_number_or_vector(_NAME, "w", w, x0)
    if out is None:
        return choose(_NAME, _slerp, x0, x1, shares)(x0, x1, share, shares)
    check_out_argument(_NAME, out, None)
    choose(f"{_NAME}_out", _slerp_out, x0, x1, shares, out)(x0, x1, share, shares, out)
    return out


def as_number_or_vector(
    function: str, argument: str, value: float | Tensor, like: Tensor
) -> tuple[float, Tensor | None]:
    """A number for all samples, or [B] float64 values beside a number that is not used."""
    if isinstance(value, Tensor):
        if value.dtype not in FLOATS:
            fail(
                function, argument, f"{FOUR} where it is a tensor", value.dtype, "Convert it with .double()."
            )
        if value.requires_grad:
            fail(function, argument, "not require grad", "one that does", "Detach it.")
        return 0.0, value if value.dtype is torch.float64 else value.double()
    if not isinstance(value, (int, float)):
        fail(function, argument, "be a number or a tensor [B]", type(value).__name__, "Pass 0.5, say.")
    if not math.isfinite(value):
        fail(function, argument, "be finite", value, "Check how it was computed.")
    return float(value), None


def check_per_sample(function: str, argument: str, values: Tensor | None, batch: int, like: Tensor) -> None:
    """Shape, dtype and device of values per sample."""
    if values is None:
        return
    if values.dim() != 1 or values.shape[0] != batch:
        remedy = "Give one value per sample, or a number for all."
        fail(function, argument, f"have shape [{batch}]", f"shape {list(values.shape)}", remedy)
    if values.dtype is not torch.float64:
        fail(function, argument, "be float64", values.dtype, f"intarsia.ops.{function} converts it.")
    if values.device != like.device:
        fail(function, argument, f"be on {like.device}", values.device, "Move it with .to(device).")


def _check_tensors(x0: Tensor, x1: Tensor) -> None:
    for argument, x in (("x0", x0), ("x1", x1)):
        if not isinstance(x, Tensor):
            fail(_NAME, argument, "be a tensor [B, ...]", type(x).__name__, "Wrap it with torch.as_tensor.")
    if x0.dtype not in FLOATS:
        fail(_NAME, "x0", FOUR, x0.dtype, "Convert it with .float().")
    if x0.dim() == 0:
        fail(_NAME, "x0", "have shape [B, ...]", "shape []", "Add a leading axis for the samples.")
    if x0.layout is not torch.strided or x1.layout is not torch.strided:
        fail(_NAME, "x0 and x1", "be dense", x0.layout, "Call .to_dense() first.")
    if x1.shape != x0.shape:
        fail(_NAME, "x1", f"have x0's shape {list(x0.shape)}", f"shape {list(x1.shape)}", "Expand it.")
    if x1.dtype is not x0.dtype or x1.device != x0.device:
        wanted, got = f"be {x0.dtype} on {x0.device} like x0", f"{x1.dtype} on {x1.device}"
        fail(_NAME, "x1", wanted, got, "Convert it with .to(x0).")


def _check(x0: Tensor, x1: Tensor, ws: Tensor | None) -> None:
    _check_tensors(x0, x1)
    check_per_sample(_NAME, "w", ws, x0.shape[0], x0)


def _slerp(x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> Tensor:
    check_per_sample(_NAME, "w", ws, x0.shape[0], x0)
    out = torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)
    _write(out, x0, x1, w, ws)
    return out


def _write(out: Tensor, x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> None:
    if out.numel():
        shares = None if ws is None else ws.contiguous()
        flat = [x if x.dim() <= 6 else x.flatten(5) for x in (out, x0.contiguous(), x1.contiguous())]
        select(out.device).slerp(*flat, w, shares)


def _fake(x0: Tensor, x1: Tensor, w: float, ws: Tensor | None) -> Tensor:
    _check(x0, x1, ws)
    return torch.empty(x0.shape, dtype=x0.dtype, device=x0.device)


def _slerp_out(x0: Tensor, x1: Tensor, w: float, ws: Tensor | None, out: Tensor) -> None:
    _fake_out(x0, x1, w, ws, out)
    check_apart(_NAME, out, (x0, x1, ws))
    _write(out, x0, x1, w, ws)
    bump(out)


def _fake_out(x0: Tensor, x1: Tensor, w: float, ws: Tensor | None, out: Tensor) -> None:
    _check(x0, x1, ws)
    check_out(_NAME, out, x0.shape, (x0, x1), x0)
    if out.dtype is not x0.dtype:
        fail(_NAME, "out", f"be {x0.dtype}", out.dtype, "Allocate it like x0.")


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x0, x1, w, ws = inputs
    if ws is not None and ws.requires_grad:
        fail(_NAME, "w", "not require grad", "one that does", "Detach it.")
    ctx.save_for_backward(x0, x1, ws)
    ctx.share = w
    ctx.backend = forced_here()


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x0, x1, ws = ctx.saved_tensors
    with resume(ctx.backend):
        to_x0, to_x1 = slerp_gradients(grad, x0, x1, ctx.share if ws is None else ws)
    return to_x0, to_x1, None, None


_ARGUMENTS = "Tensor x0, Tensor x1, float w, Tensor? ws"
register(_NAME, f"({_ARGUMENTS}) -> Tensor", _slerp, _fake, setup=_setup, backward=_backward)
register(f"{_NAME}_out", f"({_ARGUMENTS}, Tensor(a!) out) -> ()", _slerp_out, _fake_out)
