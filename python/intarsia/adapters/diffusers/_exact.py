# SPDX-License-Identifier: Apache-2.0
"""A whole decode or encode, stripe by stripe: every map is held once, and the network sees a stripe of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.adapters.diffusers._exact_plan import Attend, Convolve, Residual, Step


class NotFiniteError(ArithmeticError):
    """A map holds NaN or infinity: after which step, and in which stripe first."""

    def __init__(self, step: str, stripe: int) -> None:
        super().__init__(step, stripe)
        self.step, self.stripe = step, stripe


@dataclass
class Map:
    """A feature map [C, H, W] in stripes of whole rows, top to bottom, where maps are stored.

    Attributes:
        stripes: [C, rows, W] each; None once nobody needs it any more.
        first: first row [C, 1, W] of each stripe, which outlives it.
        last: last row [C, 1, W] of each.
        sums: per stripe [2, C] float64, the sum and the sum of squares of each channel.
        count: elements of a channel.
    """

    stripes: list[Tensor | None] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    count: int = 0

    def take(self, i: int, keep: bool) -> Tensor:
        """Stripe i, which is forgotten unless it is to be kept."""
        stripe = self.stripes[i]
        assert stripe is not None
        if not keep:
            self.stripes[i] = None
        return stripe


@dataclass(frozen=True, eq=False)
class Engine:
    """Runs steps on one sample at a time.

    Attributes:
        device: where the network computes.
        dtype: what it computes in, and what maps are held in.
        store: where maps are held.
        wrap: per axis, whether the canvas is closed.
        area: latent elements of a stripe; its square bounds the scores of attention.
        check: whether to look for NaN and infinity.
        tick: called after every stripe of every step.
    """

    device: torch.device
    dtype: torch.dtype
    store: torch.device
    wrap: tuple[bool, bool]
    area: int
    check: bool
    tick: Callable[[], object]

    def run(self, steps: Sequence[Step], canvas: Tensor, rows: int, out: Tensor) -> None:
        """Send `canvas` [C, H, W] through all steps, in stripes of `rows` rows, into `out` [C', H', W'].

        Raises:
            NotFiniteError: a map holds NaN or infinity.
        """
        x = Map()
        for stripe in canvas.split(rows, dim=1):
            self._append(x, stripe, summed=False)
        for step in steps:
            if isinstance(step, Attend):
                x = self._attend(step, x)
            elif isinstance(step, Residual):
                x = self._residual(step, x)
            else:
                x = self._convolve(step, x)
        top = 0
        for i in range(len(x.stripes)):
            stripe = x.take(i, keep=False)
            out[:, top : top + stripe.shape[1]] = stripe
            top += stripe.shape[1]

    def _residual(self, step: Residual, x: Map) -> Map:
        beside = None if step.shortcut is None else Map()
        h = self._convolve(step.first, x, keep=beside is None, shortcut=step.shortcut, beside=beside)
        return self._convolve(step.second, h, plus=x if beside is None else beside, scale=step.scale)

    def _convolve(
        self,
        step: Convolve,
        x: Map,
        *,
        keep: bool = False,
        shortcut: Convolve | None = None,
        beside: Map | None = None,
        plus: Map | None = None,
        scale: float = 1.0,
    ) -> Map:
        """One pass over `x`; also `shortcut(x)` into `beside`, and `plus` added to the result."""
        norm = None if step.norm is None else self._affine(step.norm, x)
        y = Map()
        for i in range(len(x.stripes)):
            h, zeros = self._gather(step, x, i, keep, shortcut, beside)
            if norm is not None:
                h = norm(h)
            if step.act is not None:
                h = F.silu(h, inplace=True) if norm is not None and type(step.act) is nn.SiLU else step.act(h)
            # Beyond an open edge a convolution sees zeros, not what a norm or activation would make of them.
            sides = zeros[0] if zeros[0] == zeros[1] and not any(zeros[2:]) else 0
            if any(zeros) and not sides:
                h = F.pad(h, zeros)
            answer = F.conv2d(h, step.conv.weight, step.conv.bias, step.conv.stride, (0, sides))[0]
            del h
            if plus is not None:
                answer += plus.take(i, keep=False).to(self.device)
            if scale != 1.0:
                answer /= scale
            self._append(y, answer)
            del answer
            self.tick()
        self._look(step.name, y)
        return y

    def _gather(
        self, step: Convolve, x: Map, i: int, keep: bool, shortcut: Convolve | None, beside: Map | None
    ) -> tuple[Tensor, tuple[int, int, int, int]]:
        """What `step` reads for stripe i [1, C, r, W]; how many zeros lie left, right, above and below it."""
        above, below, left, right = step.pads
        stripe = x.take(i, keep).to(self.device, self.dtype)
        if beside is not None and shortcut is not None:
            aside = F.conv2d(stripe[None], shortcut.conv.weight, shortcut.conv.bias)[0]
            beside.stripes.append(self._put(aside))
            del aside
        halo = [self._neighbour(x, i - 1, x.last, above), self._neighbour(x, i + 1, x.first, below)]
        around = (left, right) if self.wrap[1] else (0, 0)
        top, bottom = (wanted if row is None else 0 for wanted, row in zip((above, below), halo, strict=True))
        zeros = (left - around[0], right - around[1], top, bottom)
        return _joined(stripe, halo, around, step.fine), zeros

    def _neighbour(self, x: Map, i: int, rows: list[Tensor], wanted: int) -> Tensor | None:
        """The row next to a stripe [C, 1, W], from stripe i; None beyond an open edge or if not wanted."""
        if not wanted or not (self.wrap[0] or 0 <= i < len(rows)):
            return None
        return rows[i % len(rows)].to(self.device, self.dtype)

    def _attend(self, step: Attend, x: Map) -> Map:
        norm, (channels, _, width) = self._affine(step.norm, x), x.first[0].shape
        heads, total = step.heads, x.count

        def tokens(i: int) -> tuple[Tensor, Tensor]:
            stripe = x.stripes[i]
            assert stripe is not None
            here = stripe.to(self.device)
            return here, norm(here[None])[0].flatten(1).T

        def split(layer: nn.Linear, h: Tensor) -> Tensor:
            return layer(h).unflatten(1, (heads, -1)).transpose(0, 1)[None]

        shapes = [(1, heads, total, layer.out_features // heads) for layer in (step.key, step.value)]
        keys, values = (torch.empty(shape, device=self.device, dtype=self.dtype) for shape in shapes)
        start = 0
        for i in range(len(x.stripes)):
            h = tokens(i)[1]
            span = slice(start, start + len(h))
            keys[:, :, span], values[:, :, span] = split(step.key, h), split(step.value, h)
            start += len(h)
            self.tick()
        some, y = max(1, self.area**2 // (total * heads)), Map()
        for i in range(len(x.stripes)):
            here, h = tokens(i)
            parts = []
            for part in h.split(some):
                answer = F.scaled_dot_product_attention(split(step.query, part), keys, values)
                parts.append(step.out(answer[0].transpose(0, 1).flatten(1)))
            answer = torch.cat(parts).T.reshape(channels, -1, width)
            x.stripes[i] = None
            if step.residual:
                answer = answer + here
            self._append(y, answer / step.scale if step.scale != 1.0 else answer.contiguous())
            self.tick()
        self._look(step.name, y)
        return y

    def _append(self, x: Map, stripe: Tensor, *, summed: bool = True) -> None:
        """Put the next stripe [C, r, W] of a map away, and remember its edges and sums."""
        if summed:
            wide = torch.float32 if stripe.device.type == "mps" else torch.float64
            flat = stripe.flatten(1)
            squares = torch.linalg.vector_norm(flat, dim=1, dtype=wide).square()
            x.sums.append(torch.stack([flat.sum(1, dtype=wide), squares]))
        x.first.append(self._put(stripe[:, :1].clone()))
        x.last.append(self._put(stripe[:, -1:].clone()))
        x.stripes.append(self._put(stripe))
        x.count += stripe.shape[1] * stripe.shape[2]

    def _put(self, x: Tensor) -> Tensor:
        """Put `x` away where maps are held."""
        return x.to(self.store)

    def _look(self, name: str, x: Map) -> None:
        if self.check:
            bad = ~torch.isfinite(torch.stack(x.sums)).flatten(1).all(1)
            if bool(bad.any()):
                raise NotFiniteError(name, int(bad.nonzero()[0]))

    def _affine(self, norm: nn.GroupNorm, x: Map) -> _Affine:
        return _Affine(norm, torch.stack(x.sums).cpu().double().sum(0), x.count, self.device, self.dtype)


class _Affine:
    """A GroupNorm whose statistics are known: one scale and one shift per channel."""

    def __init__(
        self, norm: nn.GroupNorm, sums: Tensor, count: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        groups = sums.unflatten(1, (norm.num_groups, -1)).sum(2) / (count * sums.shape[1] // norm.num_groups)
        mean, size = groups[0], sums.shape[1] // norm.num_groups
        variance = (groups[1] - mean.square()).clamp(min=0)
        high = torch.promote_types(dtype, torch.float32)
        self.mean, self.variance = (v.repeat_interleave(size).to(device, high) for v in (mean, variance))
        ones, zeros = (make(sums.shape[1], device=device, dtype=high) for make in (torch.ones, torch.zeros))
        self.weight = ones if norm.weight is None else norm.weight.to(device, high)
        self.bias = zeros if norm.bias is None else norm.bias.to(device, high)
        self.eps = norm.eps

    def __call__(self, h: Tensor) -> Tensor:
        """Normalise [1, C, r, W]; rounded once, to the dtype of `h`."""
        # With given statistics a batch norm is this very map: fused, and in float32 for half precision.
        return F.batch_norm(h, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)


def _joined(stripe: Tensor, halo: Sequence[Tensor | None], around: tuple[int, int], fine: int) -> Tensor:
    """A stripe [C, r, W] with a row above and below where there are any, and columns from the other end.

    `fine` is how often each element of the stripe stands in the result, per axis. Returns
    [1, C, above + fine*r + below, left + fine*W + right].
    """
    above, below = halo
    left, right = around
    if above is None and below is None and not left and not right and fine == 1:
        return stripe[None]
    channels, rows, width = stripe.shape
    top, bottom = above is not None, below is not None
    whole = stripe.new_empty(1, channels, top + fine * rows + bottom, left + fine * width + right)
    inner = whole[0, :, :, left : left + fine * width].unflatten(2, (width, fine))
    body = inner[:, top : top + fine * rows].unflatten(1, (rows, fine))
    body.copy_(stripe[:, :, None, :, None].expand_as(body))
    if above is not None:
        inner[:, :1] = above[..., None]
    if below is not None:
        inner[:, -1:] = below[..., None]
    if left:
        whole[..., :left] = whole[..., fine * width : fine * width + left]
    if right:
        whole[..., -right:] = whole[..., left : left + right]
    return whole
