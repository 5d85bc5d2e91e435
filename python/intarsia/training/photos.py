# SPDX-License-Identifier: Apache-2.0
"""Random crops of a folder of photographs, each with its class and its place in the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["Crops", "PhotoFolder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def _read(path: Path) -> Image.Image:
    """A photograph as its camera was held; what is transparent becomes white."""
    try:
        with Image.open(path) as file:
            photo = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"PhotoFolder: folder must hold readable photographs, got {path} ({error}). Remove or replace it."
        ) from error
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")


@dataclass(frozen=True)
class Crops:
    """A batch of crops.

    Attributes:
        pixels: `[B, 3, h, w]` float32 in [-1, 1].
        style: `[B]` int64, 0 where the class was dropped.
        vertical: `[B, 2]` float32: centre and extent of the crop, relative to its picture's height.
    """

    pixels: Tensor
    style: Tensor
    vertical: Tensor


class PhotoFolder:
    """Photographs in one folder per style, cropped at random places and scales.

    A crop of `h x w` cells is cut from a virtual resize of its photograph to a random height between the
    smallest that holds the crop and `max_height` (log-uniform), stretched by up to `stretch` along the width,
    and mirrored with probability 1/2. Only the cropped box is resampled.

    Args:
        folder: `FOLDER/<style>/*.jpg|png|webp`; a file `weight.txt` in a style's folder holds its sampling
            weight (missing: 1).
        max_height: largest virtual picture height, in cells.
        stretch: natural logarithm of the largest horizontal stretch.
        drop: probability that a crop loses its class.

    Raises:
        ValueError: if no style folder with a photograph is found, or one cannot be read.
    """

    def __init__(
        self, folder: Path, *, max_height: int = 288, stretch: float = 0.3, drop: float = 0.1
    ) -> None:
        self.photos: dict[str, list[Image.Image]] = {}
        weights: list[float] = []
        for style in sorted(p for p in Path(folder).iterdir() if p.is_dir()):
            files = sorted(p for p in style.iterdir() if p.suffix.lower() in _SUFFIXES and p.name[0] != ".")
            if files:
                self.photos[style.name] = [_read(p) for p in files]
                note = style / "weight.txt"
                weights.append(float(note.read_text()) if note.exists() else 1.0)
        if not self.photos:
            raise ValueError(
                f"PhotoFolder: folder must hold one sub-folder of photographs per style, got {folder}. "
                f"Put files ending in {', '.join(_SUFFIXES)} into FOLDER/<style>/."
            )
        self.weights = np.asarray(weights) / sum(weights)
        self.max_height, self.stretch, self.drop = max_height, stretch, drop

    @property
    def styles(self) -> list[str]:
        """Style names in class order; class index = position + 1."""
        return list(self.photos)

    def crop(
        self, style: str, size: Sequence[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[float, float]]:
        """One crop: `[h, w, 3]` uint8 and (centre, extent) along the height."""
        photo = self.photos[style][rng.integers(len(self.photos[style]))]
        h, w = size
        stretch = math.exp(rng.uniform(-self.stretch, self.stretch))
        aspect = photo.width / photo.height * stretch
        low = max(h, w / aspect)
        # The logarithm's rounding must not make the picture smaller than the crop.
        height = max(low, math.exp(rng.uniform(math.log(low), math.log(max(low, self.max_height)))))
        top, left = rng.uniform(0, height - h), rng.uniform(0, max(height * aspect - w, 0.0))
        sy, sx = photo.height / height, photo.width / (height * aspect)
        box = (left * sx, top * sy, min((left + w) * sx, photo.width), min((top + h) * sy, photo.height))
        small = photo.resize((w, h), Image.Resampling.HAMMING, box=box, reducing_gap=2.0)
        pixels = np.asarray(small)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return pixels, ((top + h / 2) / height, h / height)

    def batch(self, count: int, size: Sequence[int], rng: np.random.Generator) -> Crops:
        """`count` crops of one `size` (h, w)."""
        names = self.styles
        chosen = rng.choice(len(names), size=count, p=self.weights)
        crops = [self.crop(names[index], size, rng) for index in chosen]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in crops])).permute(0, 3, 1, 2)
        keep = rng.random(count) >= self.drop
        return Crops(
            pixels.float() / 127.5 - 1,
            torch.from_numpy((chosen + 1) * keep),
            torch.tensor([place for _, place in crops], dtype=torch.float32),
        )
