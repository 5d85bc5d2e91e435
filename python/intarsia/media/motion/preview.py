# SPDX-License-Identifier: Apache-2.0
"""A stick figure on a floor, as an animated GIF or, where ffmpeg is installed, an mp4."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from intarsia.kinematics.skeleton import Motion
from intarsia.media.files import atomic_file
from intarsia.media.image import MediaError

__all__ = ["check_preview", "draw_frames", "write_preview"]

_PAPER, _LINE, _SHADE, _INK = (250, 248, 243), (205, 198, 183), (221, 215, 204), (52, 49, 46)
_LEFT, _RIGHT, _MIDDLE = (201, 84, 56), (38, 110, 140), (70, 66, 62)
_PATH = (176, 150, 112)
_SCALE, _FOCUS = 2, 2.0


@dataclass(frozen=True)
class _Camera:
    """A camera that looks down on `target [3]` from `distance` metres."""

    target: Tensor
    size: tuple[int, int]
    azimuth: float = 0.6
    elevation: float = 0.22
    distance: float = 4.6

    def project(self, points: Tensor) -> Tensor:
        """`[..., 3]` metres to `[..., 3]`: x and y in pixels, and the depth in metres."""
        ca, sa = math.cos(self.azimuth), math.sin(self.azimuth)
        ce, se = math.cos(self.elevation), math.sin(self.elevation)
        p = points - self.target
        across = ca * p[..., 0] - sa * p[..., 2]
        away = -(sa * p[..., 0] + ca * p[..., 2])
        depth = self.distance + ce * away - se * p[..., 1]
        up = ce * p[..., 1] + se * away
        focus = _FOCUS * self.size[1] / depth.clamp_min(0.3)
        return torch.stack([self.size[0] / 2 + focus * across, self.size[1] / 2 - focus * up, depth], -1)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _side(name: str) -> tuple[int, int, int]:
    if name.startswith(("Left", "LHip", "LThumb")):
        return _LEFT
    return _RIGHT if name.startswith(("Right", "RHip", "RThumb")) else _MIDDLE


def _width(name: str) -> float:
    thick = ("Hip", "LowerBack", "Spine", "UpLeg")
    if any(word in name for word in ("Finger", "Hand", "Thumb", "Toe")):
        return 0.032
    return 0.075 if any(word in name for word in thick) else 0.055


def _smooth(track: Tensor, radius: int) -> Tensor:
    """A slow camera: `[T, 3]` averaged over about `2 * radius` frames."""
    kernel = torch.hann_window(2 * radius + 3, periodic=False, dtype=track.dtype)[1:-1]
    padded = torch.nn.functional.pad(track.T[None], (radius, radius), mode="replicate")
    return torch.nn.functional.conv1d(padded.transpose(0, 1), (kernel / kernel.sum())[None, None])[:, 0].T


def _floor(pen: ImageDraw.ImageDraw, camera: _Camera) -> None:
    """A grid of metres that fades into the paper."""
    near, far, count = 2.0, 9.0, 19
    centre = camera.target[[0, 2]].round()
    along = torch.linspace(-far, far, count, dtype=torch.float64)
    lines = torch.zeros(2, int(2 * far) + 1, count, 3, dtype=torch.float64)
    for axis, other in ((0, 2), (2, 0)):
        lines[axis // 2, ..., axis] = centre[axis // 2] + torch.arange(-far, far + 1)[:, None]
        lines[axis // 2, ..., other] = centre[other // 2] + along
    away = (lines - camera.target)[..., [0, 2]].norm(dim=-1)
    fade = ((far - away) / (far - near)).clamp(0, 1).flatten(0, 1).tolist()
    shades = [_between(_PAPER, _LINE, step / 16) for step in range(17)]
    for row, shares in zip(camera.project(lines).flatten(0, 1).tolist(), fade, strict=True):
        for (x0, y0, z0), (x1, y1, z1), share in zip(row[:-1], row[1:], shares[:-1], strict=True):
            if share > 0.03 and min(z0, z1) > 0.5:
                pen.line([x0, y0, x1, y1], fill=shades[round(share * 16)], width=_SCALE)


def _between(one: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, int, int]:
    a, b, c = (round(p + (q - p) * share) for p, q in zip(one, other, strict=True))
    return a, b, c


def _limb(pen: ImageDraw.ImageDraw, a: list[float], b: list[float], thick: float, colour: Any) -> None:
    """A line with round ends."""
    pen.line([*a[:2], *b[:2]], fill=colour, width=max(1, round(thick)))
    for x, y, _ in (a, b):
        pen.ellipse([x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2], fill=colour)


def _figure(pen: ImageDraw.ImageDraw, camera: _Camera, joints: Tensor, motion: Motion) -> None:
    skeleton = motion.skeleton
    # The light stands high at the left of the camera.
    ground = joints + joints[:, 1:2] * torch.tensor([0.25, -1.0, -0.1], dtype=joints.dtype)
    shadow, seen = camera.project(ground).tolist(), camera.project(joints).tolist()
    focus = _FOCUS * camera.size[1]
    bones = [(j, skeleton.parents[j]) for j in range(1, len(skeleton.names)) if skeleton.lengths[j] > 0]
    for j, parent in bones:
        _limb(pen, shadow[parent], shadow[j], 0.07 * focus / shadow[j][2], _SHADE)
    for j, parent in sorted(bones, key=lambda bone: -seen[bone[0]][2] - seen[bone[1]][2]):
        name, scale = skeleton.names[j], focus / seen[j][2]
        _limb(pen, seen[parent], seen[j], max(2.0, _width(name) * scale), _side(name))
        if name == "HeadEnd" or (name == "Head" and "HeadEnd" not in skeleton.names):
            x, y, radius = seen[j][0], seen[j][1], 0.085 * scale
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=_MIDDLE)


def draw_frames(
    motion: Motion,
    *,
    size: tuple[int, int] = (400, 400),
    fps: float = 15.0,
    captions: Sequence[str] = (),
    clock: bool = True,
) -> Iterator[Image.Image]:
    """Draw a motion frame by frame; the camera follows, the figure casts a shadow and leaves a path.

    Args:
        motion: what to draw; left limbs are red, right ones blue.
        size: (width, height) in pixels.
        fps: of the frames drawn.
        captions: per frame of the motion, what to write on it.
        clock: write the time on it.

    Yields:
        RGB pictures.
    """
    places = motion.positions.double().cpu()
    places[..., 1] -= places[..., 1].amin(1).quantile(0.1)
    hips = places[:, 0].clone()
    # A lying or jumping figure stays in the picture: the camera's height follows, but little.
    hips[:, 1] = 0.85 + 0.25 * (hips[:, 1] - 0.95)
    track = _smooth(hips, max(2, round(0.7 * motion.fps)))
    large = (size[0] * _SCALE, size[1] * _SCALE)
    font = _font(round(size[1] * _SCALE * 0.042))
    for index in range(max(1, int(len(motion) * fps / motion.fps))):
        frame = min(round(index * motion.fps / fps), len(motion) - 1)
        camera = _Camera(track[frame], large, azimuth=0.7 + 0.25 * math.sin(frame / motion.fps * 0.2))
        picture = Image.new("RGB", large, _PAPER)
        pen = ImageDraw.Draw(picture)
        _floor(pen, camera)
        path = places[max(0, frame - round(4 * motion.fps)) : frame + 1 : 3, 0].clone()
        path[:, 1] = 0
        trail = camera.project(path)
        trail = trail[trail[:, 2] > 0.5]
        if len(trail) > 1:
            pen.line(
                [tuple(point[:2]) for point in trail.tolist()], fill=_PATH, width=2 * _SCALE, joint="curve"
            )
        _figure(pen, camera, places[frame], motion)
        margin = large[0] * 0.035
        if clock:
            text = f"{frame / motion.fps:5.1f} s"
            pen.text((large[0] - margin, large[1] - margin), text, fill=_INK, font=font, anchor="rs")
        if captions:
            pen.text(
                (margin, large[1] - margin),
                captions[frame].replace("_", " "),
                fill=_INK,
                font=font,
                anchor="ls",
            )
        yield picture.resize(size, Image.Resampling.BOX)


def check_preview(path: str | os.PathLike[str]) -> None:
    """Refuse a preview that could not be written, before the work begins.

    Args:
        path: destination, `.gif` or `.mp4`.

    Raises:
        MediaError: another suffix, or `.mp4` without the program ffmpeg.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise MediaError(
            f"write_preview: path must end in .gif or .mp4, got {suffix!r}. GIF needs no other program."
        )
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise MediaError(
            "write_preview: path must end in .gif where ffmpeg is not installed, got '.mp4'. "
            "Install ffmpeg, or write a GIF."
        )


