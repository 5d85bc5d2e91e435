# SPDX-License-Identifier: Apache-2.0
"""Media: pictures in and out, pictures on the sphere, and files that are either whole or absent."""

from intarsia.media.enlarging import enlarge
from intarsia.media.files import atomic_file, check_writable
from intarsia.media.image import (
    MediaError,
    read_image,
    read_image_size,
    read_png_text,
    to_float,
    to_uint8,
    write_png,
)
from intarsia.media.panorama import photo_sphere_xmp, write_panorama
from intarsia.media.sphere import cubemap_to_equirect, equirect_to_cubemap, perspective

__all__ = [
    "MediaError",
    "atomic_file",
    "check_writable",
    "cubemap_to_equirect",
    "enlarge",
    "equirect_to_cubemap",
    "perspective",
    "photo_sphere_xmp",
    "read_image",
    "read_image_size",
    "read_png_text",
    "to_float",
    "to_uint8",
    "write_panorama",
    "write_png",
]
