# SPDX-License-Identifier: Apache-2.0
"""`plan`: every patch that a scene sends through its network, known before any weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from intarsia import layout
from intarsia.adapters.diffusers.plan import Part, starts
from intarsia.adapters.diffusers.plan import Plan as Spread
from intarsia.adapters.diffusers.plan import plan as spread_out
from intarsia.ops import CoverageError
from intarsia.scene.checks import check_files, patch_of
from intarsia.scene.cover import cover_of
from intarsia.scene.errors import SceneError, refuse
from intarsia.scene.model import Model
from intarsia.scene.schema import Region, Scene

__all__ = ["Group", "Plan", "plan"]

_MAX_PATCHES = 4096

# Evaluations of the network beyond one per step, by a diffusers scheduler's own class.
_TWICE = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")


@dataclass(frozen=True)
class Group:
    """Patches of one size that share network calls.

    Attributes:
        size: `(width, height)` in pixels.
        patches: how many.
        terms: answers per patch, 2 with guidance.
        calls: network calls per step.
    """

    size: tuple[int, int]
    patches: int
    terms: int
    calls: int


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be done.

    Attributes:
        scene: what was asked for.
        model: by whom.
        patch: the largest patch, `(height, width)` in pixels.
        regions: every region, named.
        spread: patches, weights and owners, in elements of the canvas.
        groups: patches by size and terms.
        evaluations: of the network in the whole run, per patch and term.
    """

    scene: Scene
    model: Model
    patch: tuple[int, int]
    regions: tuple[Region, ...]
    spread: Spread
    groups: tuple[Group, ...]
    evaluations: int

    @property
    def size(self) -> tuple[int, int]:
        """The canvas in elements, (rows, columns)."""
        return self.spread.size[0], self.spread.size[1]

    @property
    def rows(self) -> int:
        """Rows through the network in one step."""
        return sum(group.patches * group.terms for group in self.groups)

    @property
    def calls(self) -> int:
        """Network calls in one step."""
        return sum(group.calls for group in self.groups)

    @property
    def steps_shown(self) -> int:
        """Steps as a progress bar counts them: a diffusers scheduler may have several for each level."""
        return self.scene.steps if self.model.styled else self.evaluations

    @property
    def background(self) -> int:
        """Patches of what the regions leave free."""
        return int((self.spread.owner < 0).sum())

    def guidance(self, owner: int) -> float:
        """The scale of a region, or of the rest (-1)."""
        own = self.painted[owner].guidance if owner >= 0 else None
        scene = self.scene.guidance
        return own if own is not None else scene if scene is not None else self.model.guidance

    @property
    def painted(self) -> tuple[Region, ...]:
        """The regions with a content of their own, which own patches."""
        return tuple(region for region in self.regions if region.painted)


def plan(scene: Scene, model: Model) -> Plan:
    """Lay out a scene.

    A box of the network's own size, or for a diffusers model a smaller one, is one patch of that shape.
    Others, masks and faded boxes are covered by the patches of one overlapping grid that touch them. Where
    regions leave room, the scene's own prompt or style fills it, on the same grid.

    Args:
        scene: what to paint.
        model: what `Model.open` found.

    Returns:
        The plan.

    Raises:
        SceneError: the scene does not suit the model, a picture does not fit, or a part stays uncovered.

    Example:
        >>> from intarsia.scene import Model, load
        >>> paper = load("{canvas: {width: 128, height: 64}, steps: 8}")
        >>> plan(paper, Model.open("landscapes")).groups
        (Group(size=(64, 64), patches=3, terms=1, calls=1),)
    """
    scene.check(model)
    check_files(scene)
    unit = model.unit
    patch = patch_of(scene, model)
    regions = scene.places
    cells = tuple(length // unit for length in patch)
    overlap = (
        [length // unit for length in reversed(scene.overlap)] if scene.overlap else [n // 2 for n in cells]
    )
    size = scene.canvas.height // unit, scene.canvas.width // unit
    stride = [n - o for n, o in zip(cells, overlap, strict=True)]
    axes = zip(size, cells, stride, scene.wraps, strict=True)
    # Counted before anything is laid out: a canvas of few bytes of text may ask for millions.
    _limit("canvas", math.prod(len(starts(s, n, step, wrap=wrap)) for s, n, step, wrap in axes))
    try:
        spread = spread_out(
            size,
            [_part(scene, region, model) for region in regions if region.painted],
            patch=cells,
            stride=stride,
            wrap=scene.wraps,
            window=getattr(layout, scene.window),
            background=model.styled or scene.prompt is not None,
            describe=lambda place: "(" + ", ".join(str(n * unit) for n in reversed(place)) + ")",
        )
    except CoverageError as error:
        raise SceneError("prompt", str(error).partition(": ")[2]) from None
    except ValueError as error:
        raise SceneError("regions", str(error).partition(": ")[2]) from None
    _limit("regions", spread.num_patches)
    made = Plan(scene, model, patch, regions, spread, (), _evaluations(scene, model))
    return Plan(scene, model, patch, regions, spread, _groups(made), made.evaluations)


def _limit(key: str, patches: int) -> None:
    if patches > _MAX_PATCHES:
        remedy = "Make the canvas smaller, the overlap less, or fade fewer regions."
        refuse(key, f"give at most {_MAX_PATCHES} patches", patches, remedy)


def _part(scene: Scene, region: Region, model: Model) -> Part:
    unit = model.unit
    whole = (0, scene.canvas.height), (0, scene.canvas.width)
    box = region.box
    spans = whole if box is None or region.feather else ((box[1], box[3]), (box[0], box[2]))
    share = None
    if box is None or region.feather:
        share = cover_of(scene, region, unit=unit)
    elif model.styled and (box[3] - box[1], box[2] - box[0]) not in model.sizes:
        # A share, be it of all, sends the box to the grid: the network knows few sizes.
        share = torch.ones(scene.canvas.height // unit, scene.canvas.width // unit)
    return Part(tuple((low // unit, high // unit) for low, high in spans), share, region.weight)


def _groups(made: Plan) -> tuple[Group, ...]:
    from intarsia.scene.content import contents

    limit, unit, found = made.scene.machine.max_batch, made.model.unit, []
    for part in contents(made):
        for group, index in part.layout.groups:
            height, width = (length * unit for length in group.patch)
            rows = len(index) * part.terms
            found.append(Group((width, height), len(index), part.terms, math.ceil(rows / limit)))
    return tuple(found)


def _evaluations(scene: Scene, model: Model) -> int:
    if scene.solver == "heun" or (scene.solver is None and model.scheduler in _TWICE):
        return 2 * scene.steps - 1
    return scene.steps + (1 if scene.solver is None and model.scheduler == "PNDMScheduler" else 0)
