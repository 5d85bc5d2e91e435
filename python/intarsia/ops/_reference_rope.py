# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rope(out: Sequence[Tensor], x: Sequence[Tensor], table: Tensor, interleaved: bool, inverse: bool) -> None:
    """(a, b) -> (a cos - b sin, b cos + a sin) for each pair of channels of each head and token.

    Args:
        out: tensors [B, H, T, D], written; each may be the tensor of its place in x.
        x: tensors [B, H, T, D].
        table: [T, 2, D/2] or [B, T, 2, D/2], cosines and sines in the dtype of the arithmetic.
        interleaved: whether pairs are neighbours; else they are half a row apart.
        inverse: whether to turn by the negative angles.
    """
    cosine, sine = (table if table.dim() == 3 else table[:, None]).unbind(-2)
    sine = -sine if inverse else sine
    still = sine == 0
    for to, given in zip(out, x, strict=True):
        values = given.to(table.dtype)
        a, b = (values[..., ::2], values[..., 1::2]) if interleaved else values.chunk(2, -1)
        # Where nothing turns nothing crosses over, not even a NaN or the sign of a zero.
        first = a * cosine - (b * sine).masked_fill(still, 0.0)
        second = b * cosine - (-(a * sine)).masked_fill(still, 0.0)
        turned = (
            torch.stack((first, second), -1).flatten(-2) if interleaved else torch.cat((first, second), -1)
        )
        to.copy_(turned)
