# SPDX-License-Identifier: Apache-2.0
"""Several states become one point of the sphere, and each result keeps near its mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intarsia.ops import reference
from intarsia.ops._backend import select
from intarsia.ops._check import FLOATS, FOUR, check_apart, check_out, check_out_argument, fail
from intarsia.ops._library import bump, choose, register
from intarsia.ops.slerp import as_number_or_vector, check_per_sample

__all__ = ["spherical_aggregate"]

_NAME = "spherical_aggregate"
_FOLDS = {("sequential", "exact"): 0, ("sequential", "orthogonal"): 1, ("mean", "exact"): 2}
MOST_STATES = 32


def spherical_aggregate(
    states: Tensor | Sequence[Tensor],
    means: Tensor | Sequence[Tensor],
    weights: Sequence[float],
    eta: float | Tensor,
    *,
    fold: str = "sequential",
    angle: str = "exact",
    norm: str = "sample",
    out: Tensor | None = None,
) -> Tensor:
    """Fold N states into one on the sphere, then pull each result a step toward its own mean.

    m_1 = x_1,  m_k = slerp(x_k, m_(k-1), w_(k-1)),  x' = m_N
    out_i = x' - min(eta, r_i) (x' - mu_i) / r_i,  r_i = ||x' - mu_i||  (x' itself where r_i = 0)

    Args:
        states: x, [N, B, ...] or N tensors [B, ...], which are read where they lie; float16, bfloat16,
            float32 or float64, any strides.
        means: mu, like the states: the mean of each model's own step.
        weights: N - 1 numbers in [0, 1]; w_k is the weight of what was folded so far: 1 keeps m_k, 0 takes
            x_(k+1), as in `slerp(x_(k+1), m_k, w_k)`. For fold="mean" N weights of the states, at least 0
            and not all 0, used as shares of their sum.
        eta: Longest step toward a mean, at least 0; a float, or [B] with one per sample.
        fold: "sequential" as above, or "mean": x' is the point of the sphere whose great-circle distances
            to the states have the least weighted sum of squares (norms meet geometrically), whatever the
            order of the states.
        angle: "exact", or "orthogonal": m_k = w m_(k-1) + sqrt(1 - w^2) x_k, as published code does, which
            assumes right angles and lets norms grow. For comparison only.
        norm: "sample", or "batch": r_i is one norm over the whole batch, as in published code; the result
            of a sample then depends on the others. For comparison only.
        out: [N, B, ...] contiguous, written and returned; apart from the inputs.

    Returns:
        Results [N, B, ...], one for each model.

    Raises:
        ValueError: If shapes, dtypes or devices differ, the number or range of the weights is wrong, eta is
            negative (a tensor's values are not looked at), an option is unknown, or an input requires grad.

    Note:
        Two passes over memory: inner products of the 2N vectors in float64, in one order for any thread
        count, then results as linear combinations. Angles are between directions, per sample; what
        `slerp` says about opposite, equal and zero vectors holds at every fold. No gradients: the step has
        none where r_i = eta. On a GPU two launches, nothing is waited for. Beyond 32 states PyTorch's own
        operators compute, in more passes.

    Source:
        Yue et al., "Improving Fine-Grained Control via Aggregation of Multiple Diffusion Models", 2024,
        Algorithm 1.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> states = torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]])
        >>> ops.spherical_aggregate(states, torch.zeros(2, 1, 2), [1.0], 1.0).tolist()
        [[[4.0, 0.0]], [[4.0, 0.0]]]
    """
    x, mu = _listed("states", states), _listed("means", means)
    first = x[0]
    count = first.shape[0] if len(x) == 1 else len(x)
    if fold not in ("sequential", "mean") or (fold, angle) not in _FOLDS or norm not in ("sample", "batch"):
        _refuse_options(fold, angle, norm)
    shares = _shares(weights, count, fold)
    step, steps = as_number_or_vector(_NAME, "eta", eta, first)
    if step < 0:
        fail(_NAME, "eta", "be at least 0", step, "It is the length of a step.")
    options = (_FOLDS[fold, angle], norm == "batch")
    if out is None:
        call = choose(_NAME, _aggregate, *x, *mu, steps)
        if call is not _aggregate:
            _refuse_gradients(x, mu)
        return call(x, mu, shares, step, steps, *options)
    check_out_argument(_NAME, out, None)
    write = choose(f"{_NAME}_out", _aggregate_out, *x, *mu, steps, out)
    if write is not _aggregate_out:
        _refuse_gradients(x, mu)
    write(x, mu, shares, step, steps, *options, out)
    return out


def _refuse_gradients(x: Sequence[Tensor], mu: Sequence[Tensor]) -> None:
    if torch.is_grad_enabled() and any([t.requires_grad for t in (*x, *mu)]):
        remedy = "Detach them, or run under torch.no_grad()."
        fail(_NAME, "states and means", "not require grad", "one that does", remedy)


def _listed(argument: str, tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """One tensor [N, B, ...], or N >= 2 tensors [B, ...]."""
    if type(tensors) is Tensor and tensors.dim() and tensors.shape[0]:
        return [tensors]
    listed = [tensors] if isinstance(tensors, Tensor) else tensors
    if not isinstance(listed, (list, tuple)) or not all([isinstance(t, Tensor) for t in listed]):
        wanted = "be a tensor [N, B, ...] or a sequence of N tensors [B, ...]"
        fail(_NAME, argument, wanted, type(tensors).__name__, "Stack them with torch.stack.")
    if not listed or (isinstance(tensors, Tensor) and tensors.dim() > 0 and tensors.shape[0] == 0):
        fail(_NAME, argument, "hold at least one", "none", "Give one for each model.")
    return list(listed) if len(listed) > 1 or isinstance(tensors, Tensor) else [listed[0][None]]


def _refuse_options(fold: str, angle: str, norm: str) -> None:
    if fold not in ("sequential", "mean"):
        fail(_NAME, "fold", 'be "sequential" or "mean"', repr(fold), "The first is Algorithm 1.")
    if angle not in ("exact", "orthogonal"):
        fail(_NAME, "angle", 'be "exact" or "orthogonal"', repr(angle), "The first is slerp.")
    if norm not in ("sample", "batch"):
        fail(_NAME, "norm", 'be "sample" or "batch"', repr(norm), "The first keeps samples apart.")
    fail(_NAME, "angle", 'be "exact" for a mean', repr(angle), 'Or use fold="sequential".')


def _shares(weights: Sequence[float], count: int, fold: str) -> list[float]:
    wanted = count if fold == "mean" else count - 1
    try:
        shares = [float(weight) for weight in weights]
    except TypeError:
        fail(_NAME, "weights", "be a sequence of numbers", repr(weights), "Pass [0.5] for two models.")
    if len(shares) != wanted:
        remedy = "One for each fold." if fold == "sequential" else "One for each state."
        fail(_NAME, "weights", f"hold {wanted} for {count} states", len(shares), remedy)
    if fold == "mean":
        total = sum(shares)
        if not (all([share >= 0 for share in shares]) and 0 < total < math.inf):
            remedy = "They are shares of their sum."
            fail(_NAME, "weights", "be finite, at least 0 and not all 0", shares, remedy)
        return [share / total for share in shares]
    for share in shares:
        if not 0 <= share <= 1:
            fail(_NAME, "weights", "lie in [0, 1]", share, "1 keeps what was folded, 0 takes the new state.")
    return shares


def _shape(x: Sequence[Tensor], mu: Sequence[Tensor], steps: Tensor | None) -> tuple[int, ...]:
    first = x[0]
    shape = tuple(first.shape) if len(x) == 1 else (len(x), *first.shape)
    if len(shape) < 2:
        remedy = "Add a leading axis for the samples."
        fail(_NAME, "states", "have shape [N, B, ...]", f"shape {list(first.shape)}", remedy)
    if first.dtype not in FLOATS:
        fail(_NAME, "states", FOUR, first.dtype, "Convert them with .float().")
    kind = (first.dtype, first.device, torch.strided)
    for argument, tensors in (("states", x), ("means", mu)):
        wanted = shape if len(tensors) == 1 else shape[1:]
        if len(tensors) not in (1, shape[0]):
            fail(_NAME, argument, f"hold {shape[0]} tensors", len(tensors), "Give one for each model.")
        for t in tensors:
            if t.shape != wanted:
                remedy = "All of them are alike."
                fail(_NAME, argument, f"have shape {list(wanted)}", f"shape {list(t.shape)}", remedy)
            if (t.dtype, t.device, t.layout) != kind:
                wanted_kind, got = f"be {first.dtype} on {first.device}, dense", f"{t.dtype} on {t.device}"
                fail(_NAME, argument, wanted_kind, got, "Convert them with .to(states[0]).")
    check_per_sample(_NAME, "eta", steps, shape[1], first)
    return shape


def _write(out: Tensor, x: Sequence[Tensor], mu: Sequence[Tensor], *options: Any) -> None:
    if out.numel() == 0:
        return
    weights, step, steps, fold, over_batch = options
    where: Any = select(out.device) if out.shape[0] <= MOST_STATES else reference
    states, means = ([_dense(t) for t in tensors] for tensors in (x, mu))
    steps = None if steps is None else steps.contiguous()
    out = out if out.dim() <= 6 else out.flatten(5)
    where.spherical_aggregate(out, states, means, weights, step, steps, fold, over_batch)


def _dense(t: Tensor) -> Tensor:
    t = t.contiguous()
    return t if t.dim() <= 5 else t.flatten(4)


def _aggregate(x: Sequence[Tensor], mu: Sequence[Tensor], *options: Any) -> Tensor:
    out = _fake(x, mu, *options)
    _write(out, x, mu, *options)
    return out


def _fake(x: Sequence[Tensor], mu: Sequence[Tensor], *options: Any) -> Tensor:
    shape = _shape(x, mu, options[2])
    return torch.empty(shape, dtype=x[0].dtype, device=x[0].device)


def _aggregate_out(x: Sequence[Tensor], mu: Sequence[Tensor], *inputs: Any) -> None:
    *options, out = inputs
    _fake_out(x, mu, *inputs)
    check_apart(_NAME, out, (*x, *mu, options[2]))
    _write(out, x, mu, *options)
    bump(out)


def _fake_out(x: Sequence[Tensor], mu: Sequence[Tensor], *inputs: Any) -> None:
    *options, out = inputs
    check_out(_NAME, out, _shape(x, mu, options[2]), (*x, *mu), x[0])
    if out.dtype is not x[0].dtype:
        fail(_NAME, "out", f"be {x[0].dtype}", out.dtype, "Allocate it like the states.")


_ARGUMENTS = (
    "Tensor[] states, Tensor[] means, float[] weights, float eta, Tensor? etas, int fold, bool over_batch"
)
register(_NAME, f"({_ARGUMENTS}) -> Tensor", _aggregate, _fake)
register(f"{_NAME}_out", f"({_ARGUMENTS}, Tensor(a!) out) -> ()", _aggregate_out, _fake_out)
