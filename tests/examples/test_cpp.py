# SPDX-License-Identifier: Apache-2.0
"""The C++ example averages patches without Python, from the sources and from an installed library."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
COMPILER = shutil.which("c++") or shutil.which("g++")
CMAKE = shutil.which("cmake")
SAYS = r"averaged 16 patches of 64 x 64 on 96 x 256 with \w+ kernels: off by at most \d.\de-0[789]\n"
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def run(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def links_no_python(program: Path) -> bool:
    listed = run("ldd", program) if shutil.which("ldd") else ""
    return "python" not in listed and "torch" not in listed


@pytest.mark.skipif(CMAKE is None, reason="no cmake; the next test builds without it")
def test_from_the_sources_and_from_an_installed_library(tmp_path: Path) -> None:
    assert CMAKE is not None
    sources, installed, there = (tmp_path / name for name in ("sources", "installed", "prefix"))
    # The portable kernels alone: the others are compiled by every build of the module.
    options = ("-DINTARSIA_SIMD=OFF", "-DINTARSIA_WERROR=ON", f"-DCMAKE_INSTALL_PREFIX={there}")
    configured = run(CMAKE, "-S", EXAMPLE, "-B", sources, *options)
    assert "Python" not in configured and "pybind11" not in configured
    run(CMAKE, "--build", sources, "--parallel", "2")
    assert re.fullmatch(SAYS, run(sources / "average"))
    assert links_no_python(sources / "average")

    run(CMAKE, "--install", sources)
    assert (there / "include" / "intarsia.h").is_file()
    run(CMAKE, "-S", EXAMPLE, "-B", installed, f"-DCMAKE_PREFIX_PATH={there}")
    assert not (installed / "intarsia").exists()
    run(CMAKE, "--build", installed)
    assert run(installed / "average") == run(sources / "average")


@pytest.mark.skipif(CMAKE is not None, reason="built with cmake")
def test_with_the_compiler_alone(tmp_path: Path) -> None:
    assert COMPILER is not None
    kernels = sorted((ROOT / "kernels" / "cpu").glob("*.cpp"))
    folders = (f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'kernels'}")
    program = tmp_path / "average"
    flags = ("-std=c++17", "-O1", "-ffp-contract=off", "-DINTARSIA_ISA=baseline")
    run(COMPILER, *flags, *folders, *kernels, EXAMPLE / "average.cpp", "-o", program)
    assert re.fullmatch(SAYS, run(program))


def test_the_header_stands_alone() -> None:
    assert COMPILER is not None
    run(
        COMPILER,
        *STRICT,
        f"-I{ROOT / 'csrc'}",
        "-fsyntax-only",
        "-x",
        "c++",
        "-",
        text="#include <intarsia.h>\n",
    )


def test_the_code_of_the_document_compiles() -> None:
    assert COMPILER is not None
    blocks = re.findall(r"^```cpp\n(.*?)^```", (ROOT / "docs" / "cpp.md").read_text(), flags=re.M | re.S)
    assert blocks
    for block in blocks:
        run(COMPILER, *STRICT, f"-I{ROOT / 'csrc'}", "-fsyntax-only", "-x", "c++", "-", text=block)
