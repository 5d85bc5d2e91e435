# SPDX-License-Identifier: Apache-2.0
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny
from intarsia.adapters import pipeline
from intarsia.adapters.folder import FolderError, check_folder
from intarsia.adapters.pipeline import fetch, load_pipeline, with_solver

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "sd"
    tiny.stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "sd")


class Canary:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def edit(path, **changes):
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **changes}))


def test_a_saved_pipeline_is_understood(folder):
    found = check_folder(folder)
    assert found.pipeline == "StableDiffusionPipeline" and found.scale == 8
    assert found.network["sample_size"] == tiny.LATENT
    assert found.configs["scheduler"]["_class_name"] == "DDIMScheduler"
    assert found.weight_bytes == sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_what_people_keep_beside_a_model_does_no_harm(folder):
    for name in ("README.md", "LICENSE", ".gitattributes", "grid.png", "unet/notes.txt"):
        (folder / name).write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "hooks.py").write_text("x")
    assert check_folder(folder).pipeline == "StableDiffusionPipeline"


def test_looking_imports_no_library(folder):
    code = (
        "import sys; from intarsia.adapters.folder import check_folder\n"
        f"check_folder({str(folder)!r})\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_loaded_is_what_was_saved(folder, capfd):
    pipe = load_pipeline(folder, device="cpu", dtype=torch.float32)
    assert type(pipe).__name__ == "StableDiffusionPipeline" and capfd.readouterr().err == ""
    assert with_solver(pipe, "heun") is pipe and type(pipe.scheduler).__name__ == "HeunDiscreteScheduler"
    assert pipe.scheduler.config.beta_end == tiny.ddim().config.beta_end


def test_flow_matching_models_have_solvers_of_their_own():
    class Pipe:
        scheduler = tiny.flow_euler(shift=3.0, use_dynamic_shifting=False)

    assert type(with_solver(Pipe(), "euler").scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    with pytest.raises(ValueError, match="must be one of heun, euler for a flow-matching model, got 'ddim'"):
        with_solver(Pipe(), "ddim")


DANGERS = {
    "a pickle": lambda folder: (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x"),
    "a checkpoint": lambda folder: (folder / "model.ckpt").write_bytes(b"x"),
    "an array": lambda folder: (folder / "unet" / "a.npz").write_bytes(b"x"),
    "a file of another kind": lambda folder: (folder / "index.dpr").write_bytes(b"x"),
    "code": lambda folder: (folder / "unet" / "unet.py").write_text("raise SystemExit"),
    "a library": lambda folder: (folder / "a.so").write_bytes(b"x"),
    "a pipeline of its own": lambda folder: edit(folder / "model_index.json", _class_name=["pipeline", "P"]),
    "an unknown pipeline": lambda folder: edit(folder / "model_index.json", _class_name="OtherPipeline"),
    "no pipeline": lambda folder: (folder / "model_index.json").unlink(),
    "a list": lambda folder: (folder / "model_index.json").write_text("[]"),
    "deep": lambda folder: (folder / "model_index.json").write_text("[" * 100_000),
    "a large index": lambda folder: (folder / "model_index.json").write_text(" " * (2**20 + 1)),
    "a module": lambda folder: edit(folder / "model_index.json", unet=["os", "system"]),
    "a path as a class": lambda folder: edit(folder / "model_index.json", unet=["diffusers", "../x.y"]),
    "a path as a component": lambda folder: edit(folder / "model_index.json", **{"../x": ["diffusers", "X"]}),
    "three words": lambda folder: edit(folder / "model_index.json", unet=["diffusers", "X", "Y"]),
    "a class list": lambda folder: edit(folder / "unet" / "config.json", _class_name=["a", "B"]),
    "an auto_map": lambda folder: edit(folder / "text_encoder" / "config.json", auto_map={"A": "b.C"}),
    "a tokenizer's auto_map": lambda folder: edit(
        folder / "tokenizer" / "tokenizer_config.json", auto_map=[1]
    ),
    "trust": lambda folder: edit(folder / "vae" / "config.json", trust_remote_code=True),
    "a cut file": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"12"),
    "a large header": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
        (100 * 2**20 + 1).to_bytes(8, "little") + b"{}" * 99
    ),
    "an index that leads out": lambda folder: edit(
        folder / "unet" / "model.safetensors.index.json", weight_map={"a": "../../x.safetensors"}
    ),
    "a link out": lambda folder: os.symlink("/etc/hostname", folder / "unet" / "notes.txt"),
    "a folder out": lambda folder: os.symlink("/etc", folder / "etc"),
    "many files": lambda folder: [(folder / f"{n}.txt").write_text("") for n in range(2001)],
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
}


@pytest.mark.parametrize("danger", DANGERS)
def test_folders_that_would_have_to_be_trusted(folder, danger):
    DANGERS[danger](folder)
    began = time.process_time()
    for reader in (check_folder, lambda path: load_pipeline(path, device="cpu", dtype=torch.float32)):
        with pytest.raises(FolderError, match="check_folder: path must ") as caught:
            reader(folder)
        assert "\n" not in str(caught.value)
    assert time.process_time() - began < 1


def test_a_folder_without_safetensors(folder):
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(FolderError, match="must hold weights as safetensors, got none"):
        check_folder(folder)


def test_no_pickle_is_opened(folder, tmp_path):
    canary = tmp_path / "canary"
    shutil.rmtree(folder / "safety_checker", ignore_errors=True)
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
        (folder / name.replace("pytorch_model.bin", "pytorch_model.safetensors")).unlink(missing_ok=True)
    with pytest.raises(FolderError):
        load_pipeline(folder, device="cpu", dtype=torch.float32)
    assert not canary.exists()


def test_links_of_a_hub_s_cache_lead_to_its_blobs(folder, tmp_path):
    snapshot = tmp_path / "models--o--n" / "snapshots" / REVISION
    shutil.copytree(folder, snapshot)
    blobs = tmp_path / "models--o--n" / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.rglob("*.safetensors"))):
        shutil.move(path, blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    assert check_folder(snapshot).weight_bytes == check_folder(folder).weight_bytes
    load_pipeline(snapshot, device="cpu", dtype=torch.float32)


def test_a_hub_s_commit_is_pinned_and_only_safe_files_are_fetched(monkeypatch, tmp_path):
    asked = {}

    def download(repository, **given):
        asked.update(given, repository=repository)
        return str(tmp_path)

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch("owner/name", REVISION) == tmp_path
    assert asked == {
        "repository": "owner/name",
        "revision": REVISION,
        "allow_patterns": ["*.json", "*.txt", "*.safetensors", "*.model"],
    }
    for revision in ("main", REVISION[:-1], REVISION.upper(), REVISION + "\n"):
        with pytest.raises(FolderError, match="revision must be the 40 hexadecimal digits"):
            fetch("owner/name", revision)
    assert pipeline.fetch is fetch and re.fullmatch("[0-9a-f]{40}", REVISION)


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch):
    import huggingface_hub

    def fail(*args, **given):
        raise OSError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FolderError, match=r"fetch: repository must be one that can be reached.*\(no route\)"):
        fetch("owner/name", REVISION)
