# SPDX-License-Identifier: Apache-2.0
"""Pictures on the sphere: six faces of a cube, one equirectangular picture, and what a viewer sees of it.

The world is x to the right, y up, z ahead; the viewer stands in the middle. The faces, in the order
F, R, B, L, U, D, are what is seen ahead, to the right, behind, to the left, above and below, with rows
from top to bottom. They unfold like this, neighbours on the paper being neighbours on the cube:

              +-----+                      longitude   -180   -90    0    90   180
              |  U  |                      latitude  90 +-----------------------+
        +-----+-----+-----+-----+                       |   .    .   U   .   .  |
        |  L  |  F  |  R  |  B  |                     0 |  B    L    F   R    B |
        +-----+-----+-----+-----+                       |   .    .   D   .   .  |
              |  D  |                               -90 +-----------------------+
              +-----+

So the lower edge of U and the upper edge of D touch F. Pixels are areas: the centre of the left column of W
lies at longitude -180 + 180/W degrees, that of the top row of H at latitude 90 - 90/H.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["FACES", "cubemap_to_equirect", "equirect_to_cubemap", "perspective"]

FACES = ("F", "R", "B", "L", "U", "D")

# Right, down and ahead of each face, in the world.
_AXES = (
    ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
    ((0, 0, -1), (0, -1, 0), (1, 0, 0)),
    ((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
    ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
    ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
)
_CHUNK = 2**18
_MOST_SAMPLES = 16


def cubemap_to_equirect(
    faces: Tensor, size: Sequence[int] | None = None, *, sampling: str = "bilinear"
) -> Tensor:
    """Unroll the six faces of a cube into one picture of longitude and latitude.

    Args:
        faces: `[..., 6, N, N]` floating, in the order F, R, B, L, U, D; see the drawing above.
        size: (H, W) of the result; None takes (2N, 4N), at which a pixel on the horizon is one of a face.
        sampling: `bilinear` looks at the centre of each pixel; `area` averages over it, for results
            smaller than the faces.

    Returns:
        `[..., H, W]` in the dtype of `faces`.

    Raises:
        ValueError: another shape or dtype, a size below 1, or another `sampling`.

    Note:
        Interpolation crosses the edges of faces, so no edge shows: at an edge both sides meet at their
        mean, at a corner all three. Differentiable in `faces`. The poles are the middles of U and D.

    Example:
        >>> sky = torch.zeros(6, 4, 4).index_fill(0, torch.tensor(4), 1.0)
        >>> cubemap_to_equirect(sky, (4, 8))[:, 0]
        tensor([1., 0., 0., 0.])
    """
    name = "cubemap_to_equirect"
    _check_picture(name, "faces", faces, "[..., 6, N, N]")
    edge = faces.shape[-1]
    if faces.ndim < 3 or faces.shape[-3] != 6 or faces.shape[-2] != edge:
        raise ValueError(
            f"{name}: faces must be [..., 6, N, N], got {list(faces.shape)}. "
            "Stack the faces F, R, B, L, U, D on the third axis from the end."
        )
    height, width = _check_size(name, (2 * edge, 4 * edge) if size is None else size)
    count = _samples(name, sampling, max(2 * edge / height, 4 * edge / width))
    table = _with_margins(faces)
    place = functools.partial(_on_cube, edge=edge)

    def directions(rows: Tensor) -> Tensor:
        # Equal areas on the sphere are equal steps of the sine of the latitude.
        top, bottom = (math.pi * (0.5 - (rows + k).double() / height) for k in (0, 1))
        steps = (torch.arange(count, dtype=torch.float64, device=rows.device) + 0.5) / count
        if count == 1:
            latitude = ((top + bottom) / 2)[:, None]
        else:
            latitude = torch.asin(torch.lerp(top.sin()[:, None], bottom.sin()[:, None], steps))
        columns = torch.arange(width, dtype=torch.float64, device=rows.device)[:, None] + steps
        longitude = 2 * math.pi * (columns / width - 0.5)
        y, level = latitude.sin()[:, None, :, None], latitude.cos()[:, None, :, None]
        x, z = level * longitude.sin()[None, :, None], level * longitude.cos()[None, :, None]
        return torch.stack([x, y.expand_as(x), z])

    found = _resample(table, edge + 2, place, directions, height, width, count)
    return found.reshape(*faces.shape[:-3], height, width)


def equirect_to_cubemap(picture: Tensor, face: int, *, sampling: str = "bilinear") -> Tensor:
    """Cut a picture of longitude and latitude into the six faces of a cube.

    Args:
        picture: `[..., H, W]` floating: all longitudes, all latitudes.
        face: N, pixels of an edge of the cube; W / 4 keeps the resolution at the horizon.
        sampling: as in `cubemap_to_equirect`.

    Returns:
        `[..., 6, N, N]` in the order F, R, B, L, U, D, in the dtype of `picture`.

    Raises:
        ValueError: another shape or dtype, a face below 1, or another `sampling`.

    Note:
        At a pole all columns meet in the mean of their row, so the result is continuous there.
        Differentiable in `picture`.

    Example:
        >>> equirect_to_cubemap(torch.ones(3, 4, 8), 2).shape
        torch.Size([3, 6, 2, 2])
    """
    name = "equirect_to_cubemap"
    _check_picture(name, "picture", picture, "[..., H, W]")
    edge = _check_size(name, (face,))[0]
    count = _samples(name, sampling, max(picture.shape[-2] / (2 * edge), picture.shape[-1] / (4 * edge)))

    def directions(rows: Tensor) -> Tensor:
        steps = (torch.arange(count, dtype=torch.float64, device=rows.device) + 0.5) / count
        v = (2 * ((rows % edge)[:, None] + steps) / edge - 1)[:, None, :, None]
        columns = torch.arange(edge, dtype=torch.float64, device=rows.device)
        u = (2 * (columns[:, None] + steps) / edge - 1)[None, :, None]
        axes = torch.tensor(_AXES, dtype=torch.float64, device=rows.device)[rows // edge]
        right, down, ahead = (axes[:, k].T[:, :, None, None, None] for k in range(3))
        return right * u + down * v + ahead

    found = _from_equirect(picture, directions, 6 * edge, edge, count)
    return found.reshape(*picture.shape[:-2], 6, edge, edge)


def perspective(
    picture: Tensor,
    size: Sequence[int],
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    field: float = 90.0,
) -> Tensor:
    """Show a part of a picture of longitude and latitude as a camera in its middle would.

    Args:
        picture: `[..., H, W]` floating: all longitudes, all latitudes.
        size: (h, w) of the result.
        yaw: degrees to the right of the picture's middle.
        pitch: degrees up.
        field: horizontal angle of the camera in degrees, below 180.

    Returns:
        `[..., h, w]` in the dtype of `picture`.

    Raises:
        ValueError: another shape or dtype, a size below 1, or a field outside 0 to 180.

    Example:
        >>> perspective(torch.ones(3, 4, 8), (2, 2), pitch=90).shape
        torch.Size([3, 2, 2])
    """
    name = "perspective"
    _check_picture(name, "picture", picture, "[..., H, W]")
    height, width = _check_size(name, size)
    if not 0 < field < 180:
        raise ValueError(
            f"{name}: field must be between 0 and 180 degrees, got {field}. Take 90 for a wide lens."
        )
    reach = math.tan(math.radians(field) / 2)
    side, rise = math.radians(yaw), math.radians(pitch)

    def directions(rows: Tensor) -> Tensor:
        u = (2 * torch.arange(width, dtype=torch.float64, device=rows.device) + 1) / width - 1
        v = (2 * rows.double() + 1 - height) / width
        right, down = (u * reach)[None, :], (v * reach)[:, None]
        up = math.sin(rise) - down * math.cos(rise)
        ahead = math.cos(rise) + down * math.sin(rise)
        x, z = (
            right * math.cos(side) + ahead * math.sin(side),
            ahead * math.cos(side) - right * math.sin(side),
        )
        return torch.stack([x, up.expand_as(x), z])[..., None, None]

    found = _from_equirect(picture, directions, height, width, 1)
    return found.reshape(*picture.shape[:-2], height, width)


def _check_picture(name: str, argument: str, picture: Tensor, shape: str) -> None:
    if picture.ndim < 2 or picture.numel() == 0:
        raise ValueError(
            f"{name}: {argument} must be {shape} and not empty, got {list(picture.shape)}. Pass a picture."
        )
    if not picture.is_floating_point():
        raise ValueError(
            f"{name}: {argument} must have a floating dtype, got {picture.dtype}. Use media.to_float."
        )


def _check_size(name: str, size: Sequence[int]) -> tuple[int, ...]:
    if min(size) < 1:
        raise ValueError(f"{name}: size must be at least 1, got {tuple(size)}. Give pixels.")
    return tuple(int(length) for length in size)


def _samples(name: str, sampling: str, ratio: float) -> int:
    """Samples along each side of a pixel of the result; `ratio` is how many of the source it covers."""
    if sampling not in ("bilinear", "area"):
        raise ValueError(f"{name}: sampling must be 'bilinear' or 'area', got {sampling!r}. Choose one.")
    return 1 if sampling == "bilinear" else min(max(math.ceil(ratio), 2), _MOST_SAMPLES)


def _with_margins(faces: Tensor) -> Tensor:
    """`[P, 6 (N+2)^2]`: each face with a border of the pixels that touch it on its neighbours."""
    edge = faces.shape[-1]
    line = (2 * torch.arange(-1, edge + 1, dtype=torch.float64) + 1) / edge - 1
    line[0], line[-1] = -1 - 1e-9, 1 + 1e-9
    right, down, ahead = torch.tensor(_AXES, dtype=torch.float64)[:, :, :, None, None].unbind(1)
    face, u, v = _on_faces((right * line + down * line[:, None] + ahead).transpose(0, 1))
    pixels = [((w + 1) / 2 * edge).floor().long().clamp(0, edge - 1) for w in (v, u)]
    index = ((face * edge + pixels[0]) * edge + pixels[1]).flatten().to(faces.device)
    table = faces.reshape(-1, 6 * edge * edge)[:, index].reshape(-1, 6, edge + 2, edge + 2)
    near, far = (0, 1), (edge + 1, edge)
    for (y, inside_y), (x, inside_x) in ((near, near), (near, far), (far, near), (far, far)):
        three = table[..., inside_y, inside_x] + table[..., y, inside_x] + table[..., inside_y, x]
        table[..., y, x] = three / 3
    return table.flatten(1)


def _on_faces(direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the face that a direction `[3, ...]` meets, and where in it, u and v in [-1, 1]."""
    axes = torch.tensor(_AXES, dtype=direction.dtype, device=direction.device)
    ahead = torch.einsum("fi,i...->f...", axes[:, 2], direction)
    depth, face = ahead.max(0)
    own = axes[face]
    u, v = ((own[..., k, :] * direction.movedim(0, -1)).sum(-1) / depth for k in (0, 1))
    return face, u, v


