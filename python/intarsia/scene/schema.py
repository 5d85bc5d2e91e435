# SPDX-License-Identifier: Apache-2.0
"""What a scene may say: one pydantic model per part, whose JSON Schema is published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema

from intarsia.scene.tree import MAX_TEXT

if TYPE_CHECKING:
    from intarsia.scene.model import Model

__all__ = [
    "Box",
    "Canvas",
    "Grid",
    "Guide",
    "MAX_PIXELS",
    "MAX_REGIONS",
    "MAX_STEPS",
    "Machine",
    "Output",
    "Region",
    "Scene",
    "json_schema",
]

MAX_PIXELS = 2**26
MAX_REGIONS = 256
MAX_STEPS = 1000
MAX_GUIDES = 64
_FAR = 2**20


def _many(value: Any) -> Any:
    """One thing stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _pair(value: Any) -> Any:
    """One number stands for both axes."""
    return [value, value] if type(value) is int else value


def _table(value: Any) -> Any:
    """One text, or one per row, or one per row and column, as rows of columns."""
    rows = _many(value)
    return [_many(row) for row in rows] if isinstance(rows, list) else rows


_TEXT = {"type": "string", "maxLength": MAX_TEXT}
_STYLE = {"type": "string", "minLength": 1, "maxLength": 64}
_LENGTH = {"type": "integer", "minimum": 0, "maximum": _FAR}

