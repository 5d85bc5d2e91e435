# SPDX-License-Identifier: Apache-2.0
"""Rotary embeddings of flash-attn, Liger and FlashInfer, where installed; each gets its own layout."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.suite import Call, Missing, Out, Peer

__all__ = ["FLASH", "LIGER", "PEERS"]

FLASH, LIGER, FLASHINFER = "flash-attn", "Liger", "FlashInfer"


def _token_major(x: Tensor) -> Tensor:
    """Return a copy [B, T, H, D]: contiguous, as these kernels like it best."""
    return x.transpose(1, 2).contiguous()


def _flash(problem: Any, out: Out) -> Call:
    apply = importlib.import_module("flash_attn.ops.triton.rotary").apply_rotary
    cosine, sine = (t.to(problem.dtype) for t in (problem.angles.cos(), problem.angles.sin()))
    q, k = map(_token_major, problem.first)
    options = {"interleaved": True, "inplace": out is not None}

    def call() -> tuple[Tensor, Tensor]:
        turned = apply(q, cosine, sine, **options), apply(k, cosine, sine, **options)
        return turned[0].transpose(1, 2), turned[1].transpose(1, 2)

    return call


def _liger(problem: Any, out: Out) -> Call:
    forward = importlib.import_module("liger_kernel.ops.rope").rope_forward
    cosine, sine = (
        torch.cat([t, t], dim=-1)[None].to(problem.dtype)
        for t in (problem.angles.cos(), problem.angles.sin())
    )
    # Heads of a token lie side by side, so that it has nothing to copy.
    q, k = (_token_major(x).transpose(1, 2) for x in problem.first)

    def call() -> tuple[Tensor, Tensor]:
        turned = forward(q, k, cosine, sine)
        return turned[0], turned[1]

    return call


def _flashinfer(problem: Any, out: Out) -> Call:
    apply = importlib.import_module("flashinfer.rope").apply_rope_with_cos_sin_cache_inplace
    batch, heads, tokens, width = problem.q.shape
    if problem.dtype == torch.float32:
        raise Missing("half types alone")
    positions = torch.arange(tokens, device=problem.device).repeat(batch)
    cache = torch.cat([problem.angles.cos(), problem.angles.sin()], dim=-1).float()
    q, k = (_token_major(x).view(batch * tokens, heads * width) for x in problem.first)

    def call() -> tuple[Tensor, Tensor]:
        apply(positions, q, k, width, cache, is_neox=True)
        shape = (batch, tokens, heads, width)
        return q.view(shape).transpose(1, 2), k.view(shape).transpose(1, 2)

    return call


PEERS = (
    Peer(FLASH, _flash, forms=("fresh", "inplace")),
    Peer(LIGER, _liger, forms=("inplace",)),
    Peer(FLASHINFER, _flashinfer, forms=("inplace",)),
)
