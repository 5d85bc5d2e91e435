# SPDX-License-Identifier: Apache-2.0
"""The sphere as six faces: rings of four that close on themselves, and the faces in which they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intarsia.layout._check import fail
from intarsia.layout.gathered import Gathered
from intarsia.layout.grids import grid
from intarsia.layout.regions import Layout
from intarsia.layout.separators import counting_numbers, separators

__all__ = ["FACES", "CubeMap", "Part", "cubemap"]

FACES = ("front", "right", "back", "left", "up", "down")
_F, _R, _B, _L, _U, _D = range(6)

# A ring as a strip from left to right: faces, and how many quarter turns (counter-clockwise) each takes.
_HORIZON = ((_F, 0), (_R, 0), (_B, 0), (_L, 0))
# Upwards from each face of the horizon, over the top and back from below.
_UPWARDS = (
    ((_F, 3), (_U, 3), (_B, 1), (_D, 3)),
    ((_R, 3), (_U, 2), (_L, 1), (_D, 0)),
    ((_B, 3), (_U, 1), (_F, 1), (_D, 1)),
    ((_L, 3), (_U, 0), (_R, 1), (_D, 2)),
)


@dataclass(frozen=True, eq=False)
class Part:
    """Regions of one size on a cube map, with the number of times that each counts.

    Attributes:
        kind: "ring" patches, "seam" where two of a ring overlap, or "face" where two rings cross.
        layout: the regions.
        coefficient: `[R]` float64, signed.
        directions: `[R, 3]` float32, unit vectors (x right, y up, z to the front) of the regions' centres.
        turn: `[R]` int64, by how many quarter turns (counter-clockwise) the face under the region's centre
            was turned; 0 is upright.
    """

    kind: str
    layout: Gathered
    coefficient: Tensor
    directions: Tensor
    turn: Tensor


@dataclass(frozen=True, eq=False)
class CubeMap:
    """Six square faces `[B, C, 6, H, H]` as three crossing rings. Build one with `cubemap`.

    Attributes:
        face: H, elements along an edge.
        patch: `(h, w)` that a network sees of a ring, seen as a strip `[H, 4H]`.
        stride: step between patches.
        symmetric: whether the upright rings are seen from both sides.
        parts: all regions of a Bethe sum over the cube, by kind and size.
    """

    face: int
    patch: tuple[int, int]
    stride: tuple[int, int]
    symmetric: bool
    parts: tuple[Part, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _parts(self))

    @property
    def size(self) -> tuple[int, ...]:
        """The canvas, (6, H, H): faces front, right, back, left, up, down."""
        return (6, self.face, self.face)

    @property
    def rings(self) -> Gathered:
        """The strips `[H, 4H]` of the rings: the horizon, then upwards from the front, the right, ..."""
        return Gathered(self.size, torch.stack([_strip(self.face, ring)[0] for ring in self._rings()]))

    @property
    def faces(self) -> Gathered:
        """The six faces `[H, H]`, upright."""
        return Gathered(self.size, _places(self.face))

    def directions(self) -> Tensor:
        """`[6, H, H, 3]` float64: the direction in which each element lies, x right, y up, z to the front."""
        return _directions(self.face)

    def _rings(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        return (_HORIZON, *(_UPWARDS if self.symmetric else _UPWARDS[:2]))


def cubemap(
    face: int,
    *,
    patch: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    symmetric: bool = True,
) -> CubeMap:
    """Lay a canvas out on a sphere: six faces, three rings of four, each a loop of overlapping patches.

    A ring takes its four faces, turned where needed, as a strip `[H, 4H]` that closes. Every face lies in two
    rings, so that faces are what rings share: +2 rings - 1 face everywhere.

                     +------+
                     |  up  |
              +------+------+------+------+
              | left | front| right| back |
              +------+------+------+------+
                     | down |
                     +------+

    Every face is seen from inside; the bottom of `up` and the top of `down` meet the front.

    Args:
        face: H, elements along an edge of a face.
        patch: `(h, w)` of what a network sees of a strip, or one number for both; None is a whole face.
        stride: step between patches, or one number for both; None is half a patch where patches overlap.
        symmetric: see the two upright rings from both sides, with half the weight each, and `up` and `down`
            in all four turns: then a quarter turn of the whole sphere about its axis turns the result, with
            any network. False has the three rings of the paper, for about three fifths of the cost.

    Returns:
        A CubeMap, for `compose.bethe`.

    Raises:
        ValueError: sizes that do not fit a face.

    Source:
        Zhang et al. 2023, "DiffCollage", section 4 and appendix B: 360-degree images from rings.

    Example:
        >>> cube = cubemap(8)
        >>> [(part.kind, part.layout.patch, part.layout.num_regions) for part in cube.parts]
        [('ring', (8, 8), 40), ('seam', (8, 4), 40), ('face', (8, 8), 12)]
    """
    whole = (face, face) if patch is None else (patch, patch) if isinstance(patch, int) else tuple(patch)
    if face < 1 or len(whole) != 2 or not all(1 <= extent <= face for extent in whole):
        fail("cubemap", "patch", f"be two numbers within the face ({face})", whole, "Use a larger face.")
    if stride is None:
        half = (whole[0] if whole[0] == face else -(-whole[0] // 2), -(-whole[1] // 2))
    else:
        half = (stride, stride) if isinstance(stride, int) else (stride[0], stride[1])
    if half[1] < 1 or 4 * face % half[1]:
        remedy = "Use a face of an even number of elements, or another stride."
        fail("cubemap", "stride", f"divide the ring ({4 * face})", half[1], remedy)
    return CubeMap(face, (whole[0], whole[1]), half, symmetric)


def _places(face: int) -> Tensor:
    return torch.arange(6 * face * face).reshape(6, face, face)


def _strip(face: int, ring: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """A ring's places `[H, 4H]` and the quarter turns of its faces `[4]`."""
    places = _places(face)
    turned = [torch.rot90(places[number], turns) for number, turns in ring]
    return torch.cat(turned, dim=1), torch.tensor([turns for _, turns in ring])


