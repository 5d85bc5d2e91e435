# SPDX-License-Identifier: Apache-2.0
"""Motion in and out: BVH and npz files, clips of motion capture, films of a stick figure."""

from intarsia.media.motion.bvh import read_bvh, write_bvh
from intarsia.media.motion.clips import Clip, read_clips
from intarsia.media.motion.npz import open_npz, read_npz, write_npz
from intarsia.media.motion.preview import check_preview, draw_frames, write_preview

__all__ = [
    "Clip",
    "check_preview",
    "draw_frames",
    "open_npz",
    "read_bvh",
    "read_clips",
    "read_npz",
    "write_bvh",
    "write_npz",
    "write_preview",
]
