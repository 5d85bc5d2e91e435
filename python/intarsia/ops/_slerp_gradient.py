# SPDX-License-Identifier: Apache-2.0
"""The derivative of slerp, in PyTorch's own operators.

With n_i = |x_i|, u_i = x_i / n_i, c = u0.u1 and out = n (A(c) u0 + B(c) u1), n = n0^(1-w) n1^w, and the
products s_i = grad.x_i per sample: grad x0 = a grad + L u0 / n0 + C (u1 - c u0) / n0 with a = n A / n0,
b = n B / n1, L = (1-w) b s1 - w a s0, C = n (s0 A'(c) / n0 + s1 B'(c) / n1); grad x1 the same with the ends
exchanged and L negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-4


def slerp_gradients(grad: Tensor, x0: Tensor, x1: Tensor, share: float | Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [B, ...] of slerp for x0 and x1, in their dtype."""
    g, v0, v1 = (x.reshape(len(x), x[:1].numel()).double() for x in (grad, x0, x1))
    w = torch.as_tensor(share, dtype=torch.float64, device=x0.device).expand(len(x0))[:, None]
    at0, at1 = w == 0, w == 1
    n0, n1 = (_sum(v * v).sqrt() for v in (v0, v1))
    dead = (n0 == 0) | (n1 == 0)
    n0, n1 = torch.where(n0 == 0, 1.0, n0), torch.where(n1 == 0, 1.0, n1)
    u0, u1 = v0 / n0, v1 / n1
    c = _sum(u0 * u1).clamp(-1, 1)
    sine = ((1 - c) * (1 + c)).sqrt()
    flat = sine < FLAT
    first, slope0 = _share(1 - w, c, sine, flat, w <= 0.5)
    second, slope1 = _share(w, c, sine, flat, w > 0.5)
    size = torch.where(dead, 0.0, n0 ** (1 - w) * n1**w)
    a, b = (
        torch.where(at0, 1.0, torch.where(at1, 0.0, size * first / n0)),
        torch.where(at1, 1.0, torch.where(at0, 0.0, size * second / n1)),
    )
    s0, s1 = _sum(g * v0), _sum(g * v1)
    along = torch.where(at0 | at1, 0.0, (1 - w) * b * s1 - w * a * s0)
    turn = torch.where(at0 | at1, 0.0, size * (s0 * slope0 / n0 + s1 * slope1 / n1))
    to_x0 = a * g + (along * u0 + turn * (u1 - c * u0)) / n0
    to_x1 = b * g + (turn * (u0 - c * u1) - along * u1) / n1
    return to_x0.view(x0.shape).to(x0.dtype), to_x1.view(x1.shape).to(x1.dtype)


def _sum(products: Tensor) -> Tensor:
    return products.sum(1, keepdim=True)


def _share(p: Tensor, c: Tensor, sine: Tensor, flat: Tensor, nearer: Tensor) -> tuple[Tensor, Tensor]:
    """sin(p t) / sin t and its derivative by c = cos t, or what stands for them where sin t is small."""
    safe, angle = torch.where(flat, 1.0, sine), torch.atan2(sine, c)
    curved = torch.sin(p * angle) / safe
    slope = (curved * c - p * torch.cos(p * angle)) / safe**2
    q = 1 - p
    length = torch.where(c > 0, p**2 + q**2 + 2 * p * q * c, 1.0).sqrt()
    straight = torch.where(c > 0, p / length, nearer.double())
    bend = torch.where(c > 0, -(p**2) * q / length**3, 0.0)
    return torch.where(flat, straight, curved), torch.where(flat, bend, slope)