def _directions(face: int) -> Tensor:
    along = (torch.arange(face, dtype=torch.float64) * 2 + 1) / face - 1
    v, u = torch.meshgrid(along, along, indexing="ij")
    one = torch.ones_like(u)
    faces = ((u, -v, one), (one, -v, -u), (-u, -v, -one), (-one, -v, u), (u, one, v), (u, -one, -v))
    return torch.nn.functional.normalize(torch.stack([torch.stack(f, -1) for f in faces]), dim=-1)


def _cut(strip: Tensor, regions: Layout) -> Tensor:
    """What the regions of a layout see of a strip's places, `[R, *s]`."""
    return regions.extract(strip[None, None].double())[0, :, 0].round().long()


def _parts(cube: CubeMap) -> tuple[Part, ...]:
    height = cube.face
    loop = grid((height, 4 * height), cube.patch, cube.stride, (False, True))
    flat = grid((height, height), cube.patch, cube.stride)
    found: dict[tuple[str, tuple[int, ...]], list[tuple[Tensor, float, int]]] = {}
    rings = cube._rings()
    for number, ring in enumerate(rings):
        weight = 1.0 if number == 0 or not cube.symmetric else 0.5
        strip, turns = _strip(height, ring)
        _collect(found, strip, loop, weight, "ring", "seam", turns)
    for number in range(6):
        upright = number < 4 or not cube.symmetric
        for turn in (0,) if upright else range(4):
            strip = torch.rot90(_places(height)[number], turn)
            weight = -1.0 if upright else -0.25
            _collect(found, strip, flat, weight, "face", "face", torch.tensor([turn]))
    directions = _directions(height).reshape(-1, 3)
    parts = []
    for (kind, _), rows in found.items():
        index = torch.stack([places for places, _, _ in rows])
        centres = directions[index.flatten(1)].mean(1)
        parts.append(
            Part(
                kind,
                Gathered(cube.size, index),
                torch.tensor([weight for _, weight, _ in rows], dtype=torch.float64),
                torch.nn.functional.normalize(centres, dim=-1).float(),
                torch.tensor([turn for _, _, turn in rows]),
            )
        )
    return tuple(parts)


def _collect(
    found: dict[tuple[str, tuple[int, ...]], list[tuple[Tensor, float, int]]],
    strip: Tensor,
    regions: Layout,
    weight: float,
    kind: str,
    shared: str,
    turns: Tensor,
) -> None:
    """Add a strip's patches, and what they share as often as counting demands, to the lists by size."""
    height = strip.shape[0]

    def add(layout: Layout, name: str, coefficients: Tensor) -> None:
        middles = (layout.offsets[:, 1] + layout.patch[1] // 2) % strip.shape[1] // height
        cut = zip(_cut(strip, layout), coefficients.tolist(), middles.tolist(), strict=True)
        for places, count, face in cut:
            row = (places, weight * count, int(turns[face]))
            found.setdefault((name, layout.patch), []).append(row)

    add(regions, kind, torch.ones(regions.num_regions))
    between = separators(regions)
    if between is None:
        return
    counts = counting_numbers(regions.boxes(), between.boxes(), regions.size, regions.wrap)
    for part, rows in between.groups:
        add(part, shared, counts[rows].double())