def write_preview(
    motion: Motion,
    path: str | os.PathLike[str],
    *,
    captions: Sequence[str] = (),
    size: tuple[int, int] = (400, 400),
    callback: Callable[[], object] | None = None,
) -> None:
    """Write a stick-figure film, whole or not at all: a GIF of 15 frames a second, or an mp4 of 30.

    Args:
        motion: what to draw.
        path: destination, `.gif` or `.mp4`; the latter needs the program ffmpeg.
        captions: see `draw_frames`.
        size: (width, height) in pixels, even.
        callback: called after each frame.

    Raises:
        MediaError: another suffix, ffmpeg missing or failing.
    """
    check_preview(path)
    film = Path(path).suffix.lower() == ".mp4"
    fps = min(30.0 if film else 15.0, motion.fps)

    def frames() -> Iterator[Image.Image]:
        for picture in draw_frames(motion, size=size, fps=fps, captions=captions):
            yield picture
            if callback:
                callback()

    if film:
        _write_mp4(frames(), path, size, fps)
        return
    palette, pictures = None, []
    for picture in frames():
        if palette is None:
            palette = picture.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        pictures.append(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    with atomic_file(path) as file:
        pictures[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            # GIF counts hundredths: 70 ms is the nearest to 15 frames a second, and near the true speed.
            duration=[70 if index % 3 else 60 for index in range(len(pictures))],
            loop=0,
            optimize=False,
            disposal=1,
        )


def _write_mp4(
    frames: Iterator[Image.Image], path: str | os.PathLike[str], size: tuple[int, int], fps: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        arguments = f"-y -loglevel error -f rawvideo -pix_fmt rgb24 -s {size[0]}x{size[1]} -r {fps:g} -i -"
        encoding = "-c:v libx264 -pix_fmt yuv420p -crf 20 -movflags +faststart"
        command = ["ffmpeg", *arguments.split(), *encoding.split(), str(film)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stderr is not None
            try:
                # A program that gives up says why in its message.
                with contextlib.suppress(BrokenPipeError):
                    for picture in frames:
                        process.stdin.write(picture.tobytes())
            except BaseException:
                process.kill()
                raise
            finally:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            message = process.stderr.read().decode("utf-8", "replace")
        if process.returncode or not film.exists():
            raise MediaError(
                f"write_preview: ffmpeg must succeed, got {message!s:.200}. Write a GIF instead."
            )
        with atomic_file(path) as file, open(film, "rb") as made:
            shutil.copyfileobj(made, file)
