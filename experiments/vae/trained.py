# SPDX-License-Identifier: Apache-2.0
"""What pieces cost a trained decoder: a small VAE learns a few photographs, then decodes one in every way.

Usage: python experiments/vae/trained.py --data PHOTOS [--steps 600]

PHOTOS holds JPEG files; the last in order of name is kept from training. Writes trained.json beside this
file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from intarsia import layout
from intarsia.adapters.diffusers.vae import decode, encode
from PIL import Image
from torch import Tensor

HERE = Path(__file__).parent


def photographs(folder: Path, height: int) -> list[Tensor]:
    """[3, height, W] each, -1 to 1, W cut to a multiple of 32."""
    pictures = []
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as file:
            small = file.convert("RGB").resize((round(height * file.width / file.height), height))
        pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 127.5 - 1
        pictures.append(pixels[..., : pixels.shape[2] // 32 * 32])
    return pictures


def trained(pictures: list[Tensor], steps: int) -> AutoencoderKL:
    """A VAE of three levels that has seen `steps` batches of eight 64 x 64 crops."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        latent_channels=4,
        force_upcast=False,
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        crops = []
        for _ in range(8):
            picture = pictures[int(torch.randint(len(pictures), ()))]
            top, left = (int(torch.randint(n - 63, ())) for n in picture.shape[1:])
            crops.append(picture[:, top : top + 64, left : left + 64])
        x = torch.stack(crops)
        posterior = vae.encode(x).latent_dist
        loss = (vae.decode(posterior.sample()).sample - x).square().mean() + 1e-5 * posterior.kl().mean() / 64
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return vae.eval().requires_grad_(False)


def main() -> None:
    """Train, decode the photograph that was kept back, and write what each way is off."""
    parser = argparse.ArgumentParser(description="What pieces cost a trained decoder.")
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pictures = photographs(arguments.data, 256)
    vae = trained(pictures[:-1], arguments.steps)
    image = pictures[-1][None]
    latents = encode(vae, image, exact=True)
    whole = vae.decode(latents).sample

    def error(other: Tensor) -> float:
        return float((other - whole).square().mean().sqrt() / whole.std())

    rows = {"reconstruction": error(image), "exact": error(decode(vae, latents, exact=True))}
    for name, window in (
        ("uniform", layout.uniform),
        ("triangle", layout.triangle),
        ("gaussian", layout.gaussian),
    ):
        for overlap in (4, 8):
            rows[f"{name}, overlap {overlap}"] = error(
                decode(vae, latents, patch=16, overlap=overlap, window=window)
            )
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = 16, 64
    rows["diffusers, overlap 4"] = error(vae.decode(latents).sample)
    for name, value in rows.items():
        print(f"{name}: {value:.3g}")
    found = {"steps": arguments.steps, "image": list(image.shape[2:]), "patch": 16, "error, rms": rows}
    (HERE / "trained.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
