# SPDX-License-Identifier: Apache-2.0
"""Gather the training photographs of the bundled `landscapes` model into one folder per style.

Usage: python experiments/landscapes/prepare.py PHOTOS OUTPUT

PHOTOS holds JDW_0302..0304.jpg and JDW_9518..9520.jpg; the others come inside the scikit-image wheel.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

# style -> (sampling weight, file names, tint or None). A tint is the colour that mid-grey becomes, in [0, 1].
Tint = tuple[float, float, float]
STYLES: dict[str, tuple[float, tuple[str, ...], Tint | None]] = {
    "redrock": (6.0, ("JDW_0302.jpg", "JDW_0303.jpg", "JDW_0304.jpg"), None),
    "badlands": (6.0, ("JDW_9518.jpg", "JDW_9519.jpg", "JDW_9520.jpg"), None),
    "galaxies": (2.0, ("hubble_deep_field.jpg",), None),
    "dusk": (1.5, ("rocket.jpg",), None),
    "coffee": (1.0, ("coffee.png",), None),
    "astronaut": (1.0, ("astronaut.png",), None),
    "cat": (1.0, ("chelsea.png",), None),
    "retina": (1.0, ("retina.jpg",), None),
    "grass": (1.5, ("grass.png",), (0.36, 0.52, 0.20)),
    "gravel": (1.5, ("gravel.png",), (0.56, 0.51, 0.46)),
    "brick": (1.5, ("brick.png",), (0.72, 0.40, 0.30)),
}


def tinted(path: Path, tint: Tint) -> Image.Image:
    """Colour a grey picture: black stays black, mid-grey becomes `tint`, white stays white."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64)[..., None] / 255
    exponent = np.log(np.asarray(tint)) / np.log(0.5)
    return Image.fromarray(np.round(255 * grey**exponent).astype(np.uint8))


def main(photos: Path, output: Path) -> None:
    """Write `output/<style>/`."""
    import skimage

    bundled = Path(skimage.__file__).parent / "data"
    for style, (weight, names, tint) in STYLES.items():
        folder = output / style
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.txt").write_text(f"{weight}\n")
        for name in names:
            source = photos / name if (photos / name).exists() else bundled / name
            if tint is None:
                shutil.copyfile(source, folder / name)
            else:
                tinted(source, tint).save(folder / name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
