# SPDX-License-Identifier: Apache-2.0
"""Pictures: PNG, JPEG, WebP and TIFF in; PNG with text out."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from intarsia.media.files import atomic_file

__all__ = [
    "MAX_PIXELS",
    "MediaError",
    "read_image",
    "read_image_size",
    "read_png_text",
    "to_float",
    "to_uint8",
    "write_png",
]

MAX_PIXELS = 2**28

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT = 2**20
_ORIENTATION = 0x0112


class MediaError(ValueError):
    """A file that is not the medium it should be, is damaged, or is larger than the caller allows."""


def _name(path: str | os.PathLike[str]) -> str:
    r"""`path` in quotes; bytes that are not UTF-8 are shown as `\xff`."""
    return repr(os.fsencode(path).decode("utf-8", "backslashreplace"))


def to_uint8(picture: Tensor) -> Tensor:
    """Round a picture in [-1, 1] to bytes; values outside are clipped.

    Args:
        picture: `[...]` floating, -1 black, 1 white.

    Returns:
        `[...]` uint8.

    Raises:
        ValueError: if an element is NaN or infinite.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist()
        [0, 128, 255, 255]
    """
    bad = picture.numel() - int(picture.isfinite().sum())
    if bad:
        raise ValueError(
            f"to_uint8: picture must be finite, got {bad} of {picture.numel()} elements that are not. "
            "The sampler has probably diverged: use more steps or less guidance."
        )
    return picture.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_float(picture: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes to [-1, 1], the inverse of `to_uint8`.

    Args:
        picture: `[...]` uint8.
        dtype: floating type of the result.

    Returns:
        `[...]` in `dtype`.

    Raises:
        ValueError: if `picture` is not uint8.

    Example:
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """
    if picture.dtype != torch.uint8:
        raise ValueError(f"to_float: picture must be uint8, got {picture.dtype}. Use to_uint8 the other way.")
    return picture.to(dtype).div(127.5).sub(1)


def _open(file: BinaryIO, path: str | os.PathLike[str], max_pixels: int) -> Any:
    """The Pillow image with its header read, its size allowed and no pixel decoded."""
    from PIL import Image

    Image.init()
    prefix = file.read(16)
    file.seek(0)
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or accept(prefix) is not True:
            continue
        try:
            # Not Image.open: its limit is a global of the process, which is not ours to lift or to obey.
            image = factory(file, os.fspath(path))
        except Exception as error:
            raise MediaError(
                f"read_image: path must hold a whole {name} picture, got {_name(path)} with a damaged header "
                f"({error}). Save the picture again."
            ) from error
        width, height = image.size
        if width * height > max_pixels:
            raise MediaError(
                f"read_image: path must hold at most {max_pixels} pixels, got {width} x {height} in "
                f"{_name(path)}. Pass a larger max_pixels if you trust the file."
            )
        return image
    raise MediaError(
        f"read_image: path must hold a PNG, JPEG, WebP or TIFF picture, got {_name(path)}. "
        "Convert the file, or check that it is complete."
    )


def _rgb(image: Any) -> Tensor:
    """`[3, H, W]` in [-1, 1] from a Pillow image of any mode."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        raw = bytearray(image.convert("I").tobytes())
        grey = torch.frombuffer(raw, dtype=torch.int32).reshape(1, image.height, image.width)
        return grey.expand(3, -1, -1).float().div(32767.5).sub(1).clamp_(-1, 1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    raw = bytearray(image.convert("RGB").tobytes())
    pixels = torch.frombuffer(raw, dtype=torch.uint8).reshape(image.height, image.width, 3)
    return to_float(pixels.permute(2, 0, 1).contiguous())


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture as the viewer shows it: upright, in RGB, transparency laid over white.

    The size in the header is checked before any pixel is decoded, against `max_pixels` alone: Pillow's global
    limit is neither used nor changed. Of an animation, the first frame is read.

    Args:
        path: a PNG, JPEG, WebP or TIFF file; 8 bits per channel, or 16 in grey.
        max_pixels: refuse a header that claims more; the default admits 16384 x 16384.

    Returns:
        `[3, H, W]` float32 in [-1, 1].

    Raises:
        MediaError: if the file is no such picture, is damaged, or is too large.
        OSError: if the file cannot be opened.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "grey.png"
        >>> write_png(torch.zeros(3, 2, 5), path)
        >>> read_image(path).shape
        torch.Size([3, 2, 5])
    """
    from PIL import ImageOps

    with open(path, "rb") as file:
        image = _open(file, path, max_pixels)
        try:
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
        except Exception as error:
            raise MediaError(
                f"read_image: path must hold a whole picture, got {_name(path)} with damaged data ({error}). "
                "Copy or download the file again."
            ) from error


