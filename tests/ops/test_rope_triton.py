# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel of rope, compiled for GPUs that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILE = """
import importlib.util, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

spec = importlib.util.spec_from_file_location(
    "kernels", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
package = sys.modules["kernels"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
kernel = sys.modules["kernels.rope"]._rope
names = kernel.arg_names

for arch, values, interleaved in ((80, "*bf16", True), (90, "*fp16", False), (90, "*fp64", True)):
    constants = dict(INTERLEAVED=interleaved, INVERSE=not interleaved, TOKENS=16, PAIRS=32, HEADS=4)
    types = dict.fromkeys(("q_out", "q", "k_out", "k"), values)
    types["table"] = "*fp64" if values == "*fp64" else "*fp32"
    types |= {n: "i64" for n in names if n.endswith(("_batch", "_head", "_token"))}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, aligned)
    target = GPUTarget("cuda", arch, 32)
    text = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
    assert not re.search(r"\\b(fma|atom|red)\\.", text)
    assert re.search(r"ld\\.global\\S*\\.v[24]", text) and re.search(r"st\\.global\\S*\\.v[24]", text)
    print("compiled")
"""


def test_compiles_to_wide_words_without_fused_products(tmp_path):
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, str(ROOT / "kernels" / "triton")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["compiled"] * 3
