# SPDX-License-Identifier: Apache-2.0
"""The memory floor of a case: a probe that reads and writes exactly the bytes the op must read and write."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["floors", "probe"]

SOURCE = Path(__file__).with_name("floor_probe.cpp")


@functools.cache
def probe() -> Callable[..., int] | None:
    """Return the compiled C++ probe (built once, kept in .cache), or None without a compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    name = hashlib.sha256(SOURCE.read_bytes() + compiler.encode()).hexdigest()[:16]
    folder = SOURCE.parent / ".cache"
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="intarsia-floor-"))
    library = folder / f"floor-{name}-{os.uname().nodename}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC"]
        built = subprocess.run([*command, str(SOURCE), "-o", str(partial)], capture_output=True)
        if built.returncode:
            return None
        partial.replace(library)
    function = ctypes.CDLL(str(library)).floor_probe
    function.restype = ctypes.c_uint64
    size, pointer, integer = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    function.argtypes = [pointer, size, pointer, size, integer, integer]
    found: Callable[..., int] = function
    return found


def floors(read_bytes: int, write_bytes: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the floor candidates by name; the smallest median of them is the floor.

    On CUDA, and on a CPU without a C++ compiler, a plain copy of half the total bytes stands in.
    """
    if read_bytes + write_bytes == 0:
        return {}
    if device.type == "cuda" or probe() is None:
        half = max((read_bytes + write_bytes) // 8, 1)
        source = torch.full((half,), 1.1, dtype=torch.float32, device=device)
        target = torch.full_like(source, 1.2)
        return {"floor copy": lambda: target.copy_(source)}
    run = probe()
    assert run is not None
    reads = torch.full((read_bytes,), 7, dtype=torch.uint8)
    writes = torch.full((write_bytes,), 7, dtype=torch.uint8)

    def call(streaming: int) -> Callable[[], object]:
        return lambda: run(
            reads.data_ptr(), read_bytes, writes.data_ptr(), write_bytes, streaming, torch.get_num_threads()
        )

    return {"floor normal": call(0), "floor streaming": call(1)}
