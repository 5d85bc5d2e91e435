# SPDX-License-Identifier: Apache-2.0
import pytest
from intarsia import ops
from small_model import write_small_model


@pytest.fixture(autouse=True)
def quiet_backend(monkeypatch):
    """Without the compiled module, ask for the reference: no note about it among the messages under test."""
    if ops.backends()["cpu"] != "available":
        monkeypatch.setenv("INTARSIA_BACKEND", "reference")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny untrained model whose output depends on its style."""
    return write_small_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def run(model, capsys, monkeypatch, tmp_path):
    """Runs `intarsia ...` in an empty folder: (code, stdout, stderr). `{model}` is the tiny model."""
    from intarsia.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words):
        code = main([str(word).replace("{model}", model) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def generate(run):
    """Runs `intarsia generate image` on the tiny model, small and in few steps unless said otherwise."""

    def call(*words):
        short = []
        for option, value in (
            ("--model", "{model}"),
            ("--width", "96"),
            ("--height", "64"),
            ("--stride", "16"),
            ("--steps", "2"),
            ("--precision", "float32"),
        ):
            short += [] if option in words or "--from" in words else [option, value]
        return run("generate", "image", *short, *words)

    return call
