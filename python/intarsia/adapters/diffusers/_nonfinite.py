# SPDX-License-Identifier: Apache-2.0
"""Parts of a picture that are not finite: done again in float32, or refused by their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from intarsia.layout import Layout
from intarsia.types import NonFiniteError

Box = tuple[int, int, int, int]


class NonFinitePieceError(NonFiniteError):
    """A VAE returned NaN or infinity, or was given some. The attributes say where.

    Attributes:
        sample: index of the canvas in the batch.
        piece: index of the piece, rows first; of the stripe, from the top, with `exact=True`.
        box: (left, top, right, bottom) in pixels of the image; on a closed axis it may pass the edge.
    """

    def __init__(self, message: str, *, sample: int, piece: int, box: Box) -> None:
        """Keep the place beside the message."""
        super().__init__(message, step=-1)
        self.sample, self.piece, self.box = sample, piece, box


def refuse(
    name: str, place: str, *, sample: int, piece: int, box: Box, tried: torch.dtype, clean: bool
) -> NoReturn:
    """Raise NonFinitePieceError; `tried` is the widest dtype, `clean` whether the input was finite."""
    dtype = str(tried).removeprefix("torch.")
    made = f"from finite input, in {dtype}" if clean else "from input that already had some"
    remedy = "Look at the VAE's weights and the scale of its input."
    if not clean:
        remedy = "Look at what made the input."
    elif tried in (torch.float16, torch.bfloat16):
        remedy = "Let it be done again in float32: on_nonfinite='upcast'."
    message = f"{name}: vae must return finite values, got NaN or infinity in {place}, {made}. {remedy}"
    raise NonFinitePieceError(message, sample=sample, piece=piece, box=box)


def warn(name: str, redone: Sequence[str]) -> None:
    """Warn, once, of what had to be done again."""
    if redone:
        more = f" and {len(redone) - 1} more" if len(redone) > 1 else ""
        warnings.warn(
            f"{name}: {redone[0]}{more} came out with NaN or infinity and was done again in float32. "
            "A VAE that is made for half precision, or bfloat16, saves the second pass.",
            RuntimeWarning,
            stacklevel=4,
        )


@dataclass
class Trap:
    """Looks at pieces, and remembers those that it had done again.

    Attributes:
        name: the function that messages speak for.
        pixels: where the pieces lie on the image.
        dtype: what the network computes in.
        again: the network in float32; None where it runs in that already, or nobody asked for it.
        armed: whether to look at all.
    """

    name: str
    pixels: Layout
    dtype: torch.dtype
    again: Callable[[Tensor], Tensor] | None
    armed: bool
    redone: list[str] = field(default_factory=list)

    def __call__(self, rows: Sequence[tuple[int, int]], crops: Tensor, answer: Tensor) -> Tensor:
        """Make `answer` [N, C, *s] to `crops` [N, c, *s] finite; `rows` are their (sample, piece)."""
        if not self.armed:
            return answer
        bad = (~torch.isfinite(answer)).flatten(1).any(1).nonzero().flatten().tolist()
        if not bad:
            return answer
        answer = answer.to(torch.promote_types(answer.dtype, torch.float32), copy=True)
        for row in bad:
            sample, piece = rows[int(row)]
            clean = bool(torch.isfinite(crops[row]).all())
            redone = self.again(crops[row : row + 1]) if clean and self.again is not None else None
            place, box = self._place(sample, piece)
            if redone is None or not bool(torch.isfinite(redone).all()):
                tried = self.dtype if self.again is None else torch.float32
                refuse(self.name, place, sample=sample, piece=piece, box=box, tried=tried, clean=clean)
            answer[row] = redone[0].to(answer)
            self.redone.append(place)
        return answer

    def _place(self, sample: int, piece: int) -> tuple[str, Box]:
        top, left = self.pixels.offsets[piece].tolist()
        box = (left, top, left + self.pixels.patch[1], top + self.pixels.patch[0])
        return f"piece {piece} of {self.pixels.num_regions} (pixels {box}) of sample {sample}", box
