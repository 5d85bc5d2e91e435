# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pickle
import random
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import wandering
from intarsia.kinematics import Motion
from intarsia.media import MediaError
from intarsia.media.motion import (
    check_preview,
    draw_frames,
    open_npz,
    read_bvh,
    read_clips,
    read_npz,
    write_bvh,
    write_npz,
    write_preview,
)
from PIL import Image

DATA = Path(os.environ.get("INTARSIA_DATA", "absent")) / "cmu-motion"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="INTARSIA_DATA names no folder with cmu-motion")


def same(one: Motion, other: Motion, tolerance: float = 1e-5) -> None:
    assert one.skeleton.names == other.skeleton.names and one.skeleton.parents == other.skeleton.parents
    assert one.skeleton.tips == other.skeleton.tips and abs(one.fps - other.fps) < 1e-3
    torch.testing.assert_close(one.positions, other.positions, atol=tolerance, rtol=0)
    torch.testing.assert_close(one.rotations, other.rotations, atol=tolerance, rtol=0)


@pytest.mark.parametrize("unit", [1.0, 0.01])
def test_bvh_round_trip(tmp_path: Path, unit: float) -> None:
    motion = wandering()
    write_bvh(motion, tmp_path / "m.bvh", unit=unit)
    same(read_bvh(tmp_path / "m.bvh", unit=unit), motion)
    assert [p.name for p in tmp_path.iterdir()] == ["m.bvh"]


def test_bvh_is_what_readers_expect(tmp_path: Path) -> None:
    write_bvh(wandering(3), tmp_path / "m.bvh")
    lines = (tmp_path / "m.bvh").read_text().splitlines()
    assert lines[:3] == ["HIERARCHY", "ROOT Hips", "{"]
    assert (
        lines[4].split() == "CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation".split()
    )
    assert lines.count("\t\tCHANNELS 3 Zrotation Yrotation Xrotation") == 3
    assert sum(line.strip() == "End Site" for line in lines) == 3
    start = lines.index("MOTION")
    assert lines[start + 1 : start + 3] == ["Frames: 3", "Frame Time: 0.03333333"]
    assert [len(line.split()) for line in lines[start + 3 :]] == [6 + 3 * 6] * 3


def test_any_order_of_channels(tmp_path: Path) -> None:
    text = """HIERARCHY
    ROOT a { OFFSET 0 0 0 CHANNELS 6 Zposition Xposition Yposition Xrotation Yrotation Zrotation
    } MOTION
    Frames: 1
    Frame Time: .0333333
    3 1 2 90 0 90"""
    # Several words of the hierarchy in one line are not BVH as programs write it.
    (tmp_path / "m.bvh").write_text(text)
    with pytest.raises(MediaError, match=r"read_bvh: path must"):
        read_bvh(tmp_path / "m.bvh")
    (tmp_path / "m.bvh").write_text(text.replace("CHANNELS", "\nCHANNELS").replace("{ OFFSET", "{\nOFFSET"))
    motion = read_bvh(tmp_path / "m.bvh")
    assert motion.translation.tolist() == [[1.0, 2.0, 3.0]] and motion.fps == 30
    # Rx Rz: z keeps its place under Rz, and goes to -y under Rx.
    expected = torch.tensor([0.0, -1.0, 0.0]).double()
    torch.testing.assert_close(motion.rotations[0, 0] @ torch.tensor([0.0, 0, 1]).double(), expected)


