# SPDX-License-Identifier: Apache-2.0
"""PNGs that viewers of 360 degree pictures recognise: photo sphere metadata (GPano) in XMP."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from intarsia.media.image import write_png

__all__ = ["XMP_KEYWORD", "photo_sphere_xmp", "write_panorama"]

XMP_KEYWORD = "XML:com.adobe.xmp"


def photo_sphere_xmp(width: int, height: int, *, heading: float = 0.0) -> str:
    """Say in XMP that a picture of this size is a whole sphere, longitude by latitude.

    Args:
        width: pixels, twice the height.
        height: pixels.
        heading: compass direction of the middle of the picture, degrees from north.

    Returns:
        The packet, as it stands in a PNG's text chunk `XML:com.adobe.xmp` (or in a JPEG's APP1).

    Raises:
        ValueError: a size that is not 2 : 1, or a heading outside 0 to 360.

    Source:
        Google, "Photo Sphere XMP Metadata"; PNG specification (third edition), section 11.3.3.2.

    Example:
        >>> 'GPano:ProjectionType="equirectangular"' in photo_sphere_xmp(8, 4)
        True
    """
    if height < 1 or width != 2 * height:
        raise ValueError(
            f"photo_sphere_xmp: width must be twice the height, got {width} x {height}. "
            "A whole sphere has 360 by 180 degrees."
        )
    if not 0 <= heading <= 360:
        raise ValueError(f"photo_sphere_xmp: heading must be within 0 to 360, got {heading}. 0 is north.")
    facts = {
        "UsePanoramaViewer": "True",
        "ProjectionType": "equirectangular",
        "PoseHeadingDegrees": f"{heading:.1f}",
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": 0,
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": height,
    }
    lines = "\n".join(f'    GPano:{name}="{value}"' for name, value in facts.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about=""\n'
        '    xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"\n'
        f"{lines}/>\n"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    )


def write_panorama(
    picture: Tensor, path: str | os.PathLike[str], *, text: Mapping[str, str] | None = None
) -> None:
    """Write a whole sphere as a PNG that viewers of 360 degree pictures open as one.

    Args:
        picture: `[3, H, 2H]` or `[1, H, 2H]`, longitude by latitude; see `write_png`.
        path: the file, replaced if it exists; at no time does a partial one stand there.
        text: further text chunks.

    Raises:
        ValueError: a picture that is not twice as wide as high, or that `write_png` refuses.
        OSError: if the file cannot be written.

    Example:
        >>> import pathlib, tempfile, torch
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sphere.png"
        >>> write_panorama(torch.zeros(3, 2, 4), path)
    """
    packet = photo_sphere_xmp(picture.shape[-1], picture.shape[-2])
    write_png(picture, path, text={**(text or {}), XMP_KEYWORD: packet})
