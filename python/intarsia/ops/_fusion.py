# SPDX-License-Identifier: Apache-2.0
"""What a merge may do in the same pass: combine several answers to a region, and update the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intarsia.ops._arguments import as_vector
from intarsia.ops._check import FLOATS, check_companion, fail
from intarsia.ops._library import direct

_NAME = "scatter_average"


class Fusion(NamedTuple):
    """`a a_each x + b b_each D + c noise` of D merged from `p_K + sum_k guidance_k (p_k - p_K)`.

    Every tensor is optional: guidance [K - 1, R], a_each and b_each [B] in the dtype of the sums, x and noise
    [B, C, *S] in the dtype of the result. Without x nothing is updated.
    """

    guidance: Tensor | None = None
    x: Tensor | None = None
    noise: Tensor | None = None
    a: float = 0.0
    b: float = 1.0
    c: float = 0.0
    a_each: Tensor | None = None
    b_each: Tensor | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All that may be tensors."""
        return self.guidance, self.x, self.noise, self.a_each, self.b_each

    def dense(self) -> Fusion:
        """The same, contiguous."""
        guidance, x, noise, a_each, b_each = [
            None if tensor is None else tensor.contiguous() for tensor in self.tensors()
        ]
        return Fusion(guidance, x, noise, self.a, self.b, self.c, a_each, b_each)

    def signature(self) -> tuple[Any, ...]:
        """Every shape, dtype and device in it."""
        return tuple([None if t is None else (t.shape, t.dtype, t.device) for t in self.tensors()])


def fusion_of(
    patches: Tensor,
    guidance: Any,
    x: Any,
    noise: Any,
    a: Any,
    b: Any,
    c: Any,
    sums: torch.dtype,
) -> Fusion | None:
    """What the user asks for beyond a plain merge, or None; shapes are checked by `check_fusion`."""
    if guidance is None and x is None and noise is None and a == 0 and b == 1 and c == 0:
        return None
    if x is None:
        if noise is not None or not (a == 0 and b == 1 and c == 0):
            remedy = "An update a x + b D + c noise needs the canvas x; pass a=0.0 where it does not count."
            fail(_NAME, "x", "be given with a, b, c and noise", None, remedy)
    elif (noise is None) != (isinstance(c, (int, float)) and c == 0):
        fail(
            _NAME,
            "noise",
            "come with a c that is not 0",
            f"noise={type(noise).__name__}, c={c}",
            "Pass both.",
        )
    a_number, a_each = _factor("a", a, sums)
    b_number, b_each = _factor("b", b, sums)
    if not isinstance(c, (int, float)):
        fail(_NAME, "c", "be a number", type(c).__name__, "Scale the noise itself for a factor per sample.")
    scales = None if guidance is None else _guidance(patches, guidance, sums)
    return Fusion(scales, x, noise, a_number, b_number, float(c), a_each, b_each)


def _factor(name: str, value: Any, sums: torch.dtype) -> tuple[float, Tensor | None]:
    if isinstance(value, Tensor):
        return 1.0, as_vector(_NAME, name, value, sums)
    try:
        return float(value), None
    except (TypeError, ValueError):
        fail(_NAME, name, "be a number or a tensor [B]", type(value).__name__, "Pass one factor per sample.")


def _guidance(patches: Tensor, guidance: Any, sums: torch.dtype) -> Tensor:
    terms, regions = patches.shape[1:3]
    if not isinstance(guidance, Tensor):
        try:
            scale = float(guidance)
        except (TypeError, ValueError):
            wanted = "be a number or a tensor [R] or [K - 1, R]"
            fail(_NAME, "guidance", wanted, type(guidance).__name__, "Give one scale for each region.")
        if terms == 2 and patches.device.type == "cpu" and direct(patches):
            return _repeated(scale, regions, sums)
        guidance = torch.full((), scale, dtype=sums, device=patches.device)
    if guidance.dtype not in FLOATS:
        fail(_NAME, "guidance", "be real floating-point", guidance.dtype, "Convert it with .float().")
    wanted_shapes = {0: (), 1: (regions,), 2: (terms - 1, regions)}
    if guidance.shape != wanted_shapes.get(guidance.dim()):
        wanted = f"have shape [R] or [K - 1, R] = [{terms - 1}, {regions}]"
        remedy = "Patches are [B, K, R, C, *s], the last of the K answers the unconditional one."
        fail(_NAME, "guidance", wanted, f"shape {list(guidance.shape)}", remedy)
    if guidance.dim() < 2 and terms != 2:
        remedy = "With one scale a region there are two answers: patches [B, 2, R, C, *s]."
        fail(_NAME, "guidance", f"have a row for {terms - 1} of the {terms} answers", "one scale", remedy)
    return guidance.to(sums).expand(terms - 1, regions)


@lru_cache(maxsize=64)
def _repeated(scale: float, regions: int, sums: torch.dtype) -> Tensor:
    # Steps that repeat a scale allocate nothing. An inference tensor could not serve a later backward pass.
    with torch.inference_mode(False):
        return torch.full((1, regions), scale, dtype=sums, device="cpu")


def check_fusion(
    fusion: Fusion, patches: Tensor, shape: Sequence[int], dtype: torch.dtype, coefficient: Tensor | None
) -> None:
    """Shapes, dtypes and devices against patches [B, K, R, C, *s] and the result's shape [B, C, *S]."""
    for name in ("x", "noise"):
        canvas = getattr(fusion, name)
        if canvas is None:
            continue
        if not isinstance(canvas, Tensor) or tuple(canvas.shape) != tuple(shape):
            got = list(canvas.shape) if isinstance(canvas, Tensor) else type(canvas).__name__
            fail(_NAME, name, f"be a canvas {list(shape)}", got, "It has the shape of the result.")
        if canvas.dtype is not dtype or canvas.device != patches.device:
            wanted = f"be {dtype} on {patches.device}, like the result"
            fail(_NAME, name, wanted, f"{canvas.dtype} on {canvas.device}", "Convert it, or pass dtype=.")
    for name, each in (("a", fusion.a_each), ("b", fusion.b_each)):
        if each is None:
            continue
        if each.dim() != 1 or each.shape[0] != shape[0]:
            got = f"shape {list(each.shape)}"
            fail(_NAME, name, f"be a number or have shape [{shape[0]}]", got, "Pass one factor per sample.")
        check_companion(_NAME, name, each, patches)
    if fusion.guidance is not None:
        check_companion(_NAME, "guidance", fusion.guidance, patches)
    for name, tensor in (
        ("guidance", fusion.guidance),
        ("a", fusion.a_each),
        ("b", fusion.b_each),
        ("coefficient", coefficient),
    ):
        if tensor is not None and tensor.requires_grad:
            remedy = "Detach it; a fused merge is differentiable in patches, x and noise."
            fail(_NAME, name, "not require grad", "one that does", remedy)
