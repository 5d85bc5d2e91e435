# SPDX-License-Identifier: Apache-2.0
"""Sliced Wasserstein distance between the random patches of two sets of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["random_patches", "sliced_wasserstein"]


def random_patches(
    pictures: Tensor | Sequence[Tensor],
    *,
    size: Sequence[int],
    count: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cut patches at places drawn uniformly from all places of all pictures, with replacement.

    Args:
        pictures: `[B, C, *S]`, or a sequence of `[C, *S_i]` of any sizes.
        size: `(s_1..s_n)` of the patches.
        count: how many.
        generator: CPU generator of the places; None takes the global one.

    Returns:
        `[count, C, *s]` in the pictures' dtype.

    Raises:
        ValueError: if there is no picture, a picture is smaller than the patch, or `count` is not positive.

    Example:
        >>> random_patches(torch.zeros(2, 3, 8, 9), size=(4, 4), count=5).shape
        torch.Size([5, 3, 4, 4])
    """
    size = tuple(size)
    pictures = list(pictures)
    if count < 1:
        raise ValueError(
            f"random_patches: count must be positive, got {count}. A few thousand give a stable result."
        )
    if not pictures:
        raise ValueError(
            "random_patches: pictures must hold at least one picture, got none. Check the folder."
        )
    for picture in pictures:
        shape = tuple(picture.shape[1:])
        if len(shape) != len(size) or any(s < 1 or s > S for s, S in zip(size, shape, strict=True)):
            raise ValueError(
                "random_patches: size must have one positive extent per picture axis that fits into "
                f"{shape}, got {size}. Use smaller patches or larger pictures."
            )
    places = [math.prod(S - s + 1 for S, s in zip(p.shape[1:], size, strict=True)) for p in pictures]
    chosen = torch.multinomial(
        torch.tensor(places, dtype=torch.float64), count, replacement=True, generator=generator
    )
    drawn = torch.rand(count, len(size), dtype=torch.float64, generator=generator)
    out = pictures[0].new_empty((count, pictures[0].shape[0], *size))
    for index, picture in enumerate(pictures):
        rows = (chosen == index).nonzero().flatten()
        cells: list[slice | Tensor] = [slice(None)]
        for axis, (S, s) in enumerate(zip(picture.shape[1:], size, strict=True)):
            first = (drawn[rows, axis] * (S - s + 1)).long()
            along = first[:, None] + torch.arange(s)
            shape = (len(rows), *(s if a == axis else 1 for a in range(len(size))))
            cells.append(along.reshape(shape).to(picture.device))
        out[rows.to(out.device)] = picture[tuple(cells)].transpose(0, 1)
    return out


def sliced_wasserstein(
    pictures: Tensor | Sequence[Tensor],
    reference: Tensor | Sequence[Tensor],
    *,
    patch: Sequence[int] = (8, 8),
    patches: int = 8192,
    projections: int = 256,
    power: int = 2,
    generator: torch.Generator | None = None,
) -> float:
    """Distance between two sets of pictures, seen through random patches along random directions.

    `patches` random patches of each set are flattened to points of `R^d` and projected on `projections`
    directions `u` drawn uniformly from the unit sphere. Along one direction the Wasserstein distance of two
    equally large sets is a sort: `W_p^p = mean_k |a_(k) - b_(k)|^p`. The result is `(mean_u W_p^p)^(1/p)`.

    Reading it: a brightness shift by c gives c for p = 2. Two draws from one set give the noise floor,
    not 0; call the function with `reference` on both sides to learn it.

    Args:
        pictures: `[B, C, *S]`, or a sequence of `[C, *S_i]`.
        reference: likewise, with the same channels.
        patch: `(s_1..s_n)` of the patches; small ones see texture and edges, large ones composition.
        patches: how many are drawn from each set.
        projections: how many directions.
        power: p, 1 or 2.
        generator: CPU generator of places and directions; None takes the global one.

    Returns:
        The distance, in units of the pictures' values.

    Raises:
        ValueError: if the channels differ, `power` is not 1 or 2, a count is not positive or a patch does
            not fit.

    Note:
        Deterministic for a given generator state. Memory: `8 * patches * (d + projections)` bytes per set.

    Source:
        Rabin, Peyre, Delon and Bernot 2011; Bonneel, Rabin, Peyre and Pfister 2015.

    Example:
        >>> noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> g = torch.Generator().manual_seed(1)
        >>> round(sliced_wasserstein(noise + 1, noise, generator=g), 1)
        1.0
    """
    if power not in (1, 2):
        raise ValueError(
            f"sliced_wasserstein: power must be 1 or 2, got {power}. Take 2 unless outliers matter."
        )
    if projections < 1:
        raise ValueError(f"sliced_wasserstein: projections must be positive, got {projections}. Use 256.")
    ours = random_patches(pictures, size=patch, count=patches, generator=generator).flatten(1).float()
    theirs = random_patches(reference, size=patch, count=patches, generator=generator).flatten(1).float()
    if ours.shape != theirs.shape:
        raise ValueError(
            "sliced_wasserstein: reference must have as many channels as pictures, got patches of "
            f"{theirs.shape[1]} and {ours.shape[1]} elements. Convert both to RGB."
        )
    directions = torch.randn(ours.shape[1], projections, generator=generator)
    directions = (directions / directions.norm(dim=0)).to(ours.device)
    a = (ours @ directions).sort(dim=0).values
    b = (theirs.to(ours.device) @ directions).sort(dim=0).values
    return float((a - b).double().abs().pow(power).mean() ** (1 / power))
