# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from intarsia.kinematics import from_euler, from_rotvec, from_six, to_euler, to_rotvec, to_six, yaw
from torch import Tensor


def random(count: int = 500, *, largest: float = math.pi) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1
    )
    return axis * torch.linspace(0, largest, count, dtype=torch.float64)[:, None]


def test_exponential_maps_are_the_matrix_exponential() -> None:
    rotvec = random(largest=7.0)
    x, y, z = rotvec.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    torch.testing.assert_close(from_rotvec(rotvec), torch.linalg.matrix_exp(cross), atol=1e-12, rtol=0)


def test_exponential_maps_come_back() -> None:
    rotvec = random(largest=math.pi - 1e-3)
    torch.testing.assert_close(to_rotvec(from_rotvec(rotvec)), rotvec, atol=1e-9, rtol=0)
    half_turns = random(largest=math.pi) / random().norm(dim=1, keepdim=True).clamp_min(1e-9) * math.pi
    matrices = from_rotvec(half_turns)
    torch.testing.assert_close(from_rotvec(to_rotvec(matrices)), matrices, atol=1e-7, rtol=0)


def test_euler_angles_come_back_and_do_not_jump() -> None:
    turning = torch.zeros(400, 3, dtype=torch.float64)
    turning[:, 0] = torch.linspace(0, 20, 400)
    turning[:, 1] = torch.linspace(-1.5, 1.5, 400)
    turning[:, 2] = torch.linspace(3, -9, 400)
    angles = to_euler(from_euler(turning, order="ZYX"))
    torch.testing.assert_close(angles, turning, atol=1e-9, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_euler_angles_at_the_pole_give_the_rotation(sign: int) -> None:
    angles = torch.tensor([[0.7, sign * math.pi / 2, 0.4]], dtype=torch.float64)
    matrix = from_euler(angles, order="ZYX")
    torch.testing.assert_close(from_euler(to_euler(matrix), order="ZYX"), matrix, atol=1e-7, rtol=0)


def test_the_first_letter_is_the_outermost_rotation() -> None:
    quarter = torch.tensor([math.pi / 2, math.pi / 2], dtype=torch.float64)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    # About x first: y goes to z; then about z, which keeps it.
    torch.testing.assert_close(from_euler(quarter, order="ZX") @ up, torch.tensor([0.0, 0, 1]).double())


def test_six_numbers_give_a_rotation_and_come_back() -> None:
    matrices = from_rotvec(random())
    torch.testing.assert_close(from_six(to_six(matrices)), matrices, atol=1e-12, rtol=0)
    any_six = from_six(torch.randn(100, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64).expand(100, 3, 3)
    torch.testing.assert_close(any_six @ any_six.transpose(1, 2), eye, atol=1e-12, rtol=0)
    assert (torch.linalg.det(any_six) > 0).all()


def test_a_quarter_turn_of_yaw_faces_x() -> None:
    forward = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    turned = yaw(torch.tensor(math.pi / 2, dtype=torch.float64)) @ forward
    torch.testing.assert_close(turned, torch.tensor([1.0, 0.0, 0.0]).double())
