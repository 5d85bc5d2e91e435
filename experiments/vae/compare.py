# SPDX-License-Identifier: Apache-2.0
"""Ways to decode latents that are larger than a VAE's own size: error, time and memory.

Usage: python experiments/vae/compare.py [--size 32 48 --patch 16]

A VAE of Stable Diffusion's size with random weights (time and memory do not depend on them) decodes latents
of large and small structures on one thread, each way in a process of its own. Writes results.json and
results.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from intarsia.adapters.diffusers.vae import decode
from torch import Tensor
from torch.nn import functional as F

WAYS = {
    "whole": "whole, `vae.decode`",
    "exact": "`decode(exact=True)`",
    "pieces": "`decode`, pieces, overlap 1/4",
    "wide": "`decode`, pieces, overlap 1/2",
    "theirs": "`vae.enable_tiling()`, overlap 1/4",
}
HERE = Path(__file__).parent


def build() -> AutoencoderKL:
    """Stable Diffusion's VAE, its weights drawn from a seed."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        force_upcast=False,
    ).eval()


def latents(height: int, width: int) -> Tensor:
    """[1, 4, height, width]: smooth shapes four elements and more across, and a third as much noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, 4, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return smooth + torch.randn(smooth.shape, generator=generator) / 3


def run(way: str, size: tuple[int, int], patch: int, out: Path) -> dict[str, float]:
    """Decode in one way; CPU seconds, and how far the process grew, in MB."""
    vae, z = build(), latents(*size)
    if way == "theirs":
        vae.enable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = patch, 8 * patch
    with torch.no_grad():
        decode(vae, z[..., :4, :4])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        if way in ("whole", "theirs"):
            image = vae.decode(z).sample
        else:
            overlap = {"exact": 0, "pieces": patch // 4, "wide": patch // 2}[way]
            image = decode(vae, z, exact=way == "exact", patch=patch, overlap=overlap)
        seconds = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    torch.save(image, out)
    return {"seconds": round(seconds, 1), "megabytes": round(grown / 1024)}


def main() -> None:
    """Run every way in its own process, compare, and write the table."""
    parser = argparse.ArgumentParser(description="Ways to decode latents, measured.")
    parser.add_argument("--size", type=int, nargs=2, default=(32, 48), help="latents, height and width")
    parser.add_argument("--patch", type=int, default=16, help="latents of a piece")
    parser.add_argument("--way", choices=WAYS, help="one way alone, in this process")
    parser.add_argument("--out", type=Path, help="where that way's image goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(arguments.size)
    if arguments.way:
        print(json.dumps(run(arguments.way, size, arguments.patch, arguments.out)))
        return
    rows, images = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            out = Path(folder) / f"{way}.pt"
            same = [
                "--size",
                *map(str, size),
                "--patch",
                str(arguments.patch),
                "--way",
                way,
                "--out",
                str(out),
            ]
            told = subprocess.run(
                [sys.executable, __file__, *same], capture_output=True, text=True, check=True
            )
            rows[way] = json.loads(told.stdout.splitlines()[-1])
            images[way] = torch.load(out)
            error = images[way] - images["whole"]
            rows[way]["rms"] = float(error.square().mean().sqrt() / images["whole"].std())
            rows[way]["largest"] = float(error.abs().max() / images["whole"].abs().max())
    settings = {"latents": size, "patch": arguments.patch, "torch": torch.__version__}
    (HERE / "results.json").write_text(json.dumps({"settings": settings, "ways": rows}, indent=2) + "\n")
    lines = ["| way | error, rms | error, largest | CPU time, s | memory, MB |", "|---|---|---|---|---|"]
    for way, row in rows.items():
        errors = f"{row['rms']:.2g} | {row['largest']:.2g}"
        lines.append(f"| {WAYS[way]} | {errors} | {row['seconds']} | {row['megabytes']} |")
    (HERE / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
