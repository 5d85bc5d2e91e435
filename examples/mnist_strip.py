# SPDX-License-Identifier: Apache-2.0
"""A strip of handwriting, 28 x 140, from two networks that other people trained on single digits of 28 x 28.

    python examples/mnist_strip.py DATA strip.png

DATA holds `pulfer_ddpm_mnist.pt` (network A, from BrianPulfer/PapersReimplementations, MIT) and
`yichizz_ddpm_mnist_starter.pth` (network B, from Yichizz/hot_vs_cold_diffusion, MIT). Both predict the noise
of one linear schedule, but differ in the scale of their data and in how they count steps; `from_eps` takes
care of both, and nothing after it can tell them apart.

What to expect: uniform weights average strokes of neighbouring regions away, Gaussian weights join them to
one long hand. Network A cannot see the mean of an image, so its strips drift: its estimate has to be
clipped to the range of the data, and even then some backgrounds stay grey.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from intarsia import compose, denoisers, layout, samplers, schedules
from intarsia.media import write_png
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NetworkA", "NetworkB", "load_a", "load_b", "main", "sheet", "strip"]

FILE_A, FILE_B = "pulfer_ddpm_mnist.pt", "yichizz_ddpm_mnist_starter.pth"
SIZE, PATCH = (28, 140), (28, 28)


class _Block(nn.Module):
    def __init__(self, extent: int, inner: int, outer: int, *, normalise: bool = True) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((inner, extent, extent))
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln(x) if self.normalise else x
        return F.silu(self.conv2(F.silu(self.conv1(x))))


def _stage(extent: int, *channels: int, last: bool = False) -> nn.Sequential:
    pairs = list(zip(channels[:-1], channels[1:], strict=True))
    return nn.Sequential(
        *(_Block(extent, *pair, normalise=not (last and k == 2)) for k, pair in enumerate(pairs))
    )


def _told(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(100, channels), nn.SiLU(), nn.Linear(channels, channels))


class NetworkA(nn.Module):
    """A U-Net over 28, 14, 7 and 3 pixels; the step t = 0..999 reaches every stage as a bias per channel.

    Its first operation is a LayerNorm of the whole image, so it cannot see the image's mean and scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Embedding(1000, 100)
        self.te1, self.b1 = _told(1), _stage(28, 1, 10, 10, 10)
        self.down1 = nn.Conv2d(10, 10, 4, 2, 1)
        self.te2, self.b2 = _told(10), _stage(14, 10, 20, 20, 20)
        self.down2 = nn.Conv2d(20, 20, 4, 2, 1)
        self.te3, self.b3 = _told(20), _stage(7, 20, 40, 40, 40)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2, 1), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))
        self.te_mid, self.b_mid = _told(40), _stage(3, 40, 20, 20, 40)
        up = nn.ConvTranspose2d
        self.up1 = nn.Sequential(up(40, 40, 4, 2, 1), nn.SiLU(), up(40, 40, 2, 1))
        self.te4, self.b4 = _told(80), _stage(7, 80, 40, 20, 20)
        self.up2 = up(20, 20, 4, 2, 1)
        self.te5, self.b5 = _told(40), _stage(14, 40, 20, 10, 10)
        self.up3 = up(10, 10, 4, 2, 1)
        self.te_out, self.b_out = _told(20), _stage(28, 20, 10, 10, 10, last=True)
        self.conv_out = nn.Conv2d(10, 1, 3, 1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise [B, 1, 28, 28] of `x` [B, 1, 28, 28] at the steps `t` [B], int64."""
        row = self.time_embed(t)

        def stage(blocks: nn.Module, told: nn.Module, x: Tensor) -> Tensor:
            out: Tensor = blocks(x + told(row)[:, :, None, None])
            return out

        high = stage(self.b1, self.te1, x)
        middle = stage(self.b2, self.te2, self.down1(high))
        low = stage(self.b3, self.te3, self.down2(middle))
        deep = stage(self.b_mid, self.te_mid, self.down3(low))
        low = stage(self.b4, self.te4, torch.cat([low, self.up1(deep)], 1))
        middle = stage(self.b5, self.te5, torch.cat([middle, self.up2(low)], 1))
        high = stage(self.b_out, self.te_out, torch.cat([high, self.up3(middle)], 1))
        out: Tensor = self.conv_out(high)
        return out


class _Conv(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(inner, outer, 7, padding=3), nn.LayerNorm((outer, 28, 28)), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class NetworkB(nn.Module):
    """Five convolutions at full resolution; the time tau = i/1000 is added per channel after the first."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(16))
        widths = (1, 16, 32, 32, 16)
        convs = [_Conv(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.blocks = nn.ModuleList([*convs, nn.Conv2d(16, 1, 3, padding=1)])
        layers: list[nn.Module] = []
        for inner, outer in ((32, 128), (128, 128), (128, 128), (128, 16)):
            layers += [nn.Linear(inner, outer), nn.GELU()]
        self.time_embed = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """Predict the noise [B, 1, 28, 28] of `x` [B, 1, 28, 28] at the times `tau` [B] within 0 to 1."""
        phase = tau[:, None] * self.frequencies
        told = self.time_embed(torch.cat([phase.sin(), phase.cos() - 1], 1))
        x = self.blocks[0](x) + told[:, :, None, None]
        for block in self.blocks[1:]:
            x = block(x)
        return x


def _state(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's own weights, and what else the file holds."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return own, {key: value for key, value in state.items() if not key.startswith(prefix)}


def load_a(folder: Path) -> tuple[denoisers.Preconditioned, Tensor]:
    """Network A as a denoiser of images within -1 to 1, and its `alphas_cumprod` [1000]."""
    net = NetworkA().eval().requires_grad_(False)
    net.load_state_dict(_state(folder / FILE_A, "network.")[0])
    abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    return denoisers.from_eps(net, alphas_cumprod=abar, quantize=True, sizes=(PATCH,)), abar


def load_b(folder: Path) -> tuple[denoisers.Preconditioned, Tensor]:
    """Network B as a denoiser of images within -0.5 to 0.5, and its `alphas_cumprod` [1001]."""
    net = NetworkB().eval().requires_grad_(False)
    own, tables = _state(folder / FILE_B, "gt.")
    net.load_state_dict(own)
    abar = tables["alpha_t"].double()
    return denoisers.from_eps(net, alphas_cumprod=abar, time=lambda i: i / 1000, sizes=(PATCH,)), abar


def strip(
    denoiser: denoisers.Preconditioned,
    abar: Tensor,
    region: layout.Layout,
    window: layout.Window,
    *,
    limit: float,
    clip: bool,
    seeds: Sequence[int],
    steps: int = 100,
) -> Tensor:
    """Sample one strip per seed, [B, 1, 28, 140] scaled to -1..1; `limit` is the data's largest value."""
    wide = compose.average(compose.Factor(denoiser, region, window, max_batch=32))
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    sigmas = schedules.from_alphas_cumprod(abar, steps)
    start = torch.stack([torch.randn(1, *SIZE, generator=g) for g in noise]) * float(sigmas[0])
    # Clipping is not linear: it belongs around the composed estimate, never inside a region.
    whole = denoisers.Clip(wide, -limit, limit) if clip else wide
    ancestral = samplers.EulerAncestral()
    return samplers.sample(whole, start, sigmas, ancestral, generator=noise, progress=False) / limit


def sheet(folder: Path, *, seeds: Sequence[int] = (0, 1), steps: int = 100) -> list[tuple[str, Tensor]]:
    """Name and strips [B, 1, 28, 140] of every network, layout and window the picture shows."""
    apart = layout.grid(SIZE, PATCH, (28, 28))
    chain = layout.grid(SIZE, PATCH, (28, 14))
    ring = layout.grid(SIZE, PATCH, (28, 14), wrap=(False, True))
    rows = []
    for name, load, limit, clip in (("B", load_b, 0.5, False), ("A", load_a, 1.0, True)):
        denoiser, abar = load(folder)
        for method, region, window in (
            ("side by side", apart, layout.uniform),
            ("chain, uniform", chain, layout.uniform),
            ("chain, gaussian", chain, layout.gaussian),
            ("loop, gaussian", ring, layout.gaussian),
        ):
            out = strip(denoiser, abar, region, window, limit=limit, clip=clip, seeds=seeds, steps=steps)
            # A loop is shown cut open at its middle: the seam of the canvas lies in the centre here.
            rows.append((f"{name}: {method}", out.roll(70, -1) if region is ring else out))
    return rows


def picture(rows: Sequence[tuple[str, Tensor]], *, scale: int = 4) -> Tensor:
    """The strips with their names beside them, [3, H, W] within -1 to 1, every pixel made a square."""
    import numpy
    from PIL import Image, ImageDraw

    gap, margin = 6, 120
    height, width = SIZE[0] * scale, SIZE[1] * scale
    columns = rows[0][1].shape[0]
    page = Image.new("L", (margin + columns * (width + gap), len(rows) * (height + gap)), 255)
    draw = ImageDraw.Draw(page)
    for k, (name, strips) in enumerate(rows):
        top = k * (height + gap)
        draw.text((6, top + height // 2 - 6), name, fill=0)
        for column, one in enumerate(strips):
            bytes_ = ((one[0].clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
            big = Image.fromarray(bytes_).resize((width, height), Image.Resampling.NEAREST)
            page.paste(big, (margin + column * (width + gap), top))
    grey = torch.from_numpy(numpy.array(page))
    return (grey.float() / 127.5 - 1).expand(3, -1, -1)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="folder with the two networks")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args(argv)
    write_png(picture(sheet(options.data, seeds=options.seeds, steps=options.steps)), options.out)


if __name__ == "__main__":
    main()
