# SPDX-License-Identifier: Apache-2.0
"""Which backend runs: the default, what forces another, and what a broken compiled module does."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import intarsia
import pytest
import torch
from intarsia import ops
from intarsia.ops import _backend, reference

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def fresh(monkeypatch):
    """No choice made yet, and none asked for."""
    for name in ("INTARSIA_BACKEND", "INTARSIA_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_backend, "_default", {})
    monkeypatch.setattr(_backend, "_loaded", dict(_backend._loaded))
    return monkeypatch


def test_the_names_are_these_four():
    assert list(ops.backends()) == ["reference", "cpu", "cuda", "triton"]
    assert ops.backends()["reference"] == "available"


def test_a_context_forces_a_backend_and_ends(fresh):
    before = _backend.select(CPU)
    with ops.use_backend("reference"):
        assert _backend.select(CPU) is reference
        assert "reference, because" in ops.reason("cpu")
    assert _backend.select(CPU) is before
    with pytest.raises(RuntimeError, match="leave"), ops.use_backend("reference"):
        raise RuntimeError("leave")
    assert _backend.select(CPU) is before


def test_a_context_holds_for_its_own_thread(fresh):
    seen = []
    fresh.setitem(_backend._default, "cpu", "the default")
    with ops.use_backend("reference"):
        worker = threading.Thread(target=lambda: seen.append(_backend.select(CPU)))
        worker.start()
        worker.join()
    assert seen == ["the default"]


def test_the_environment_forces_a_backend(fresh):
    fresh.setenv("INTARSIA_BACKEND", "reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _backend.select(CPU) is reference
    assert ops.reason("cpu").startswith("cpu: reference, because INTARSIA_BACKEND")


def test_a_plan_of_the_reference_serves_a_compiled_backend(fresh):
    if ops.backends()["cpu"] != "available":
        pytest.skip("not compiled")
    fresh.setenv("INTARSIA_BACKEND", "reference")
    canvas = torch.randn(1, 1, 9)
    offsets = torch.tensor([[0], [int(torch.randint(1, 5, ()))]])
    expected = ops.extract_patches(canvas, offsets=offsets, size=(5,))
    with ops.use_backend("cpu"):
        assert torch.equal(ops.extract_patches(canvas, offsets=offsets, size=(5,)), expected)


def test_unknown_and_missing_names_are_refused(fresh):
    with pytest.raises(
        ValueError, match="use_backend: name must be one of reference, cpu, cuda, triton, got 'gpu'"
    ):
        with ops.use_backend("gpu"):
            pass
    fresh.setitem(_backend._loaded, "cuda", "no driver")
    with pytest.raises(
        ValueError, match="name must be an available backend, got 'cuda'. It is not: no driver"
    ):
        with ops.use_backend("cuda"):
            pass
    fresh.setenv("INTARSIA_BACKEND", "fast")
    with pytest.raises(ValueError, match="got 'fast'. Check INTARSIA_BACKEND"):
        _backend.select(CPU)


def test_a_backend_serves_its_own_devices(fresh):
    if ops.backends()["cpu"] != "available":
        pytest.skip("not compiled")
    with (
        ops.use_backend("cpu"),
        pytest.raises(ValueError, match="must serve the device of the tensors, got 'cpu'"),
    ):
        _backend.select(CUDA)


def test_without_the_compiled_module_one_warning_and_the_reference(fresh):
    fresh.setitem(_backend._loaded, "cpu", "file too short")
    with pytest.warns(
        RuntimeWarning, match=r"not available \(file too short\). Reinstall .*INTARSIA_BACKEND=reference"
    ):
        assert _backend.select(CPU) is reference
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _backend.select(CPU) is reference
    assert ops.reason("cpu") == "cpu: reference; cpu is not available (file too short)"


def test_a_required_backend_is_an_import_error(fresh):
    fresh.setitem(_backend._loaded, "cpu", "file too short")
    fresh.setenv("INTARSIA_REQUIRE", "cuda, cpu")
    with pytest.raises(ImportError, match="INTARSIA_REQUIRE asks for the cpu backend, .* file too short"):
        _backend.select(CPU)


def test_a_gpu_falls_back_to_triton_and_then_to_the_reference(fresh):
    fresh.setitem(_backend._loaded, "cuda", "no kernels")
    fresh.setitem(_backend._loaded, "triton", reference)
    assert _backend.select(CUDA) is reference
    assert ops.reason("cuda") == "cuda: triton; cuda is not available (no kernels)"
    fresh.setitem(_backend._loaded, "triton", "no triton")
    fresh.setattr(_backend, "_default", {})
    with pytest.warns(RuntimeWarning, match="the cuda backend is not available"):
        assert _backend.select(CUDA) is reference


def test_other_devices_run_the_reference_without_a_warning(fresh):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _backend.select(torch.device("mps")) is reference


def load_again(fresh, module):
    for name in ("_compiled", "_cpu"):
        fresh.delitem(sys.modules, f"intarsia.ops.{name}", raising=False)
    fresh.setitem(sys.modules, "intarsia._C", module)
    fresh.delattr(intarsia, "_C", raising=False)
    fresh.setattr(importlib.util, "find_spec", lambda name: None)
    _backend._loaded.pop("cpu", None)


def test_a_missing_module_is_named(fresh):
    load_again(fresh, None)
    assert "_C" in ops.backends()["cpu"]


def test_a_module_of_another_version_is_not_used(fresh):
    older = types.ModuleType("intarsia._C")
    older.cpu = types.SimpleNamespace(extract_patches=None)
    fresh.setattr(intarsia, "_C", older, raising=False)
    load_again(fresh, older)
    fresh.setattr(intarsia, "_C", older, raising=False)
    assert "scatter_average" in ops.backends()["cpu"]


def test_a_module_that_ends_early_is_refused_before_it_is_mapped(tmp_path):
    built = compiled_file().read_bytes()
    for length in (5, 6, 40, 63, 64, 200, 5000, len(built) // 2):
        part = tmp_path / "_C.so"
        part.write_bytes(built[:length])
        if length >= 6:
            with pytest.raises(ImportError, match=f"_C.so is cut off after {length} bytes"):
                _compiled().require_whole(part)
    _compiled().require_whole(compiled_file())


def compiled_file():
    built = sorted(Path(intarsia.__file__).parent.glob("_C*.so"))
    if not built:
        pytest.skip("not compiled")
    return built[0]


def _compiled():
    return importlib.import_module("intarsia.ops._compiled")


SCRIPT = """
import warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from intarsia import ops
    offsets, canvas = [[0], [2]], torch.arange(4.0).view(1, 1, 4)
    patches = ops.extract_patches(canvas, offsets=offsets, size=(2,))
    merged = ops.scatter_average(patches, offsets=offsets, size=(4,), weight=(torch.ones(2),))
assert torch.equal(merged, canvas), merged
print(*[str(w.message) for w in caught if "intarsia" in str(w.message)], sep="\\n")
"""


def test_a_broken_module_costs_speed_and_one_warning(tmp_path):
    built, copy = compiled_file(), tmp_path / "intarsia"
    copy.mkdir()
    shutil.copytree(Path(ops.__file__).parent, copy / "ops")
    (copy / "__init__.py").touch()
    (copy / built.name).write_bytes(built.read_bytes()[:5000])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for name in ("INTARSIA_BACKEND", "INTARSIA_REQUIRE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    assert "the cpu backend is not available" in line and "is cut off" in line and "pip install" in line
