# SPDX-License-Identifier: Apache-2.0
"""`intarsia doctor`: what is installed, what was built, what will be used, and why."""

from __future__ import annotations

import importlib
import json
import os
import platform
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from intarsia.cli import model_file
from intarsia.cli.screen import Debug, Problem, one_line

__all__ = ["doctor", "examine"]

_WIDTH = 80
_LABEL = 14


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _versions() -> dict[str, str]:
    import intarsia

    names = ("torch", "triton", "numpy", "pillow", "safetensors")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {
        "intarsia": intarsia.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": system,
        **{name: _package(name) for name in names},
    }


def _build() -> dict[str, str]:
    try:
        compiled = importlib.import_module("intarsia._C")
    except ImportError as error:
        return {"module": f"missing: {one_line(str(error))}"}
    return {str(key): _plain(value) for key, value in compiled.build_info().items()}


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in (None, "") else "none"


def _backends() -> dict[str, str]:
    from intarsia import ops

    return {name: one_line(state) for name, state in ops.backends().items()}


def _chosen() -> dict[str, str]:
    import torch

    from intarsia.ops import reason

    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    found = {device: reason(device).removeprefix(f"{device}: ") for device in devices}
    for device, choice in found.items():
        if choice == device:
            found[device] = f"{choice}, the first choice for this device"
    if "cuda" not in found:
        built = torch.version.cuda
        found["cuda"] = "no device; " + (
            f"torch was built for CUDA {built}" if built else "this torch is CPU-only"
        )
    return found


def _machine() -> dict[str, str]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {
        "cpu": f"{_processor()}, {cores} core{'s' * (cores != 1)} usable",
        "threads": f"{torch.get_num_threads()}, SIMD {capability}",
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            memory = about.total_memory / 2**30
            found[f"cuda:{index}"] = f"{about.name}, sm_{about.major}{about.minor}, {memory:.0f} GiB"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _expected() -> dict[str, str]:
    """Digests in `SHA256SUMS` beside the weights: file name -> digest."""
    try:
        lines = (model_file.WEIGHTS / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {pair[1].lstrip("*"): pair[0] for pair in words if len(pair) == 2}


def _weights() -> dict[str, str]:
    expected, found = _expected(), {}
    for name in model_file.bundled(axes=None):
        model = model_file.ModelFile.open(name, axes=None)
        digest, wanted = model.sha256(), expected.get(model.path.name)
        state = "no checksum to compare" if wanted is None else "verified" if wanted == digest else "DAMAGED"
        size = model.path.stat().st_size / 2**20
        found[name] = f"{state}, {len(model.styles)} styles, {size:.1f} MiB, sha256 {digest[:12]}"
    return found or {"landscapes": "MISSING: pictures need --model FILE"}


def examine() -> dict[str, dict[str, str]]:
    """Everything the doctor knows: section -> name -> finding. A part that fails says so in its place."""
    sections: dict[str, Callable[[], dict[str, str]]] = {
        "Versions": _versions,
        "Machine": _machine,
        "Build": _build,
        "Backends": _backends,
        "Chosen": _chosen,
        "Models": _weights,
    }
    found = {}
    for name, ask in sections.items():
        try:
            found[name] = ask()
        except Exception as error:
            found[name] = {"FAILED": one_line(f"{type(error).__name__}: {error}")}
    return found


def doctor(
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print the findings as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, backends and models, and whether all is well."""
    found = examine()
    troubles = [
        f"{section.lower()}: {name}: {text}"
        for section, entries in found.items()
        for name, text in entries.items()
        if name == "FAILED" or text.startswith(("MISSING", "DAMAGED"))
    ]
    if as_json:
        typer.echo(json.dumps({**found, "healthy": not troubles}, indent=2))
    else:
        for section, entries in found.items():
            typer.secho(section, bold=True)
            for name, text in entries.items():
                lines = textwrap.wrap(text, _WIDTH - _LABEL - 2) or [""]
                colour = "red" if text.startswith(("MISSING", "DAMAGED")) or name == "FAILED" else None
                typer.echo(f"  {name:<{_LABEL}}" + typer.style(lines[0], fg=colour))
                for line in lines[1:]:
                    typer.echo(" " * (_LABEL + 2) + typer.style(line, fg=colour))
        if not troubles:
            typer.secho("All is well.", fg="green", bold=True)
    if troubles:
        raise Problem(f"doctor: not well: {'; '.join(troubles)}", code=1)
