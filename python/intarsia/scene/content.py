# SPDX-License-Identifier: Apache-2.0
"""What each patch is told: styles and guidance of a model of pixels, in factors that share network calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intarsia.layout import BoxSet, Weight
from intarsia.scene.transition import shares

if TYPE_CHECKING:
    from intarsia.scene.planning import Plan

__all__ = ["Content", "contents"]


@dataclass(frozen=True, eq=False)
class Content:
    """Patches that are guided, or patches that are not.

    Attributes:
        layout: R patches; one where two styles mix stands twice.
        weight: theirs.
        coefficient: `[R]` float64, weight of the region times share of the style.
        styles: R names; "" is no style.
        scale: `[R]` float32, guidance.
        terms: 2 where guided, else 1.
    """

    layout: BoxSet
    weight: Weight
    coefficient: Tensor
    styles: tuple[str, ...]
    scale: Tensor
    terms: int


def contents(plan: Plan) -> tuple[Content, ...]:
    """Tell every patch its style, and part the guided ones from the others.

    Args:
        plan: patches and their owners.

    Returns:
        One or two contents; of a diffusers model one, whose styles are empty.
    """
    spread = plan.spread
    boxes, owners = spread.layout.boxes(), spread.owner.tolist()
    rows: list[tuple[int, str, float]] = []
    for index, (box, owner) in enumerate(zip(boxes, owners, strict=True)):
        rows += [(index, style, share) for style, share in _styles(plan, box, owner)]
    scales = [plan.guidance(owners[index]) for index, _, _ in rows]
    guided = [scale != 1 and bool(style) for scale, (_, style, _) in zip(scales, rows, strict=True)]
    if not plan.model.styled:
        guided = [plan.model.pipeline != "FluxPipeline" and any(scale > 1 for scale in scales)] * len(rows)
    parts = []
    for kind in (False, True):
        chosen = [row for row, own in enumerate(guided) if own is kind]
        if chosen:
            parts.append(_content(plan, rows, scales, chosen, terms=2 if kind else 1))
    return tuple(parts)


def _styles(
    plan: Plan, box: tuple[tuple[int, ...], tuple[int, ...]], owner: int
) -> Sequence[tuple[str, float]]:
    scene, own = plan.scene, plan.painted[owner].style if owner >= 0 else None
    if not plan.model.styled:
        return [("", 1.0)]
    if own is not None or not scene.style:
        return [(own or "", 1.0)]
    width, loop = scene.canvas.width, scene.wraps[1]
    centre = box[0][1] + box[1][1] / 2
    blend = min(scene.blend, width // len(scene.style))
    found = shares(centre % width if loop else centre, len(scene.style), width, blend, loop=loop)
    return [(scene.style[piece], share) for piece, share in found]


def _content(
    plan: Plan, rows: list[tuple[int, str, float]], scales: list[float], chosen: list[int], *, terms: int
) -> Content:
    spread = plan.spread
    boxes = spread.layout.boxes()
    index = [rows[row][0] for row in chosen]
    weight = spread.weight
    if not callable(weight):
        weight = [weight[i] for i in index]
    share = torch.tensor([rows[row][2] for row in chosen], dtype=torch.float64)
    return Content(
        BoxSet(spread.size, tuple(boxes[i] for i in index), spread.wrap),
        weight,
        spread.coefficient[index] * share,
        tuple(rows[row][1] for row in chosen),
        torch.tensor([scales[row] for row in chosen], dtype=torch.float32),
        terms,
    )
