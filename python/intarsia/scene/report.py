# SPDX-License-Identifier: Apache-2.0
"""What a plan says to people and to programs: regions, network calls, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from intarsia.scene.drawing import draw

if TYPE_CHECKING:
    from intarsia.scene.planning import Plan
    from intarsia.scene.schema import Region

__all__ = ["facts", "lines", "memory"]

# Of the bundled network in float32, measured as the growth of the process by 16 rows of 64 x 64.
_BYTES_PER_PIXEL = 4100
_CANVASES = 8
_FEW = 12


def memory(plan: Plan) -> dict[str, int]:
    """Estimate the peak of memory, part by part, in bytes.

    Args:
        plan: what will be done.

    Returns:
        "weights", "canvas", "patches" and "picture"; for models of pixels "network", too.
    """
    scene, model = plan.scene, plan.model
    height, width = plan.size
    weight = plan.spread.weight
    maps = 0 if callable(weight) else sum(part.numel() * (part.element_size() + 4) for part in weight)
    cells = plan.patch[0] * plan.patch[1] // model.unit**2
    rows = min(
        scene.machine.max_batch, max((group.patches * group.terms for group in plan.groups), default=1)
    )
    found = {
        # Stored in half precision, held in full.
        "weights": model.weight_bytes * (2 if model.styled else 1),
        "canvas": _CANVASES * 4 * model.channels * height * width,
        "patches": 4 * plan.rows * model.channels * cells + 8 * rows * model.channels * cells + maps,
        "picture": 3
        * scene.canvas.width
        * scene.canvas.height
        * (4 * (1 if model.styled else 3) + 2)
        * scene.output.upscale**2,
    }
    if model.styled:
        half = scene.machine.precision in ("bfloat16", "float16")
        found["network"] = rows * cells * _BYTES_PER_PIXEL // (2 if half else 1)
    return found


def facts(plan: Plan) -> dict[str, Any]:
    """What `--explain --json` prints.

    Args:
        plan: what will be done.

    Returns:
        A tree of plain values.
    """
    scene = plan.scene
    return {
        "canvas": [scene.canvas.width, scene.canvas.height],
        "wrap": scene.canvas.wrap,
        "elements": [plan.size[1], plan.size[0]],
        "model": {"name": scene.model, "pipeline": plan.model.pipeline, "assumed": plan.model.assumed},
        "regions": [
            {"name": region.name, "box": list(region.box) if region.box else None, "mask": region.mask}
            for region in plan.regions
        ],
        "overlaps": _overlaps(plan),
        "background_patches": plan.background,
        "groups": [
            {"size": list(group.size), "patches": group.patches, "terms": group.terms, "calls": group.calls}
            for group in plan.groups
        ],
        "steps": scene.steps,
        "evaluations": plan.evaluations,
        "rows_per_step": plan.rows,
        "calls_per_step": plan.calls,
        "rows": plan.rows * plan.evaluations,
        "calls": plan.calls * plan.evaluations,
        "max_batch": scene.machine.max_batch,
        "memory": memory(plan),
    }


def _overlaps(plan: Plan) -> dict[str, list[int]]:
    """By how much neighbours of the grid overlap: columns along its rows, rows along its columns."""
    grid = plan.scene.grid
    if grid is None:
        return {}
    boxes = [region.box for region in plan.regions[len(plan.scene.regions) :] if region.box]
    across = [one[2] - two[0] for one, two in zip(boxes, boxes[1:], strict=False) if one[1] == two[1]]
    down = [one[3] - two[1] for one, two in zip(boxes, boxes[grid.columns :], strict=False)]
    return {"columns": sorted(set(across)), "rows": sorted(set(down))}


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{max(1, round(number / 2**20))} MiB"


def _plural(count: int, word: str, words: str = "") -> str:
    return f"{count:,} {word if count == 1 else words or word + 's'}"


def _content(region: Region) -> str:
    if not region.painted:
        return "its place only"
    words = region.style or region.prompt
    return "the scene's own" if words is None else words if len(words) <= 40 else f"{words[:37]}..."


def _region(region: Region) -> str:
    where = f"mask {region.mask}"
    if region.box:
        left, top, right, bottom = region.box
        where = f"{right - left} x {bottom - top} at ({left}, {top})"
    extra = [
        f"feather {region.feather}" if region.feather else "",
        f"weight {region.weight:g}" if region.weight != 1 else "",
        f"guidance {region.guidance:g}" if region.guidance is not None else "",
        f"seed {region.seed}" if region.seed is not None else "",
    ]
    return ", ".join([where, *filter(None, extra), _content(region)])


def lines(plan: Plan, *, width: int = 76, colours: bool = False, ascii_only: bool = False) -> Iterator[str]:
    """What `--explain` prints.

    Args:
        plan: what will be done.
        width: characters of a line.
        colours: see `draw`.
        ascii_only: see `draw`.

    Yields:
        Lines.
    """
    scene, model = plan.scene, plan.model
    canvas = scene.canvas
    closed = {"none": "", "both": ", closed both ways"}.get(canvas.wrap, f", closed {canvas.wrap}ly")
    yield from draw(scene, width=width, colours=colours, ascii_only=ascii_only)
    yield ""
    elements = f", {plan.size[1]} x {plan.size[0]} elements of {model.unit} pixels" if model.unit > 1 else ""
    yield _row("canvas", f"{canvas.width} x {canvas.height} pixels{closed}{elements}")
    kind = f" ({model.pipeline})" if model.pipeline else ""
    yield _row("model", f"{scene.model}{kind}")
    if model.assumed:
        yield _row("", "not here: Stable Diffusion's elements of 8 pixels and 512 x 512 are assumed")
    yield from _regions(plan)
    for index, guide in enumerate(scene.guides):
        left, top, right, bottom = guide.box or (0, 0, canvas.width, canvas.height)
        free = f", leaves {', '.join(guide.free)} free" if guide.free else ""
        where = f"{right - left} x {bottom - top} at ({left}, {top}), strength {guide.strength:g}{free}"
        yield _row("guides" if index == 0 else "", f"{guide.image}: {where}")
    yield ""
    for index, group in enumerate(plan.groups):
        twice = ", twice for guidance" if group.terms == 2 else ""
        size = f"{group.size[0]} x {group.size[1]}"
        each = _plural(group.calls, "call")
        yield _row("patches" if index == 0 else "", f"{group.patches} of {size}{twice}: {each} a step")
    if plan.background and plan.regions:
        yield _row("", f"{plan.background} of them for what the regions leave")
    limit = scene.machine.max_batch
    yield _row(
        "a step", f"{_plural(plan.rows, 'row')} in {_plural(plan.calls, 'network call')} of at most {limit}"
    )
    rows, calls = plan.rows * plan.evaluations, plan.calls * plan.evaluations
    more = f" ({plan.evaluations} evaluations)" if plan.evaluations != scene.steps else ""
    yield _row("in all", f"{_plural(scene.steps, 'step')}{more}: {rows:,} rows in {calls:,} calls")
    yield from _memory(plan)


def _row(name: str, text: str) -> str:
    return f"{name:<9}{text}"


def _regions(plan: Plan) -> Iterator[str]:
    listed = plan.regions[: len(plan.scene.regions)]
    width = max((len(str(region.name)) for region in listed[:_FEW]), default=0)
    for index, region in enumerate(listed[:_FEW]):
        yield _row("regions" if index == 0 else "", f"{str(region.name):<{width}}  {_region(region)}")
    if len(listed) > _FEW:
        yield _row("", f"and {len(listed) - _FEW} more")
    grid = plan.scene.grid
    if grid is None:
        return
    shared = _overlaps(plan)
    overlap = [f"{value} {name}" for name in ("columns", "rows") for value in shared[name]]
    size = f"{grid.region[0]} x {grid.region[1]}"
    count = _plural(grid.rows * grid.columns, "region")
    text = f"{count} of {size}, {_plural(grid.rows, 'row')} of {grid.columns}"
    yield _row(
        "" if listed else "regions", text + (f", overlapping by {' and '.join(overlap)}" if overlap else "")
    )


def _memory(plan: Plan) -> Iterator[str]:
    parts = memory(plan)
    shown = " + ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    yield _row("memory", f"about {_size(sum(parts.values()))} = {shown}")
    if plan.model.styled:
        yield _row("", "(beside PyTorch's own 400 MiB; network: 4.1 KB a pixel and row, as measured)")
    elif plan.model.weight_bytes:
        yield _row("", "(weights as stored; PyTorch, and what the networks need to compute, come on top)")
    else:
        yield _row("", "(PyTorch, the networks, and what they need to compute, come on top)")