def bvh(frames: object = 2, rows: str = "0 0 0 0 0 0\n0 0 0 0 0 0", interval: object = "0.1") -> str:
    root = "ROOT a\n{\nOFFSET 0 0 0\nCHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation\n"
    tip = "End Site\n{\nOFFSET 0 1 0\n}\n}\n"
    return f"HIERARCHY\n{root}{tip}MOTION\nFrames: {frames}\nFrame Time: {interval}\n{rows}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "be a BVH file"),
        ("RIFF....", "be a BVH file"),
        (bvh(10**9), "hold the frames its header claims"),
        (bvh(10**17), "hold the frames its header claims"),
        (bvh(10**30), "be a BVH file"),
        (bvh(3), "hold the frames|hold 3 frames"),
        (bvh(1), "hold 1 frames"),
        (bvh(0), "have frames"),
        (bvh(interval=0), "have frames"),
        (bvh(interval="nan"), "finite numbers"),
        (bvh(rows="0 0 0 0 0 x\n0 0 0 0 0 0"), "hold numbers"),
        (bvh(rows="0 0 0 0 0 1e400\n0 0 0 0 0 0"), "hold finite numbers"),
        (bvh(rows="0 0 0 0 0 nan\n0 0 0 0 0 0"), "hold finite numbers"),
        (bvh().replace("OFFSET 0 1 0", "OFFSET 0 inf 0"), "finite numbers"),
        (bvh().replace("OFFSET 0 1 0", "OFFSET 0 1"), "3 finite numbers"),
        (bvh().replace("}\n}", "}"), "whole hierarchy"),
        (bvh().replace("}\n}", "}\n}\n}"), "balanced braces"),
        (bvh().replace("CHANNELS 6 X", "CHANNELS 5 X"), "hierarchy of joints"),
        (bvh().replace("Xposition", "Xscale"), "channels of positions and rotations"),
        (bvh().replace("Xposition", "Yposition"), "channels of positions and rotations"),
        (bvh().replace("HIERARCHY\n", "HIERARCHY\nROOT z\n{\n}\n"), "one root"),
        (bvh().replace("End Site\n{", "JOINT b\n{\n" * 2000), "at most|whole"),
    ],
)
def test_damaged_bvh_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.bvh").write_text(text)
    began = time.perf_counter()
    with pytest.raises(MediaError, match=rf"read_bvh: path must .*({words})"):
        read_bvh(tmp_path / "m.bvh")
    assert time.perf_counter() - began < 0.5


def test_a_bvh_that_stretches_bones_is_refused(tmp_path: Path) -> None:
    joint = "JOINT b\n{\nOFFSET 0 1 0\nCHANNELS 3 Xposition Yposition Zposition\nEnd Site\n{"
    text = bvh(rows="0 0 0 0 0 0 0 1 0\n0 0 0 0 0 0 0 {y} 0").replace("End Site\n{", joint)
    text = text.replace("}\n}\n", "}\n}\n}\n")
    (tmp_path / "m.bvh").write_text(text.replace("{y}", "1"))
    assert read_bvh(tmp_path / "m.bvh").skeleton.offsets[1] == (0.0, 1.0, 0.0)
    (tmp_path / "m.bvh").write_text(text.replace("{y}", "2"))
    with pytest.raises(MediaError, match="keep its bones' lengths"):
        read_bvh(tmp_path / "m.bvh")