def read_image_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read the size of a picture, upright, from its header; no pixel is decoded.

    Args:
        path: as for `read_image`.
        max_pixels: as for `read_image`.

    Returns:
        (width, height), as `read_image` would have them.

    Raises:
        MediaError: if the file is no such picture, has a damaged header, or is too large.
        OSError: if the file cannot be opened.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "grey.png"
        >>> write_png(torch.zeros(3, 2, 5), path)
        >>> read_image_size(path)
        (5, 2)
    """
    with open(path, "rb") as file:
        image = _open(file, path, max_pixels)
        width, height = image.size
        return (height, width) if _lies_on_its_side(image) else (width, height)


def _lies_on_its_side(image: Any) -> bool:
    """Whether the header's notes turn a picture by a quarter."""
    from PIL import Image

    # Not image.getexif: of a PNG that has none it decodes the whole picture in search of it.
    notes = Image.Exif()
    try:
        notes.load(image.info.get("exif", b""))
        return notes.get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:
        return False


def write_png(
    picture: Tensor, path: str | os.PathLike[str], *, text: Mapping[str, str] | None = None
) -> None:
    """Write a PNG; at no time does a partial file stand at `path`.

    Args:
        picture: `[3, H, W]` or `[1, H, W]`; floating in [-1, 1] (see `to_uint8`), or uint8.
        path: the file, replaced if it exists.
        text: text chunks, keyword (1 to 79 Latin characters) -> text; `read_png_text` reads them.

    Raises:
        ValueError: if the shape does not fit, the picture is empty, or an element is not finite.
        OSError: if the file cannot be written.

    Note:
        The same picture and text give the same bytes: no time is stored.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "out.png"
        >>> write_png(torch.zeros(3, 4, 4), path, text={"Software": "intarsia"})
        >>> read_png_text(path)
        {'Software': 'intarsia'}
    """
    from PIL import Image, PngImagePlugin

    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or picture.numel() == 0:
        raise ValueError(
            f"write_png: picture must be [3, H, W] or [1, H, W] and not empty, got {tuple(picture.shape)}. "
            "Write the pictures of a batch one by one."
        )
    pixels = picture if picture.dtype == torch.uint8 else to_uint8(picture)
    channels, height, width = pixels.shape
    raw = bytearray(pixels.numel())
    torch.frombuffer(raw, dtype=torch.uint8).reshape(height, width, channels).copy_(pixels.permute(1, 2, 0))
    info = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        info.add_itxt(keyword, value)
    with atomic_file(path) as file:
        image = Image.frombytes("RGB" if channels == 3 else "L", (width, height), bytes(raw))
        image.save(file, format="PNG", pnginfo=info, optimize=True)


def read_png_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the text chunks of a PNG without decoding the picture; compressed ones are skipped.

    Args:
        path: a PNG file.

    Returns:
        Keyword -> text.

    Raises:
        MediaError: if the file is no PNG, is cut off, or holds more than 1 MiB of text.
        OSError: if the file cannot be opened.

    Source:
        PNG specification (third edition), sections 5.3 and 11.3.3.
    """
    found: dict[str, str] = {}
    with open(path, "rb") as file:
        if file.read(8) != _SIGNATURE:
            raise MediaError(
                f"read_png_text: path must hold a PNG picture, got {_name(path)}. "
                "Other formats carry no settings."
            )
        total, end = 0, os.fstat(file.fileno()).st_size
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return found
            total += length if kind in (b"tEXt", b"iTXt") else 0
            if total > _MAX_TEXT or file.tell() + length > end:
                break
            if kind in (b"tEXt", b"iTXt"):
                _add_text(found, kind, file.read(length))
                file.seek(4, os.SEEK_CUR)
            else:
                file.seek(length + 4, os.SEEK_CUR)
    raise MediaError(
        f"read_png_text: path must hold a whole PNG with at most {_MAX_TEXT} bytes of text, got "
        f"{_name(path)}. Copy or download the file again."
    )


def _add_text(found: dict[str, str], kind: bytes, body: bytes) -> None:
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        found[keyword.decode("latin-1")] = rest.decode("latin-1")
    elif rest[:1] == b"\0":
        text = rest[2:].split(b"\0", 2)[-1]
        found[keyword.decode("latin-1")] = text.decode("utf-8", "replace")