Text = Annotated[str, Field(max_length=MAX_TEXT)]
File = Annotated[str, Field(min_length=1, max_length=1024)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Style = Annotated[str, Field(min_length=1, max_length=64)]
Styles = Annotated[
    tuple[Style, ...],
    BeforeValidator(_many),
    Field(strict=False, max_length=64),
    WithJsonSchema({"anyOf": [_STYLE, {"type": "array", "items": _STYLE, "maxItems": 64}]}),
]
Length = Annotated[int, Field(ge=0, le=_FAR)]
Lengths = Annotated[
    tuple[Length, Length],
    BeforeValidator(_pair),
    Field(strict=False),
    WithJsonSchema({"anyOf": [_LENGTH, {"type": "array", "items": _LENGTH, "minItems": 2, "maxItems": 2}]}),
]
Texts = Annotated[
    tuple[Annotated[tuple[Text, ...], Field(strict=False, max_length=MAX_REGIONS)], ...],
    BeforeValidator(_table),
    Field(strict=False, max_length=MAX_REGIONS),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "maxItems": MAX_REGIONS,
                    "items": {"anyOf": [_TEXT, {"type": "array", "maxItems": MAX_REGIONS, "items": _TEXT}]},
                },
            ]
        }
    ),
]
Edge = Annotated[int, Field(ge=0, le=_FAR)]
Box = Annotated[tuple[Edge, Edge, Edge, Edge], Field(strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Scale = Annotated[float, Field(ge=0, le=100)]
Solver = Literal["dpmpp2m", "heun", "euler", "ddim", "ancestral"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Canvas(_Part):
    """The size of the picture, and which of its edges continue at the opposite one."""

    width: Annotated[int, Field(ge=1, le=_FAR)]
    height: Annotated[int, Field(ge=1, le=_FAR)]
    wrap: Literal["none", "horizontal", "vertical", "both"] = "none"


class Region(_Part):
    """A part of the canvas with a content of its own: a box, or a picture that is white where it counts."""

    name: Annotated[
        Name | None, Field(description="For --reroll and guides; region1, region2, ... if left out.")
    ] = None
    box: Annotated[Box | None, Field(description="[left, top, right, bottom] in pixels.")] = None
    mask: Annotated[
        File | None, Field(description="A picture of the canvas's size: white inside, grey in part.")
    ] = None
    feather: Annotated[
        int, Field(ge=0, le=4096, description="Pixels over which it fades in from the edges of its box.")
    ] = 0
    prompt: Text | None = None
    negative: Text | None = None
    style: Annotated[Style | None, Field(description="A style of a bundled model.")] = None
    guidance: Annotated[Scale | None, Field(description="The scene's if left out.")] = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    seed: Annotated[Seed | None, Field(description="Fresh noise for this region alone.")] = None

    @property
    def painted(self) -> bool:
        """Whether it has a content of its own; without one it is a place for fresh noise, or for guides."""
        return any(value is not None for value in (self.prompt, self.negative, self.style, self.guidance))


class Grid(_Part):
    """Equal regions in rows and columns that overlap so as to fill the canvas; named r1c1, r1c2, ..."""

    rows: Annotated[int, Field(ge=1, le=MAX_REGIONS)]
    columns: Annotated[int, Field(ge=1, le=MAX_REGIONS)]
    region: Annotated[tuple[Length, Length], Field(strict=False, description="[width, height] of each.")]
    prompts: Annotated[
        Texts | None, Field(description="One for all, one per row, or rows of one per column.")
    ] = None
    styles: Annotated[Texts | None, Field(description="As prompts, for a bundled model.")] = None
    negative: Text | None = None
    guidance: Scale | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0


class Guide(_Part):
    """A picture that the canvas follows until the strength is used up (SDEdit)."""

    image: File
    box: Annotated[
        Box | None, Field(description="Where it lies, of its size; the whole canvas if left out.")
    ] = None
    strength: Annotated[
        float,
        Field(ge=0, le=1, description="0 never, 0.5 for half of the steps, 1 to the end: kept as it is."),
    ] = 0.5
    free: Annotated[Styles, Field(description="Names of regions that the guide leaves alone.")] = ()


class Machine(_Part):
    """What changes how fast a picture is made, and at most its last bits."""

    device: Annotated[str, Field(min_length=1, max_length=64)] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: Annotated[int, Field(ge=1, le=4096, description="Rows in the network at once.")] = 16


class Output(_Part):
    """The picture's form."""

    upscale: Annotated[int, Field(ge=1, le=16, description="Enlarge the finished picture.")] = 1


class Scene(_Part):
    """A picture written down. Paths are relative to the scene's file."""

    model: Annotated[
        File,
        Field(
            description="A bundled model, a model file, a diffusers folder, or OWNER/NAME@REVISION of a hub."
        ),
    ] = "landscapes"
    canvas: Canvas
    prompt: Annotated[Text | None, Field(description="For what the regions leave free.")] = None
    negative: Text | None = None
    style: Annotated[
        Styles, Field(description="Of a bundled model; several follow each other from left to right.")
    ] = ()
    blend: Annotated[Length, Field(description="Width in pixels over which two styles mix.")] = 192
    guidance: Annotated[
        Scale | None, Field(description="1 for a bundled model, 7.5 for others, if left out.")
    ] = None
    seed: Seed = 0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 32
    solver: Annotated[
        Solver | None, Field(description="dpmpp2m, or a diffusers folder's own, if left out.")
    ] = None
    window: Literal["gaussian", "uniform", "triangle", "cosine", "quartic"] = "gaussian"
    patch: Annotated[
        Annotated[tuple[Length, Length], Field(strict=False)] | None,
        Field(description="[width, height] of what the network sees at once; its own size if left out."),
    ] = None
    overlap: Annotated[
        Lengths | None, Field(description="Of patches, [x, y] or one for both; half if left out.")
    ] = None
    regions: Annotated[tuple[Region, ...], Field(strict=False, max_length=MAX_REGIONS)] = ()
    grid: Grid | None = None
    guides: Annotated[tuple[Guide, ...], Field(strict=False, max_length=MAX_GUIDES)] = ()
    machine: Machine = Machine()
    output: Output = Output()

    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def folder(self) -> Path:
        """Where its relative paths begin."""
        return self._folder

    @property
    def wraps(self) -> tuple[bool, bool]:
        """Whether the canvas closes on itself, (rows, columns)."""
        return self.canvas.wrap in ("vertical", "both"), self.canvas.wrap in ("horizontal", "both")

    @property
    def places(self) -> tuple[Region, ...]:
        """Every region by its name: the listed ones, then those of the grid."""
        from intarsia.scene.places import places

        return places(self)

    def path(self, name: str) -> Path:
        """A file that the scene names."""
        return self._folder / name

    def check(self, model: Model) -> None:
        """Refuse what does not suit a model; see `intarsia.scene.checks.check`.

        Raises:
            SceneError: names the key.
        """
        from intarsia.scene.checks import check

        check(self, model)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a scene (draft 2020-12), the one under docs/.

    Returns:
        A tree of plain values.

    Example:
        >>> json_schema()["required"]
        ['canvas']
    """
    schema = Scene.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "intarsia scene"}
