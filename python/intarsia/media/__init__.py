# SPDX-License-Identifier: Apache-2.0
"""Reading and writing media: pictures, and files that are either whole or absent."""

from intarsia.media.files import atomic_file, check_writable
from intarsia.media.image import MediaError, read_image, read_png_text, to_float, to_uint8, write_png

__all__ = [
    "MediaError",
    "atomic_file",
    "check_writable",
    "read_image",
    "read_png_text",
    "to_float",
    "to_uint8",
    "write_png",
]
