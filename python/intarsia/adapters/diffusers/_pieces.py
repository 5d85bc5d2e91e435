# SPDX-License-Identifier: Apache-2.0
"""A network over overlapping pieces of a canvas: cut, call, look, merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from intarsia import ops
from intarsia.adapters.diffusers._call import Call
from intarsia.adapters.diffusers._nonfinite import Trap, warn
from intarsia.adapters.diffusers._resident import resident
from intarsia.layout import Layout, Window
from intarsia.layout._check import fail

Network = Callable[[Tensor], Tensor]


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


def in_pieces(call: Call, network: Network, canvas: Tensor) -> Tensor:
    """`network` over overlapping pieces of `canvas` [B, C, *S], and its answers merged.

    Args:
        call: what was asked for.
        network: crops [N, C, *s], where and as the VAE computes, to answers [N, C', *t].
        canvas: [B, C, *S], floating.

    Returns:
        [B, C', *T] on the call's store, float32 (float64 from a network in float64).

    Raises:
        NonFinitePieceError: a piece holds NaN or infinity, in float32 either.

    Note:
        One sample's answers are held at a time, in float32.
    """
    latent = cover(call.size, call.patches, call.overlaps, call.wrap)
    pixels = scaled(latent, call.unit)
    source, target = (latent, pixels) if call.name == "decode" else (pixels, latent)
    device, dtype, store = call.device, call.dtype, call.store

    def again(crops: Tensor) -> Tensor:
        with resident(call.name, call.vae, dtype=torch.float32):
            return network(crops.to(device, torch.float32))

    trap = Trap(call.name, pixels, dtype, again if call.upcasts else None, call.on_nonfinite != "ignore")
    with call.ready(len(canvas) * latent.num_regions) as tick:
        result = run(
            network,
            canvas,
            source=source,
            target=target,
            window=call.window,
            max_batch=call.max_batch,
            device=device,
            dtype=dtype,
            storage=store,
            trap=trap,
            tick=tick,
        )
    warn(call.name, trap.redone)
    return result


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
    """
    batch, pieces = canvas.shape[0], source.num_regions
    high = torch.promote_types(dtype, torch.float32)
    places = [(sample, piece) for sample in range(batch) for piece in range(pieces)]
    held = result = torch.empty(0)
    for start in range(0, len(places), max_batch):
        rows = places[start : start + max_batch]
        crops = _crop(canvas, source, rows)
        answer = trap(rows, crops, network(crops.to(device, dtype)))
        _check_answer(trap.name, answer, target)
        if not start:
            channels = answer.shape[1]
            held = torch.empty(1, pieces, channels, *target.patch, dtype=high, device=storage)
            result = torch.empty(batch, channels, *target.size, dtype=high, device=storage)
        for (sample, piece), one in zip(rows, answer, strict=True):
            held[0, piece] = one
            if piece == pieces - 1:
                _merge(held, target, window, result[sample : sample + 1])
            tick()
    return result


def _merge(held: Tensor, target: Layout, window: Window, out: Tensor) -> None:
    """Average one sample's pieces [1, R, C, *t] into `out` [1, C, *T]."""
    if held.shape[1] == 1 and target.patch == target.size:
        out.copy_(held[:, 0])
    else:
        target.merge(held, weight=window, out=out)


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