def test_mutated_files_are_refused_or_harmless(tmp_path: Path) -> None:
    write_bvh(wandering(3), tmp_path / "m.bvh")
    write_npz(wandering(3), tmp_path / "m.npz")
    for name, read in (("m.bvh", read_bvh), ("m.npz", read_npz)):
        whole = (tmp_path / name).read_bytes()
        for seed in range(150):
            rng = random.Random(seed)
            data = bytearray(whole)
            for _ in range(rng.choice((1, 4, 30))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            (tmp_path / name).write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
            try:
                assert read(tmp_path / name).positions.isfinite().all()
            except MediaError:
                pass


def test_npz_round_trip(tmp_path: Path) -> None:
    write_npz(wandering(), tmp_path / "m.npz")
    same(read_npz(tmp_path / "m.npz"), wandering())


class Trap:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> object:
        return Path.touch, (self.canary,)


def test_no_code_runs_from_an_npz(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    np.savez(tmp_path / "m.npz", rotvec=np.array([Trap(canary)], dtype=object))
    with pytest.raises(MediaError, match="hold no Python objects"):
        read_npz(tmp_path / "m.npz")
    (tmp_path / "n.npz").write_bytes(pickle.dumps(Trap(canary)))
    with pytest.raises(MediaError, match="be an npz file"):
        read_npz(tmp_path / "n.npz")
    assert not canary.exists()


def test_npz_bombs_are_refused_unopened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = np.lib.format.header_data_from_array_1_0(np.zeros(0)) | {"shape": (2**26,)}
        with archive.open("x.npy", "w") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for _ in range(300):
                stream.write(b"\0" * 2**20)
    began = time.perf_counter()
    with pytest.raises(MediaError, match=r"hold at most 64 arrays and 268,435,456 bytes"):
        open_npz(tmp_path / "m.npz")
    assert time.perf_counter() - began < 0.2
    with zipfile.ZipFile(tmp_path / "n.npz", "w") as archive, archive.open("x.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header | {"shape": (2**50,)})
    with pytest.raises(MediaError, match="be whole"):
        open_npz(tmp_path / "n.npz")


def test_npz_of_other_content_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x=np.zeros(3))
    with pytest.raises(MediaError, match="hold a motion"):
        read_npz(tmp_path / "m.npz")
    with pytest.raises(MediaError, match="clip file of the CMU set"):
        read_clips(tmp_path / "m.npz")


def test_nothing_that_is_not_finite_is_written(tmp_path: Path) -> None:
    motion = wandering(3)
    motion.translation[1, 1] = torch.nan
    with pytest.raises(ValueError, match="write_bvh: motion must be finite"):
        write_bvh(motion, tmp_path / "m.bvh")
    assert list(tmp_path.iterdir()) == []


@needs_data
def test_files_of_others(tmp_path: Path) -> None:
    for path in sorted((DATA / "bvh").glob("*.bvh")):
        motion = read_bvh(path, unit=0.0254 / 0.45)
        assert motion.fps in (30, 120) and len(motion.skeleton.names) == 38
        assert 1.4 < float(motion.positions[..., 1].max()) < 1.8
        write_bvh(motion.cropped(0, 50), tmp_path / "m.bvh")
        same(read_bvh(tmp_path / "m.bvh"), motion.cropped(0, 50))


@needs_data
def test_clips() -> None:
    clips = read_clips(DATA / "cmu_motion_30fps.npz")
    assert len(clips) == 96 and sum(len(clip.motion) for clip in clips) == 16980
    assert sum(len(c.motion) for c in clips if c.action == "walking" and c.held) == 1982


def test_the_figure_is_seen(tmp_path: Path) -> None:
    frames = list(draw_frames(wandering(30), size=(120, 100), captions=["a"] * 30))
    assert len(frames) == 15 and frames[0].size == (120, 100)
    pixels = np.asarray(frames[7]).reshape(-1, 3).astype(int)
    for colour in ((201, 84, 56), (38, 110, 140)):
        assert (np.abs(pixels - colour).max(1) < 40).sum() > 20


def test_films(tmp_path: Path) -> None:
    drawn: list[int] = []
    write_preview(wandering(31), tmp_path / "m.gif", size=(80, 80), callback=lambda: drawn.append(1))
    with Image.open(tmp_path / "m.gif") as film:
        assert film.n_frames == len(drawn) == 15 and film.size == (80, 80)
        assert film.info["loop"] == 0
    with pytest.raises(MediaError, match=r"write_preview: path must end in \.gif or \.mp4"):
        check_preview("m.avi")


def test_mp4_without_ffmpeg_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaError, match=r"where ffmpeg is not installed.*Install ffmpeg, or write a GIF"):
        check_preview("m.mp4")


def test_a_film_whose_encoder_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").write_text("#!/bin/sh\necho no such codec >&2\nexit 1\n")
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(MediaError, match="ffmpeg must succeed, got no such codec"):
        write_preview(wandering(8), tmp_path / "m.mp4", size=(32, 32))
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]
