# SPDX-License-Identifier: Apache-2.0
"""Every way we know to do the ops in torch, tuned; `ours.py` has our side.

A builder takes the problem and the buffer to write into (None: return fresh tensors), and returns the call to
time. What a careful user would keep between calls (indices, slices, windows, normalisers) the builder makes.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import suite

if TYPE_CHECKING:
    from benchmarks.families.regions.problem import Problem

__all__ = ["PEERS", "Call", "Peer", "candidates"]

Call = Callable[[], Tensor]
Builder = Callable[["Problem", Tensor | None], Call]
LARGE = 64 << 20


@dataclass(frozen=True)
class Peer(suite.Peer):
    """A formulation for regular grids alone, or up to a size in bytes, where it says so."""

    regular: bool = False
    largest: int | None = None


PEERS: dict[str, list[Peer]] = {}


def _peer(op: str, name: str, **traits: bool | int | None) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        PEERS.setdefault(op, []).append(Peer(name, build, **traits))  # type: ignore[arg-type]
        return build

    return register


def candidates(problem: Problem) -> list[Peer]:
    """Return the peers that apply to a problem."""
    regular, largest = problem.case.stride is not None, sum(problem.case.traffic("float32"))
    return [
        peer
        for peer in PEERS.get(problem.case.op, [])
        if (regular or not peer.regular) and largest <= (peer.largest or largest)
    ]


def _places(problem: Problem) -> list[tuple[slice | int, ...]]:
    patch = problem.case.patch
    return [
        (slice(None), slice(None), *(slice(o, o + s) for o, s in zip(start, patch, strict=True)))
        for start in problem.starts
    ]


def _windows(problem: Problem, canvas: Tensor) -> Tensor:
    """Return the strided picture of all regions [B, k.., C, *s], without a copy (regular grids)."""
    n, windows = len(problem.case.patch), canvas
    for axis, (s, t) in enumerate(zip(problem.case.patch, problem.case.stride or (), strict=True)):
        windows = windows.unfold(2 + axis, s, t)
    return windows.permute(0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))


def _copy(windows: Callable[[], Tensor], shape: tuple[int, ...], out: Tensor | None) -> Call:
    if out is None:
        return lambda: windows().clone(memory_format=torch.contiguous_format).view(shape)
    target = out.view(windows().shape)
    return lambda: target.copy_(windows()).view(shape)


@_peer("extract", "unfold copy", regular=True)
def _unfold_copy(problem: Problem, out: Tensor | None) -> Call:
    return _copy(lambda: _windows(problem, problem.canvas), problem.out_shape(), out)


@_peer("extract", "as_strided", regular=True)
def _as_strided(problem: Problem, out: Tensor | None) -> Call:
    canvas = problem.canvas
    like = _windows(problem, canvas)
    size, stride = like.size(), like.stride()
    return _copy(lambda: canvas.as_strided(size, stride), problem.out_shape(), out)


@_peer("extract", "slices + cat", idiom=True)
def _slices_cat(problem: Problem, out: Tensor | None) -> Call:
    canvas, places, shape = problem.canvas, _places(problem), problem.out_shape()
    if out is None:
        return lambda: torch.cat([canvas[place] for place in places]).view(shape)
    target = out.view(shape[1:])
    return lambda: torch.cat([canvas[place] for place in places], out=target).view(shape)


@_peer("extract", "slices + copy_", listed=False)
def _slices_copy(problem: Problem, out: Tensor | None) -> Call:
    canvas, places, shape = problem.canvas, _places(problem), problem.out_shape()

    def call() -> Tensor:
        target = canvas.new_empty(shape) if out is None else out
        for r, place in enumerate(places):
            target[:, r].copy_(canvas[place])
        return target

    return call


@_peer("extract", "F.unfold", regular=True, slow=True, largest=LARGE)
def _f_unfold(problem: Problem, out: Tensor | None) -> Call:
    canvas, shape, (patch, stride) = problem.canvas, problem.out_shape(), _as_2d(problem)
    flat = canvas if canvas.dim() == 4 else canvas.unsqueeze(2)

    def call() -> Tensor:
        rows = F.unfold(flat, patch, stride=stride).transpose(1, 2)
        return rows.contiguous().view(shape) if out is None else out.copy_(rows.reshape(shape))

    return call


@_peer("extract", "indexing", slow=True, largest=LARGE)
def _indexing(problem: Problem, out: Tensor | None) -> Call:
    canvas, n = problem.canvas, len(problem.case.patch)
    place = (slice(None), slice(None)) + tuple(
        (problem.offsets[:, i, None] + torch.arange(s))
        .reshape(-1, *(s if j == i else 1 for j in range(n)))
        .to(problem.device)
        for i, s in enumerate(problem.case.patch)
    )

    def call() -> Tensor:
        rows = canvas[place].transpose(1, 2)
        return rows.contiguous() if out is None else out.copy_(rows)

    return call


def _as_2d(problem: Problem) -> tuple[tuple[int, int], tuple[int, int]]:
    patch, stride = problem.case.patch, problem.case.stride or ()
    return (1, *patch)[-2:], (1, *stride)[-2:]  # type: ignore[return-value]


@_peer("extract_cfg", "eager chain", idiom=True)
def _cfg_chain(problem: Problem, out: Tensor | None) -> Call:
    canvas, shape = problem.canvas, problem.out_shape()

    def call() -> Tensor:
        rows = _windows(problem, canvas).reshape(1, *shape[1:])
        done = (torch.cat([rows, rows]) * problem.scale).to(problem.out_dtype)
        return done if out is None else out.copy_(done)

    return call


@_peer("extract_cfg", "torch.compile", slow=True, compiled=True)
def _cfg_compiled(problem: Problem, out: Tensor | None) -> Call:
    canvas, shape = problem.canvas, problem.out_shape()

    def chain(x: Tensor) -> Tensor:
        rows = _windows(problem, x).reshape(1, *shape[1:])
        return (torch.cat([rows, rows]) * problem.scale).to(problem.out_dtype)

    compiled = torch.compile(chain, dynamic=False)
    return lambda: compiled(canvas) if out is None else out.copy_(compiled(canvas))


@_peer("extract_cfg", "scale first, one copy", listed=False)
def _cfg_scale_first(problem: Problem, out: Tensor | None) -> Call:
    canvas = problem.canvas

    def windows() -> Tensor:
        small = (canvas * problem.scale).to(problem.out_dtype)
        return _windows(problem, small.expand(2, *small.shape[1:]))

    return _copy(windows, problem.out_shape(), out)


@_peer("average", "value/count loop", idiom=True)
def _value_count(problem: Problem, out: Tensor | None) -> Call:
    patches, places = problem.patches, _places(problem)
    weight = problem.weight.to(problem.dtype)
    count_buffer = None if out is None else torch.empty_like(out)

    def call() -> Tensor:
        value = patches.new_zeros(problem.out_shape()) if out is None else out.zero_()
        count = torch.zeros_like(value) if count_buffer is None else count_buffer.zero_()
        for r, place in enumerate(places):
            value[place] += patches[:, r] * weight
            count[place] += weight
        return torch.div(value, count) if out is None else value.div_(count)

    return call


@_peer("average", "addcmul loop")
def _addcmul(problem: Problem, out: Tensor | None) -> Call:
    return _addcmul_loop(problem, out, problem.dtype)


@_peer("average", "addcmul loop, fp32 sum")
def _addcmul_fp32(problem: Problem, out: Tensor | None) -> Call:
    return _addcmul_loop(problem, out, torch.float32)


def _addcmul_loop(problem: Problem, out: Tensor | None, kind: torch.dtype) -> Call:
    patches, places, shape = problem.patches, _places(problem), problem.out_shape()
    weight, inverse = problem.weight.to(kind), problem.inverse_total.to(kind)
    buffer = None if out is None else (out if kind == out.dtype else torch.empty_like(out, dtype=kind))

    def call() -> Tensor:
        value = torch.zeros(shape, dtype=kind, device=patches.device) if buffer is None else buffer.zero_()
        for r, place in enumerate(places):
            value[place].addcmul_(patches[:, r], weight)
        value.mul_(inverse)
        if out is None:
            return value.to(problem.dtype)
        return value if value is out else out.copy_(value)

    return call


@_peer("average", "addcmul, disjoint groups", regular=True, listed=False)
def _addcmul_groups(problem: Problem, out: Tensor | None) -> Call:
    """Regions that are a patch apart do not overlap: add them all with one strided addcmul_ per phase."""
    case, patches, shape = problem.case, problem.patches, problem.out_shape()
    weight, inverse = problem.weight.to(problem.dtype), problem.inverse_total.to(problem.dtype)
    n, counts, stride = len(case.patch), case.counts(), case.stride or ()
    steps = [-(-s // t) for s, t in zip(case.patch, stride, strict=True)]
    stacked = patches.view(1, *counts, *patches.shape[2:])

    def call() -> Tensor:
        value = patches.new_zeros(shape) if out is None else out.zero_()
        windows = _windows(problem, value)
        for phase in itertools.product(*(range(min(g, k)) for g, k in zip(steps, counts, strict=True))):
            part = (slice(None), *(slice(a, None, g) for a, g in zip(phase, steps, strict=True)))
            windows[part].addcmul_(stacked[part], weight)
        return value.mul_(inverse)

    assert n <= 2
    return call


@_peer("average", "F.fold pair", regular=True, slow=True, largest=LARGE)
def _fold(problem: Problem, out: Tensor | None) -> Call:
    patches, shape, (patch, stride) = problem.patches, problem.out_shape(), _as_2d(problem)
    weight, regions = problem.weight.to(problem.dtype), patches.shape[1]
    size, flat_weight = (1, *problem.case.size)[-2:], weight.reshape(1, -1, 1)

    def call() -> Tensor:
        rows = (patches * weight).flatten(2).transpose(1, 2)
        count = F.fold(flat_weight.expand(1, -1, regions), size, patch, stride=stride)
        done = (F.fold(rows, size, patch, stride=stride) / count).view(shape)
        return done if out is None else out.copy_(done)

    return call


def _flat_index(problem: Problem) -> Tensor:
    index = torch.zeros((), dtype=torch.int64)
    n = len(problem.case.patch)
    for i, (S, s) in enumerate(zip(problem.case.size, problem.case.patch, strict=True)):
        axis = problem.offsets[:, i, None] + torch.arange(s)
        index = index * S + axis.reshape(-1, *(s if j == i else 1 for j in range(n)))
    return index.reshape(-1).to(problem.device)


@_peer("average", "index_add_", slow=True, largest=LARGE)
def _index_add(problem: Problem, out: Tensor | None) -> Call:
    return _indexed(problem, out, lambda value, index, rows: value.index_add_(1, index, rows))


@_peer("average", "scatter_add_", slow=True, largest=LARGE)
def _scatter_add(problem: Problem, out: Tensor | None) -> Call:
    return _indexed(
        problem, out, lambda value, index, rows: value.scatter_add_(1, index.expand(len(value), -1), rows)
    )


def _indexed(problem: Problem, out: Tensor | None, add: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
    patches, channels, index = problem.patches, problem.case.channels, _flat_index(problem)
    weight, inverse = problem.weight.to(problem.dtype), problem.inverse_total.to(problem.dtype).view(-1)
    shape = problem.out_shape()

    def call() -> Tensor:
        value = (patches.new_zeros(shape) if out is None else out.zero_()).view(channels, -1)
        add(value, index, (patches[0] * weight).transpose(0, 1).reshape(channels, -1))
        return value.mul_(inverse).view(shape)

    return call


@_peer("sliding", "MONAI sliding_window_inference", idiom=True)
def _monai(problem: Problem, out: Tensor | None) -> Call:
    sliding_window_inference = importlib.import_module("monai.inferers").sliding_window_inference

    case, canvas = problem.case, problem.canvas
    overlap = [1 - t / s for t, s in zip(case.stride or (), case.patch, strict=True)]
    weight = problem.weight

    def call() -> Tensor:
        done: Tensor = sliding_window_inference(
            canvas, case.patch, 4, lambda x: x, overlap=overlap, mode="gaussian", roi_weight_map=weight
        )
        return done

    return call


@_peer("weights", "full map, Python lists (diffusers)", idiom=True)
def _weight_lists(problem: Problem, out: Tensor | None) -> Call:
    patch = problem.case.patch

    def call() -> Tensor:
        weight = torch.ones((), dtype=torch.float64)
        for n in patch:
            middle, var = (n - 1) / 2, 0.01
            axis = [
                math.exp(-(j - middle) * (j - middle) / (n * n) / (2 * var)) / math.sqrt(2 * math.pi * var)
                for j in range(n)
            ]
            weight = weight.unsqueeze(-1) * torch.tensor(axis, dtype=torch.float64)
        return weight.expand(1, 4, *weight.shape).contiguous()

    return call


@_peer("weights", "full map, torch")
def _weight_torch(problem: Problem, out: Tensor | None) -> Call:
    patch = problem.case.patch

    def call() -> Tensor:
        weight = torch.ones(())
        for n in patch:
            u = (torch.arange(n) - (n - 1) / 2) / n
            weight = weight.unsqueeze(-1) * torch.exp(u.square_().mul_(-50))
        return weight

    return call
