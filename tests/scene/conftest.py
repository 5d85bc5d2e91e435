# SPDX-License-Identifier: Apache-2.0
import pytest
from intarsia import ops
from small_model import write_small_model


@pytest.fixture(autouse=True)
def quiet_backend(monkeypatch):
    """Without the compiled module, ask for the reference: its note would be an error here."""
    if ops.backends()["cpu"] != "available":
        monkeypatch.setenv("INTARSIA_BACKEND", "reference")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny untrained model of pixels."""
    return write_small_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
