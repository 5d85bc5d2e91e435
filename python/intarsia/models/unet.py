# SPDX-License-Identifier: Apache-2.0
"""A compact U-Net for 1-D, 2-D and 3-D patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UNet"]


def _conv(ndim: int, c_in: int, c_out: int, kernel: int = 3) -> nn.Module:
    conv: type[nn.Module] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    return conv(c_in, c_out, kernel, padding=kernel // 2)


def _zero(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _waves(value: Tensor, count: int, lowest: float, highest: float) -> Tensor:
    """Sines and cosines of `value [...]` at `count` log-spaced frequencies: `[..., 2 * count]`."""
    steps = torch.linspace(0, 1, count, device=value.device, dtype=torch.float32)
    angle = value.float()[..., None] * (lowest * (highest / lowest) ** steps)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class _ResBlock(nn.Module):
    """Two convolutions; the embedding scales and shifts the second normalisation."""

    def __init__(self, ndim: int, c_in: int, c_out: int, emb: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(c_in // 16, c_in)
        self.conv1 = _conv(ndim, c_in, c_out)
        self.affine = nn.Linear(emb, 2 * c_out)
        self.norm2 = nn.GroupNorm(c_out // 16, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero(_conv(ndim, c_out, c_out))
        self.skip = _conv(ndim, c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.affine(emb).reshape(emb.shape[0], -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), scale + 1)
        return (self.skip(x) + self.conv2(self.dropout(F.silu(h)))) * math.sqrt(0.5)


class _Attention(nn.Module):
    """Self-attention over all cells of the patch."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(channels // 16, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        _zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        b, c, *size = x.shape
        tokens = self.norm(x).reshape(b, c, -1).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, c)
        return (x + self.out(mixed).transpose(1, 2).reshape(b, c, *size)) * math.sqrt(0.5)


class UNet(nn.Module):
    """Residual U-Net with attention at the coarse levels.

    Every level but the first halves each axis once, so each axis of a patch must be a multiple of
    `2 ** (len(channels) - 1)`; within that rule one network takes patches of any size.

    Args:
        ndim: number of patch axes, 1 to 3.
        in_channels: channels of input and output.
        channels: width of each level, finest first; multiples of 16.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: levels that get self-attention, counted from the finest, 0.
        num_classes: classes of the condition; class 0 is the null condition.
        num_positions: scalars in [0, 1] that tell the network where its patch lies.
        dropout: drop probability inside the residual blocks.

    Raises:
        ValueError: if `ndim` is not 1, 2 or 3 or a width is no multiple of 16.

    Source:
        Ronneberger et al. 2015 (U-Net); Dhariwal and Nichol 2021 (scale-shift normalisation, attention).

    Example:
        >>> net = UNet(2, in_channels=3, channels=(16, 32), attention=(1,), num_classes=4, num_positions=2)
        >>> x, zeros = torch.zeros(5, 3, 32, 64), torch.zeros(5)
        >>> net(x, zeros, torch.zeros(5, dtype=torch.long), torch.zeros(5, 2)).shape
        torch.Size([5, 3, 32, 64])
    """

    def __init__(
        self,
        ndim: int,
        *,
        in_channels: int,
        channels: Sequence[int],
        blocks: int = 2,
        attention: Sequence[int] = (),
        num_classes: int = 1,
        num_positions: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if ndim not in (1, 2, 3):
            raise ValueError(
                f"UNet: ndim must be 1, 2 or 3, got {ndim}. Fold further axes into the channels."
            )
        if not channels or any(c <= 0 or c % 16 for c in channels):
            raise ValueError(
                f"UNet: channels must be positive multiples of 16, got {tuple(channels)}. "
                "Round each width to the nearest multiple of 16."
            )
        self.channels = in_channels
        self.ndim, self.factor = ndim, 2 ** (len(channels) - 1)
        emb = 4 * channels[0]
        self.noise = nn.Sequential(nn.Linear(64, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label = nn.Embedding(num_classes, emb)
        self.position = nn.Linear(16 * num_positions, emb) if num_positions else None
        self.stem = _conv(ndim, in_channels, channels[0])

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.levels, self.blocks = len(channels), blocks
        width, skips = channels[0], []
        for level, c in enumerate(channels):
            skips.append(width)
            for _ in range(blocks):
                self.down.append(self._stage(ndim, width, c, emb, dropout, level in attention))
                width = c
                skips.append(width)
        self.middle = self._stage(ndim, width, width, emb, dropout, True)
        for level, c in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.up.append(self._stage(ndim, width + skips.pop(), c, emb, dropout, level in attention))
                width = c
        self.head = nn.Sequential(nn.GroupNorm(width // 16, width), nn.SiLU())
        self.out = _zero(_conv(ndim, width, in_channels))

    @staticmethod
    def _stage(ndim: int, c_in: int, c_out: int, emb: int, dropout: float, attend: bool) -> nn.ModuleList:
        stage = nn.ModuleList([_ResBlock(ndim, c_in, c_out, emb, dropout)])
        if attend:
            stage.append(_Attention(c_out, heads=c_out // (16 if c_out % 32 else 32)))
        return stage

    @staticmethod
    def _run(stage: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
        block, *rest = stage.children()
        x = block(x, emb)
        for attention in rest:
            x = attention(x)
        return x

    def forward(self, x: Tensor, noise: Tensor, label: Tensor, position: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: `[B, C, *s]` floating; each axis a multiple of `factor`.
            noise: `[B]` noise level as the preconditioning states it, e.g. `ln(sigma) / 4`.
            label: `[B]` int64 class, 0 = null.
            position: `[B, num_positions]` in [0, 1]; needed if the network has positions.

        Returns:
            `[B, C, *s]`, the raw output.

        Raises:
            ValueError: if the rank or an axis of `x` does not fit.
        """
        size = tuple(x.shape[2:])
        if len(size) != self.ndim or any(s % self.factor or s == 0 for s in size):
            raise ValueError(
                f"UNet: x must have {self.ndim} axes after [B, C], each a multiple of {self.factor}, "
                f"got {size}. Pad the patch or choose another patch size."
            )
        emb = self.noise(_waves(noise, 32, 1.0, 1000.0)) + self.label(label)
        if self.position is not None:
            if position is None:
                raise ValueError(
                    "UNet: position must be given for this network, got None. Pass [B, num_positions]."
                )
            emb = emb + self.position(_waves(position, 8, math.pi / 2, 8 * math.pi).flatten(1))
        emb = F.silu(emb)

        x = self.stem(x)
        skips, stages = [], iter(self.down)
        for level in range(self.levels):
            if level:
                x = F.avg_pool2d(x, 2) if self.ndim == 2 else F.interpolate(x, scale_factor=0.5, mode="area")
            skips.append(x)
            for _ in range(self.blocks):
                x = self._run(next(stages), x, emb)
                skips.append(x)
        x, stages = self._run(self.middle, x, emb), iter(self.up)
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                x = self._run(next(stages), torch.cat([x, skips.pop()], dim=1), emb)
            if level:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.out(self.head(x))
