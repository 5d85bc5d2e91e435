# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import shutil

import pytest


@pytest.fixture
def weights(model, tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(model, folder / "tiny.safetensors")
    monkeypatch.setattr("intarsia.cli.model_file.WEIGHTS", folder)
    return folder


def seal(folder):
    digest = hashlib.sha256((folder / "tiny.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  tiny.safetensors\n")


def test_a_healthy_installation(run, weights):
    seal(weights)
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    for word in (
        "Versions",
        "torch",
        "Backends",
        "reference",
        "available",
        "Chosen",
        "tiny",
        "verified, 3 styles",
    ):
        assert word in out
    assert out.endswith("All is well.\n")
    assert max(map(len, out.splitlines())) <= 80


def test_json(run, weights):
    found = json.loads(run("doctor", "--json")[1])
    assert found["healthy"] is True and found["Backends"]["reference"] == "available"
    assert set(found["Chosen"]) == {"cpu", "cuda"} and "no checksum" in found["Models"]["tiny"]


def test_damaged_weights(run, weights):
    seal(weights)
    data = bytearray((weights / "tiny.safetensors").read_bytes())
    data[-1] ^= 1
    (weights / "tiny.safetensors").write_bytes(data)
    code, out, err = run("doctor")
    assert code == 1 and "DAMAGED" in out and "All is well" not in out
    assert "error: doctor: not well: models: tiny: DAMAGED" in err


def test_missing_weights(run, weights):
    (weights / "tiny.safetensors").unlink()
    code, out, _ = run("doctor")
    assert code == 1 and "MISSING" in out


def test_a_part_that_fails_does_not_hide_the_others(run, weights, monkeypatch):
    def fail():
        raise OSError("no such thing")

    monkeypatch.setattr("intarsia.cli.doctor._machine", fail)
    code, out, err = run("doctor")
    assert code == 1 and "OSError: no such thing" in out and "Backends" in out
    assert err.count("\n") == 1
