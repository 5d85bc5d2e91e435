# SPDX-License-Identifier: Apache-2.0
"""Rotation matrices from and to exponential maps, Euler angles and the continuous 6-D form."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["from_euler", "from_rotvec", "from_six", "to_euler", "to_rotvec", "to_six", "yaw"]


def from_rotvec(rotvec: Tensor) -> Tensor:
    """Rotation matrices of exponential maps (Rodrigues' formula).

    Args:
        rotvec: `[..., 3]` floating, axis times angle in radians.

    Returns:
        `[..., 3, 3]`, for column vectors.

    Example:
        >>> from_rotvec(torch.tensor([0.0, torch.pi / 2, 0.0]))[0].round(decimals=3).abs()
        tensor([0., 0., 1.])
    """
    angle = rotvec.norm(dim=-1)[..., None, None]
    x, y, z = rotvec.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    # sinc is smooth at 0, where axis and angle are not.
    sine, half = torch.sinc(angle / torch.pi), torch.sinc(angle / (2 * torch.pi))
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    return eye + sine * cross + 0.5 * half**2 * (cross @ cross)


def to_rotvec(matrix: Tensor) -> Tensor:
    """Exponential maps of rotation matrices, angles in [0, pi].

    Args:
        matrix: `[..., 3, 3]` rotations.

    Returns:
        `[..., 3]` axis times angle in radians.

    Example:
        >>> to_rotvec(from_rotvec(torch.tensor([0.1, -0.2, 3.0]))).round(decimals=4).tolist()
        [0.1..., -0.2..., 3.0]
    """
    quaternion = _to_quaternion(matrix)
    w, v = quaternion[..., :1], quaternion[..., 1:]
    length = v.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, w)
    small = length < 1e-8
    return v * torch.where(small, torch.full_like(angle, 2.0), angle / length.clamp_min(1e-30))


def _to_quaternion(matrix: Tensor) -> Tensor:
    """`[..., 4]`, w first and not negative; from the largest of the four components, so never from 0 / 0."""
    m = matrix
    diagonal = m.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    squares = torch.cat([1 + trace, 1 - trace + 2 * diagonal], -1)
    w, x, y, z = squares.unbind(-1)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    rows = torch.stack([w, a, b, c, a, x, d, e, b, d, y, f, c, e, f, z], -1).unflatten(-1, (4, 4))
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = rows.gather(-2, best).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def _about(axis: str, angle: Tensor) -> Tensor:
    vector = torch.zeros(*angle.shape, 3, dtype=angle.dtype, device=angle.device)
    vector[..., "XYZ".index(axis)] = angle
    return from_rotvec(vector)


def from_euler(angles: Tensor, *, order: str) -> Tensor:
    """Rotation matrices of Euler angles as BVH applies them: the first letter is the outermost rotation.

    Args:
        angles: `[..., n]` radians, in the order of the letters.
        order: n of the letters X, Y, Z, e.g. `"ZYX"` for `Rz Ry Rx`.

    Returns:
        `[..., 3, 3]`, for column vectors.

    Example:
        >>> from_euler(torch.zeros(2, 3), order="ZXY").shape
        torch.Size([2, 3, 3])
    """
    result = torch.eye(3, dtype=angles.dtype, device=angles.device).expand(*angles.shape[:-1], 3, 3)
    for index, axis in enumerate(order):
        result = result @ _about(axis, angles[..., index])
    return result


def to_euler(matrix: Tensor) -> Tensor:
    """Euler angles z, y, x with `matrix = Rz Ry Rx`, unwrapped along the first axis.

    Args:
        matrix: `[T, ..., 3, 3]` rotations.

    Returns:
        `[T, ..., 3]` radians; y lies in [-pi/2, pi/2], z and x go on without jumps of a full turn.

    Note:
        At y = +-pi/2 only z - x or z + x is determined; x is 0 there. The rotation is right everywhere.

    Example:
        >>> angles = torch.tensor([[0.3, -0.2, 0.1]])
        >>> torch.allclose(to_euler(from_euler(angles, order="ZYX")), angles)
        True
    """
    m = matrix
    level = (m[..., 0, 0] ** 2 + m[..., 1, 0] ** 2).sqrt()
    y = torch.atan2(-m[..., 2, 0], level)
    locked = level < 1e-6
    z = torch.where(locked, torch.atan2(-m[..., 0, 1], m[..., 1, 1]), torch.atan2(m[..., 1, 0], m[..., 0, 0]))
    x = torch.where(locked, torch.zeros_like(z), torch.atan2(m[..., 2, 1], m[..., 2, 2]))
    angles = torch.stack([z, y, x], -1)
    turns = (angles.diff(dim=0) / (2 * torch.pi)).round()
    angles[1:] -= 2 * torch.pi * turns.cumsum(0)
    return angles


def to_six(matrix: Tensor) -> Tensor:
    """The first two columns of rotation matrices: continuous, unlike angles and quaternions.

    Args:
        matrix: `[..., 3, 3]`.

    Returns:
        `[..., 6]`.

    Source:
        Zhou et al. 2019, "On the continuity of rotation representations in neural networks".

    Example:
        >>> to_six(torch.eye(3)).tolist()
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    return matrix[..., :2].transpose(-1, -2).flatten(-2)


def from_six(six: Tensor) -> Tensor:
    """Rotation matrices of the 6-D form, by Gram and Schmidt: any six numbers give a rotation.

    Args:
        six: `[..., 6]`.

    Returns:
        `[..., 3, 3]`.

    Example:
        >>> from_six(torch.tensor([2.0, 0, 0, 1, 1, 0])).equal(torch.eye(3))
        True
    """
    first, second = six[..., :3], six[..., 3:]
    first = torch.nn.functional.normalize(first, dim=-1, eps=1e-12)
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1, eps=1e-12)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def yaw(angle: Tensor) -> Tensor:
    """Rotations `[..., 3, 3]` about the vertical y axis by `angle [...]` radians; 0 faces +z.

    Args:
        angle: `[...]`.

    Returns:
        `[..., 3, 3]`.

    Example:
        >>> yaw(torch.zeros(())).equal(torch.eye(3))
        True
    """
    return _about("Y", angle)
