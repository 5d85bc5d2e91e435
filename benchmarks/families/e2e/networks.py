# SPDX-License-Identifier: Apache-2.0
"""The networks of the end-to-end rows: none at all, and small ones with random weights."""

from __future__ import annotations

import importlib
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Clocked", "NullNetwork", "make"]

TEXT = 32


class NullNetwork:
    """Returns the same ready patch for every row: what is left of a step is composition."""

    def __init__(self, patch: tuple[int, ...], rows: int, device: torch.device) -> None:
        one = torch.randn(patch, generator=torch.Generator().manual_seed(3)).to(device)
        self.ready = one.expand(rows, *patch).contiguous()

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.ready[: x.shape[0]]


class Clocked:
    """Adds up the seconds spent inside a network."""

    def __init__(self, net: Any) -> None:
        self.net, self.seconds = net, 0.0

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        began = time.perf_counter()
        result: Tensor = self.net(x, t, cond)
        self.seconds += time.perf_counter() - began
        return result


def _waves(t: Tensor, count: int) -> Tensor:
    rates = torch.exp(-torch.arange(count, device=t.device) * (9.2 / count))
    angle = t.float().reshape(-1, 1) * rates
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, told: int) -> None:
        super().__init__()
        self.norm, self.conv1 = nn.GroupNorm(4, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.told, self.conv2 = nn.Linear(told, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm(x))) + self.told(told)[:, :, None, None]
        skipped: Tensor = self.skip(x)
        return skipped + self.conv2(F.silu(hidden))


class TinyUNet(nn.Module):
    """Two levels, text and time added to every block: about 67 thousand parameters."""

    def __init__(self, channels: int = 4, width: int = 16, told: int = 64) -> None:
        super().__init__()
        self.begin, self.tell = nn.Conv2d(channels, width, 3, padding=1), nn.Linear(32 + TEXT, told)
        self.outer = nn.ModuleList(_Block(width, width, told) for _ in range(4))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.inner, self.last = _Block(2 * width, 2 * width, told), _Block(3 * width, width, told)
        self.end = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        text = cond["text"].mean(1)
        told = F.silu(self.tell(torch.cat([_waves(t, 16).expand(len(text), -1), text], dim=-1)))
        high = self.begin(x)
        for block in self.outer:
            high = block(high, told)
        low = F.interpolate(self.inner(self.down(high), told), scale_factor=2.0)
        result: Tensor = self.end(self.last(torch.cat([high, low], dim=1), told))
        return result


class TinyTransformer(nn.Module):
    """Tokens of `token` steps along a line, layers of attention over all of them."""

    def __init__(self, channels: int, token: int, width: int, depth: int) -> None:
        super().__init__()
        self.token, self.begin = token, nn.Linear(channels * token, width)
        layers = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True) for _ in range(depth)
        ]
        self.layers = nn.ModuleList(layers)
        self.tell, self.end = nn.Linear(32, width), nn.Linear(width, channels * token)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        channels = x.shape[1]
        cut = x.unflatten(-1, (-1, self.token)).transpose(1, 2).flatten(2)
        tokens = self.begin(cut) + self.tell(_waves(t, 16))[:, None]
        for layer in self.layers:
            tokens = layer(tokens)
        return self.end(tokens).unflatten(-1, (channels, self.token)).transpose(1, 2).flatten(2)


def make(name: str, channels: int, patch: tuple[int, ...], rows: int, device: torch.device) -> Any:
    """Return a network by name; a UNet on a GPU is that of Stable Diffusion 1.5, by diffusers."""
    if name == "null":
        return NullNetwork((channels, *patch), rows, device)
    torch.manual_seed(0)
    if name == "unet" and device.type == "cuda":
        return _stable_diffusion(device)
    found: nn.Module
    if name == "unet":
        found = TinyUNet(channels)
    else:
        found = TinyTransformer(channels, *((1, 256, 4) if name == "motion" else (256, 128, 2)))
    return found.to(device).eval().requires_grad_(False)


def _stable_diffusion(device: torch.device) -> Any:
    kind = importlib.import_module("diffusers").UNet2DConditionModel
    with device:
        unet = kind(cross_attention_dim=768).to(torch.bfloat16).eval().requires_grad_(False)
    widen = torch.randn(TEXT, 768, device=device, dtype=torch.bfloat16)

    def net(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        text = cond["text"].to(torch.bfloat16) @ widen
        result: Tensor = unet(x.to(torch.bfloat16), t, encoder_hidden_states=text).sample
        return result.to(x.dtype)

    return net
