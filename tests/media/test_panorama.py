# SPDX-License-Identifier: Apache-2.0
from xml.etree import ElementTree

import pytest
import torch
from intarsia.media import photo_sphere_xmp, read_image, read_png_text, write_panorama
from intarsia.media.panorama import XMP_KEYWORD

Image = pytest.importorskip("PIL.Image")
GPANO = "{http://ns.google.com/photos/1.0/panorama/}"


def facts(packet):
    body = packet[packet.index("<x:xmpmeta") : packet.index("<?xpacket end")]
    (description,) = ElementTree.fromstring(body).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    return {name.removeprefix(GPANO): value for name, value in description.items() if name.startswith(GPANO)}


def test_a_sphere_is_read_back_as_one(tmp_path):
    picture = torch.linspace(-1, 1, 3 * 8 * 16).reshape(3, 8, 16)
    write_panorama(picture, tmp_path / "a.png", text={"Software": "intarsia"})
    text = read_png_text(tmp_path / "a.png")
    assert text["Software"] == "intarsia"
    found = facts(text[XMP_KEYWORD])
    assert found["ProjectionType"] == "equirectangular" and found["UsePanoramaViewer"] == "True"
    for name in ("FullPano", "CroppedAreaImage"):
        assert (found[f"{name}WidthPixels"], found[f"{name}HeightPixels"]) == ("16", "8")
    assert found["CroppedAreaLeftPixels"] == found["CroppedAreaTopPixels"] == "0"
    assert (read_image(tmp_path / "a.png") - picture).abs().max() < 1 / 127


def test_the_packet_stands_where_readers_look(tmp_path):
    """XMP must be an uncompressed international text chunk before the pixels, whole and in UTF-8."""
    write_panorama(torch.zeros(3, 4, 8), tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    at = raw.index(b"iTXt" + XMP_KEYWORD.encode() + b'\0\0\0\0\0<?xpacket begin="\xef\xbb\xbf"')
    assert at < raw.index(b"IDAT")
    with Image.open(tmp_path / "a.png") as image:
        assert facts(image.info[XMP_KEYWORD]) == facts(photo_sphere_xmp(8, 4))


def test_sizes_that_are_no_sphere(tmp_path):
    with pytest.raises(ValueError, match=r"photo_sphere_xmp: width must be twice the height, got 9 x 4"):
        write_panorama(torch.zeros(3, 4, 9), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"heading must be within 0 to 360, got nan"):
        photo_sphere_xmp(8, 4, heading=float("nan"))
    assert not (tmp_path / "a.png").exists()
