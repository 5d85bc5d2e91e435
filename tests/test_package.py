# SPDX-License-Identifier: Apache-2.0
"""The package as it is installed: one module under any torch, nothing heavy at import."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import intarsia
import pytest

HOME = Path(intarsia.__file__).parent
INSTALLED = intarsia.__version__ != "0.0.0+source"


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_the_module_links_nothing_of_torch() -> None:
    spec = importlib.util.find_spec("intarsia._C")
    if spec is None or spec.origin is None:
        pytest.skip("the compiled module is not built")
    listing = subprocess.run(["nm", "-D", spec.origin], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-1] for line in listing.splitlines()]
    assert any(name.startswith("PyInit__C") for name in symbols)  # the listing is one of symbols at all
    foreign = ("_ZN3c10", "_ZNK3c10", "_ZN2at", "_ZNK2at", "_ZN5torch", "THP", "cudart", "cuInit")
    assert [name for name in symbols if name.startswith(foreign)] == []


@pytest.mark.skipif(not INSTALLED, reason="a source checkout on the path")
def test_the_wheel_carries_what_it_should() -> None:
    assert (HOME / "include" / "intarsia.h").is_file()
    assert (HOME / "_triton" / "scatter_average.py").is_file()
    assert (HOME / "models" / "weights" / "landscapes.safetensors").is_file()
    assert (HOME / "models" / "weights" / "landscapes.md").is_file()


def test_importing_loads_nothing_and_using_loads_torch_alone() -> None:
    code = (
        "import sys, intarsia\n"
        "heavy = {'torch', 'triton', 'PIL', 'tqdm', 'diffusers', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "intarsia.compose, intarsia.layout, intarsia.samplers, intarsia.schedules, intarsia.guidance\n"
        "assert 'torch' in sys.modules\n"
        "assert not {'triton', 'PIL', 'diffusers', 'torch._dynamo'} & set(sys.modules)\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_without_torch_one_sentence_says_what_to_do() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import intarsia\n"
        "try:\n"
        "    intarsia.layout\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = run(code)
    assert done.stdout.strip() == "intarsia needs PyTorch >= 2.6. Install it first: pip install torch", (
        done.stderr
    )


def test_every_public_name_is_there() -> None:
    for name in intarsia.__all__:
        assert getattr(intarsia, name) is not None
    assert set(dir(intarsia)) == set(intarsia.__all__)
    with pytest.raises(AttributeError, match="module 'intarsia' has no attribute 'nothing'"):
        intarsia.nothing  # noqa: B018
