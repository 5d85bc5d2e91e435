# SPDX-License-Identifier: Apache-2.0
"""A network over overlapping pieces of a canvas: cut, call, look, merge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intarsia import ops
from intarsia.layout import Layout, Window
from intarsia.layout._check import fail
from intarsia.types import NonFiniteError

Network = Callable[[Tensor], Tensor]


class NonFinitePieceError(NonFiniteError):
    """A VAE returned NaN or infinity, or was given some. The attributes say where.

    Attributes:
        sample: index of the canvas in the batch.
        piece: index of the piece, rows first; of the stripe, from the top, with `exact=True`.
        box: (left, top, right, bottom) in pixels of the image; on a closed axis it may pass the edge.
    """

    def __init__(self, message: str, *, sample: int, piece: int, box: tuple[int, int, int, int]) -> None:
        """Keep the place beside the message."""
        super().__init__(message, step=-1)
        self.sample, self.piece, self.box = sample, piece, box


def _starts(length: int, patch: int, overlap: int, wrap: bool) -> list[int]:
    if wrap:
        count = -(-length // (patch - overlap))
        return [i * length // count for i in range(count)]
    count = -(-(length - patch) // (patch - overlap)) + 1
    return [i * (length - patch) // max(1, count - 1) for i in range(count)]


def cover(size: Sequence[int], patch: Sequence[int], overlap: Sequence[int], wrap: Sequence[bool]) -> Layout:
    """Pieces of `patch` on a canvas of `size`, evenly spread, each `overlap` or more over its neighbours.

    Returns:
        A layout, rows first. Where `patch - overlap` divides a closed axis, it is the stride there; a
        canvas shorter than the patch is one piece, or two if it is closed and `overlap` is above 0.

    Example:
        >>> cover((4, 12), (6, 6), (2, 2), (False, True)).offsets.tolist()
        [[0, 0], [0, 4], [0, 8]]
    """
    fits = [min(p, s) for p, s in zip(patch, size, strict=True)]
    overlaps = [min(o, p // 2) if p < q else o for o, p, q in zip(overlap, fits, patch, strict=True)]
    starts = [_starts(*axis) for axis in zip(size, fits, overlaps, wrap, strict=True)]
    places = [[y, x] for y in starts[0] for x in starts[1]]
    return Layout(tuple(size), tuple(fits), torch.tensor(places), tuple(wrap))


def scaled(layout: Layout, unit: int) -> Layout:
    """The same layout on a canvas whose elements are `unit` times as fine."""
    size, patch = (tuple(unit * n for n in axis) for axis in (layout.size, layout.patch))
    return Layout(size, patch, layout.offsets * unit, layout.wrap)


@dataclass
class Trap:
    """What happens to pieces that are not finite, and which have been met.

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
    again: Network | None
    armed: bool
    met: list[str] = field(default_factory=list)

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
            if redone is None or not bool(torch.isfinite(redone).all()):
                self._refuse(sample, piece, clean)
            else:
                answer[row] = redone[0].to(answer)
                self.met.append(self._place(sample, piece)[0])
        return answer

    def _place(self, sample: int, piece: int) -> tuple[str, tuple[int, int, int, int]]:
        top, left = self.pixels.offsets[piece].tolist()
        box = (left, top, left + self.pixels.patch[1], top + self.pixels.patch[0])
        return f"piece {piece} of {self.pixels.num_regions} (pixels {box}) of sample {sample}", box

    def _refuse(self, sample: int, piece: int, clean: bool) -> None:
        place, box = self._place(sample, piece)
        tried = "float32" if self.again is not None else str(self.dtype).removeprefix("torch.")
        made = f"from finite input, in {tried}" if clean else "from input that already had some"
        remedy = "Look at the VAE's weights and the scale of its input."
        if not clean:
            remedy = "Look at what made the input."
        elif tried in ("float16", "bfloat16"):
            remedy = "Let it be done again in float32: on_nonfinite='upcast'."
        raise NonFinitePieceError(
            f"{self.name}: vae must return finite values, got NaN or infinity in {place}, {made}. {remedy}",
            sample=sample,
            piece=piece,
            box=box,
        )

    def report(self) -> None:
        """Warn, once, of the pieces that had to be done again."""
        if self.met:
            more = f" and {len(self.met) - 1} more" if len(self.met) > 1 else ""
            warnings.warn(
                f"{self.name}: {self.met[0]}{more} came out with NaN or infinity and was done again in "
                "float32. A VAE that is made for half precision, or bfloat16, saves the second pass.",
                RuntimeWarning,
                stacklevel=4,
            )


def run(
    network: Network,
    canvas: Tensor,
    *,
    source: Layout,
    target: Layout,
    window: Window,
    max_batch: int,
    device: torch.device,
    dtype: torch.dtype,
    storage: torch.device,
    trap: Trap,
    tick: Callable[[], object],
) -> Tensor:
    """Call `network` on every piece of `canvas` [B, C, *S] and merge its answers.

    Args:
        network: crops [N, C, *s] on `device` in `dtype` to answers [N, C', *t].
        canvas: [B, C, *S], floating.
        source: where the pieces lie on the canvas.
        target: where their answers lie on the result.
        window: how much each element of an answer counts.
        max_batch: pieces per call.
        device: where the network computes.
        dtype: what it computes in.
        storage: where answers wait and are merged.
        trap: looks at every answer.
        tick: called after every piece.

    Returns:
        [B, C', *T] on `storage`, float32 (float64 from a network in float64).

    Note:
        One sample's answers are held at a time, in float32.
    """
    batch, pieces = canvas.shape[0], source.num_regions
    high = torch.promote_types(dtype, torch.float32)
    places = [(sample, piece) for sample in range(batch) for piece in range(pieces)]
    held = result = None
    for start in range(0, len(places), max_batch):
        rows = places[start : start + max_batch]
        crops = _crop(canvas, source, rows)
        answer = trap(rows, crops, network(crops.to(device, dtype)))
        _check_answer(trap.name, answer, target)
        if result is None or held is None:
            channels = answer.shape[1]
            held = torch.empty(1, pieces, channels, *target.patch, dtype=high, device=storage)
            result = torch.empty(batch, channels, *target.size, dtype=high, device=storage)
        for (sample, piece), one in zip(rows, answer, strict=True):
            held[0, piece] = one
            if piece == pieces - 1:
                out = result[sample : sample + 1]
                if pieces == 1 and target.patch == target.size:
                    out.copy_(held[:, 0])
                else:
                    target.merge(held, weight=window, out=out)
            tick()
    if result is None:
        raise AssertionError
    return result


def _crop(canvas: Tensor, source: Layout, rows: Sequence[tuple[int, int]]) -> Tensor:
    """The crops [N, C, *s] of (sample, piece) rows."""
    if source.num_regions == 1 and source.patch == source.size:
        first = rows[0][0]
        return canvas[first : first + len(rows)]
    parts = []
    for sample in sorted({sample for sample, _ in rows}):
        offsets = source.offsets[[piece for s, piece in rows if s == sample]]
        one = ops.extract_patches(
            canvas[sample : sample + 1], offsets=offsets, size=source.patch, wrap=source.wrap
        )
        parts.append(one[0])
    return torch.cat(parts)


def _check_answer(name: str, answer: Tensor, target: Layout) -> None:
    if tuple(answer.shape[2:]) != target.patch:
        remedy = "Its config.block_out_channels should have one entry per level."
        fail(name, "vae", f"turn a piece into {list(target.patch)} elements", list(answer.shape[2:]), remedy)