def _on_cube(direction: Tensor, *, edge: int) -> tuple[Tensor, Tensor]:
    """Row (of all faces, one below the other) and column in the table of `_with_margins`."""
    face, u, v = _on_faces(direction)
    x, y = ((w + 1) / 2 * edge + 0.5 for w in (u, v))
    return face * (edge + 2) + y.clamp(0, edge + 0.999999), x.clamp(0, edge + 0.999999)


def _from_equirect(
    picture: Tensor, directions: Callable[[Tensor], Tensor], rows: int, columns: int, count: int
) -> Tensor:
    height, width = picture.shape[-2:]
    flat = picture.reshape(-1, height, width)
    poles = (flat[:, line].mean(-1)[:, None, None].expand(-1, 1, width) for line in (0, -1))
    top, bottom = poles
    table = torch.cat([top, flat, bottom], 1)
    table = torch.cat([table[..., -1:], table, table[..., :1]], 2)

    def place(direction: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = direction
        latitude, longitude = torch.atan2(y, torch.hypot(x, z)), torch.atan2(x, z)
        row = (0.5 - latitude / math.pi) * height + 0.5
        # The margins are the poles themselves, half a pixel beyond the outer rows.
        row = torch.where(row < 1, 2 * row - 1, torch.where(row > height, 2 * row - height, row))
        column = (longitude / (2 * math.pi) + 0.5) * width + 0.5
        return row.clamp(0, height + 0.999999), column.clamp(0, width + 0.999999)

    return _resample(table.flatten(1), width + 2, place, directions, rows, columns, count)


def _resample(
    table: Tensor,
    stride: int,
    place: Callable[[Tensor], tuple[Tensor, Tensor]],
    directions: Callable[[Tensor], Tensor],
    rows: int,
    columns: int,
    count: int,
) -> Tensor:
    """Bilinear samples `[P, rows, columns]` of `table [P, rows * stride]`, averaged over each pixel."""
    parts = []
    step = max(1, _CHUNK // (columns * count * count))
    for start in range(0, rows, step):
        chunk = torch.arange(start, min(start + step, rows), device=table.device)
        y, x = place(directions(chunk))
        low_y, low_x = y.floor(), x.floor()
        part_y, part_x = (y - low_y).to(table.dtype), (x - low_x).to(table.dtype)
        corner = low_y.long() * stride + low_x.long()
        upper = torch.lerp(table[:, corner], table[:, corner + 1], part_x)
        lower = torch.lerp(table[:, corner + stride], table[:, corner + stride + 1], part_x)
        parts.append(torch.lerp(upper, lower, part_y).mean((-2, -1)))
    return torch.cat(parts, 1)
