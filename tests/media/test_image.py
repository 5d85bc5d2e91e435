# SPDX-License-Identifier: Apache-2.0
import os
import random
import resource
import struct
import time
import zlib

import pytest
import torch
from intarsia.media import (
    MediaError,
    read_image,
    read_image_size,
    read_png_text,
    to_float,
    to_uint8,
    write_png,
)

Image = pytest.importorskip("PIL.Image")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(path, side: int) -> None:
    """A PNG that claims side x side pixels in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(4096))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def picture(height: int = 6, width: int = 9) -> torch.Tensor:
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0))
    return pixels.to(torch.uint8)


def test_bytes_make_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert to_float(every).min() == -1 and to_float(every).max() == 1


def test_to_uint8_rounds_and_clips():
    assert to_uint8(torch.tensor([-9.0, -1.0, 1.0, 9.0, 2 / 255 * 100.4 - 1])).tolist() == [
        0,
        0,
        255,
        255,
        100,
    ]


def test_to_uint8_refuses_nan():
    with pytest.raises(ValueError, match=r"to_uint8: picture must be finite, got 2 of 3 elements"):
        to_uint8(torch.tensor([0.0, float("nan"), float("inf")]))


def test_to_float_refuses_floats():
    with pytest.raises(ValueError, match=r"to_float: picture must be uint8, got torch.float32"):
        to_float(torch.zeros(3))


def test_png_round_trip(tmp_path):
    path, text = tmp_path / "a.png", {"Software": "intarsia", "intarsia": '{"style": "Größe"}'}
    write_png(picture(), path, text=text)
    assert torch.equal(to_uint8(read_image(path)), picture())
    assert read_png_text(path) == text
    assert os.listdir(tmp_path) == ["a.png"]


def test_same_picture_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        write_png(picture(), tmp_path / name, text={"k": "v"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_strided_and_grey_pictures(tmp_path):
    write_png(picture().permute(0, 2, 1), tmp_path / "t.png")
    assert torch.equal(to_uint8(read_image(tmp_path / "t.png")), picture().permute(0, 2, 1))
    write_png(picture()[:1], tmp_path / "g.png")
    assert torch.equal(to_uint8(read_image(tmp_path / "g.png")), picture()[:1].expand(3, -1, -1))


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4), (1, 3, 4, 4), (3, 0, 4)])
def test_write_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match=r"write_png: picture must be \[3, H, W\]"):
        write_png(torch.zeros(shape), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    image = Image.frombytes("RGB", (9, 6), bytes(picture().permute(1, 2, 0).flatten().tolist()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    x = picture()
    upright = {
        1: x, 2: x.flip(2), 3: x.flip(1, 2), 4: x.flip(1), 5: x.transpose(1, 2),
        6: x.transpose(1, 2).flip(2), 7: x.transpose(1, 2).flip(1, 2), 8: x.transpose(1, 2).flip(1),
    }  # fmt: skip
    assert torch.equal(to_uint8(read_image(tmp_path / "a.png")), upright[orientation])


def test_transparency_lies_over_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 1).all()


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 32768, 65535)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == pytest.approx([-1, 1.5e-5, 1], abs=1e-6)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("black", "white")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (read_image(tmp_path / "a.webp") == -1).all()


@pytest.mark.parametrize("side", [2**14 + 1, 30_000, 2**31 - 1])
def test_bomb_is_refused_by_its_header(tmp_path, side):
    bomb(tmp_path / "a.png", side)
    read_png_text(tmp_path / "a.png")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(MediaError, match=rf"at most 268435456 pixels, got {side} x {side}"):
        read_image(tmp_path / "a.png")
    assert time.perf_counter() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_own_limit_leaves_the_global_one_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    write_png(picture(), tmp_path / "a.png")
    assert torch.equal(to_uint8(read_image(tmp_path / "a.png")), picture())
    with pytest.raises(MediaError, match="at most 53 pixels, got 9 x 6"):
        read_image(tmp_path / "a.png", max_pixels=53)
    assert Image.MAX_IMAGE_PIXELS == 4


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_damaged_files_raise_one_kind_of_error(tmp_path, suffix):
    whole, path, rng = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}", random.Random(0)
    Image.frombytes("RGB", (9, 6), bytes(picture().permute(1, 2, 0).flatten().tolist())).save(whole)
    data, refused = whole.read_bytes(), 0
    for _ in range(75):
        broken = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.5 else data)
        for _ in range(rng.randrange(1, 6)):
            if broken:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            assert read_image(path, max_pixels=10_000).shape[0] == 3
        except MediaError:
            refused += 1
    assert refused > 20


def test_other_files_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(MediaError, match="must hold a PNG, JPEG, WebP or TIFF picture, got '.*a.txt'"):
        read_image(tmp_path / "a.txt")
    with pytest.raises(MediaError, match="read_png_text: path must hold a PNG picture"):
        read_png_text(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "absent.png")


def test_cut_or_swollen_text_is_refused(tmp_path):
    write_png(picture(), tmp_path / "a.png", text={"k": "v" * 100})
    data = (tmp_path / "a.png").read_bytes()
    for cut in (12, 60, len(data) - 6):
        (tmp_path / "b.png").write_bytes(data[:cut])
        with pytest.raises(MediaError, match="must hold a whole PNG"):
            read_png_text(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes(data[:33] + chunk(b"tEXt", b"k\0" + bytes(2**20)) + data[33:])
    with pytest.raises(MediaError, match="at most 1048576 bytes of text"):
        read_png_text(tmp_path / "b.png")


def test_text_of_other_writers(tmp_path):
    body = [
        chunk(b"tEXt", b"Title\0caf\xe9"),
        chunk(b"iTXt", b"k\0\0\0de\0Wort\0gr\xc3\xbcn"),
        chunk(b"iTXt", b"z\0\1\0\0\0x"),
    ]
    write_png(picture(), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + b"".join(body) + data[33:])
    assert read_png_text(tmp_path / "a.png") == {"Title": "café", "k": "grün"}


def test_name_that_is_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    write_png(picture(), path)
    assert torch.equal(to_uint8(read_image(path)), picture())
    with open(path, "w") as file:
        file.write("no picture")
    with pytest.raises(MediaError, match=r"caf\\\\xe9"):
        read_image(path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_picture(tmp_path, form, orientation):
    notes = Image.Exif()
    notes[0x0112] = orientation
    Image.new("RGB", (20, 10)).save(tmp_path / "a", form, exif=notes)
    width, height = read_image_size(tmp_path / "a")
    assert read_image(tmp_path / "a").shape == (3, height, width)


def test_sizes_cost_no_pixels(tmp_path):
    for side in (12_000, 16_000, 30_000):
        bomb(tmp_path / "bomb.png", side)
        began = time.process_time()
        if side < 2**14:
            assert read_image_size(tmp_path / "bomb.png") == (side, side)
        else:
            with pytest.raises(MediaError, match=f"got {side} x {side}"):
                read_image_size(tmp_path / "bomb.png")
        assert time.process_time() - began < 0.05
    write_png(picture(), tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        try:
            assert read_image_size(tmp_path / "cut.png") == (9, 6)
        except MediaError:
            continue
