# SPDX-License-Identifier: Apache-2.0
"""Rotary embeddings as public code writes them, tuned, and compiled."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.suite import Call, Out, Peer

__all__ = ["DIFFUSERS", "HALF", "ONCE", "PEERS", "ROTATE_HALF"]

ROTATE_HALF, DIFFUSERS = "rotate_half", "diffusers apply_rotary_emb"
Rotate = Callable[..., Tensor]
Tables = tuple[Tensor, ...]


def _rotate_half(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor | None = None) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.add(x * cosine, torch.cat([-b, a], dim=-1) * sine, out=out)


def _split(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor | None = None) -> Tensor:
    """Four passes over halves, each read where it lies; in place a copy of one half more."""
    y = torch.empty_like(x) if out is None else out
    (a, b), (ya, yb) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    if y is x:
        a = a.clone()
    torch.mul(a, cosine, out=ya).addcmul_(b, sine, value=-1)
    torch.mul(b, cosine, out=yb).addcmul_(a, sine)
    return y


def _halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The same as one expression in float32: for a compiler."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1).to(x.dtype)


def _complex(x: Tensor, turns: Tensor, out: Tensor | None = None) -> Tensor:
    if x.dtype == torch.float32:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        if out is None:
            return torch.view_as_real(pairs * turns).flatten(-2)
        torch.mul(pairs, turns, out=torch.view_as_complex(out.unflatten(-1, (-1, 2))))
        return out
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs.mul_(turns)).flatten(-2)
    return turned.to(x.dtype) if out is None else out.copy_(turned)


def _diffusers() -> Rotate:
    apply = importlib.import_module("diffusers.models.embeddings").apply_rotary_emb

    def rotate(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor | None = None) -> Tensor:
        done: Tensor = apply(x, (cosine, sine))
        return done if out is None else out.copy_(done)

    return rotate


def _tables(problem: Any, kind: str) -> Tables:
    """Return what each style keeps: cosines and sines [T, D / 2], or repeated [T, D], or unit numbers."""
    cosine, sine = problem.angles.cos(), problem.angles.sin()
    if kind == "complex":
        return (torch.complex(cosine.float(), sine.float()),)
    if kind == "float32":
        return cosine.float(), sine.float()
    if kind == "interleaved":
        return cosine.repeat_interleave(2, -1).float(), sine.repeat_interleave(2, -1).float()
    both = (cosine, sine) if kind == "own" else (torch.cat([t, t], dim=-1) for t in (cosine, sine))
    return tuple(t.to(problem.dtype) for t in both)


def _eager(make: Callable[[], Rotate], kind: str) -> Callable[[Any, Out], Call]:
    def build(problem: Any, out: Out) -> Call:
        rotate, tables, q, k = make(), _tables(problem, kind), problem.q, problem.k
        if out is None:
            return lambda: (rotate(q, *tables), rotate(k, *tables))
        assert isinstance(out, tuple)
        q_out, k_out = out
        return lambda: (rotate(q, *tables, out=q_out), rotate(k, *tables, out=k_out))

    return build


def _compiled(make: Callable[[], Rotate], kind: str) -> Callable[[Any, Out], Call]:
    def build(problem: Any, out: Out) -> Call:
        rotate, tables, q, k = make(), _tables(problem, kind), problem.q, problem.k

        def both(q: Tensor, k: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            return rotate(q, *rest), rotate(k, *rest)

        def into(q: Tensor, k: Tensor, q_out: Tensor, k_out: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            return q_out.copy_(rotate(q, *rest)), k_out.copy_(rotate(k, *rest))

        if out is None:
            fresh = torch.compile(both, dynamic=False)
            return lambda: fresh(q, k, *tables)
        assert isinstance(out, tuple)
        q_out, k_out = out
        write = torch.compile(into, dynamic=False)
        return lambda: write(q, k, q_out, k_out, *tables)

    return build


COMPILED = {"slow": True, "compiled": True}
PEERS = (
    Peer(ROTATE_HALF, _eager(lambda: _rotate_half, "repeated"), idiom=True),
    Peer("split halves", _eager(lambda: _split, "own")),
    Peer("complex", _eager(lambda: _complex, "complex")),
    Peer(DIFFUSERS, _eager(_diffusers, "interleaved")),
    Peer("torch.compile, rotate_half", _compiled(lambda: _rotate_half, "repeated"), **COMPILED),
    Peer("torch.compile, split halves", _compiled(lambda: _halves, "float32"), **COMPILED),
    Peer("torch.compile, complex", _compiled(lambda: _complex, "complex"), **COMPILED),
    Peer("torch.compile, diffusers", _compiled(_diffusers, "interleaved"), **COMPILED),
)
HALF = {
    ROTATE_HALF,
    "split halves",
    "torch.compile, rotate_half",
    "torch.compile, split halves",
    "Liger",
    "FlashInfer",
}
# Compiled for one geometry alone: positions change tables, not code.
ONCE = {"torch.compile, rotate_half", "torch.compile, complex", "torch.compile, diffusers"}
