# SPDX-License-Identifier: Apache-2.0
"""Where the regions of a scene lie: names, and the grid written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intarsia.scene.errors import refuse

if TYPE_CHECKING:
    from intarsia.scene.schema import Region, Scene

__all__ = ["places"]


def places(scene: Scene) -> tuple[Region, ...]:
    """Every region, named, in the order of the file; those of the grid follow, row by row.

    Args:
        scene: whose `regions` and `grid` are read.

    Returns:
        Regions of which each has a name.

    Raises:
        SceneError: a grid that does not fill the canvas to the pixel.
    """
    listed = [
        region if region.name else region.model_copy(update={"name": f"region{number}"})
        for number, region in enumerate(scene.regions, 1)
    ]
    return (*listed, *_grid(scene))


def _starts(key: str, length: int, part: int, count: int) -> list[int]:
    if part < 1 or part > length:
        refuse(key, f"be between 1 and {length} on this canvas", part, "Use smaller regions.")
    if count == 1:
        if part != length:
            refuse(
                key,
                f"be {length} where there is one",
                part,
                "Add regions, or make it as large as the canvas.",
            )
        return [0]
    stride, left = divmod(length - part, count - 1)
    if left or stride == 0:
        fits = [part + (count - 1) * step for step in (stride, stride + 1) if step]
        legal = " or ".join(f"{n}" for n in fits)
        refuse(
            key,
            f"fill {length} pixels with {count} regions at even steps",
            part,
            f"Then the canvas has {legal}.",
        )
    if stride > part:
        refuse(key, f"be at least {stride}, so that no gaps are left", part, "Use larger regions, or more.")
    return [index * stride for index in range(count)]


def _cell(
    key: str, table: tuple[tuple[str, ...], ...] | None, row: int, column: int, scene: Scene
) -> str | None:
    if table is None:
        return None
    grid = scene.grid
    assert grid is not None
    if len(table) not in (1, grid.rows):
        refuse(key, f"have one entry, or one per row ({grid.rows})", len(table), "Write a list of rows.")
    cells = table[row if len(table) > 1 else 0]
    if len(cells) not in (1, grid.columns):
        where = f"{key}[{row if len(table) > 1 else 0}]"
        refuse(
            where,
            f"have one entry, or one per column ({grid.columns})",
            len(cells),
            "Write a list of columns.",
        )
    return cells[column if len(cells) > 1 else 0]


def _grid(scene: Scene) -> list[Region]:
    from intarsia.scene.schema import Region

    grid = scene.grid
    if grid is None:
        return []
    width, height = grid.region
    lefts = _starts("grid.region[0]", scene.canvas.width, width, grid.columns)
    tops = _starts("grid.region[1]", scene.canvas.height, height, grid.rows)
    return [
        Region(
            name=f"r{row + 1}c{column + 1}",
            box=(left, top, left + width, top + height),
            prompt=_cell("grid.prompts", grid.prompts, row, column, scene),
            style=_cell("grid.styles", grid.styles, row, column, scene),
            negative=grid.negative,
            guidance=grid.guidance,
            weight=grid.weight,
        )
        for row, top in enumerate(tops)
        for column, left in enumerate(lefts)
    ]
