# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from intarsia import ops
from intarsia.models import EDMDenoiser, UNet, save

STYLES = ("dawn", "dusk", "forest")
SIZES = ((64, 64), (64, 32), (32, 64), (32, 32))


@pytest.fixture(autouse=True)
def quiet_backend(monkeypatch):
    """Without the compiled module, ask for the reference: no note about it among the messages under test."""
    if ops.backends()["cpu"] != "available":
        monkeypatch.setenv("INTARSIA_BACKEND", "reference")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny untrained model whose output depends on its style."""
    generator = torch.Generator().manual_seed(0)
    settings = {
        "ndim": 2,
        "in_channels": 3,
        "channels": [16, 16],
        "blocks": 1,
        "num_classes": 4,
        "num_positions": 2,
    }
    net = UNet(**settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(EDMDenoiser(net, styles=STYLES, sizes=SIZES), path, settings)
    return str(path)


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
