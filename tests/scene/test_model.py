# SPDX-License-Identifier: Apache-2.0
import pytest
from intarsia.scene import Model, SceneError
from intarsia.scene.model import bundled

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_a_model_file_says_what_it_knows(model):
    found = Model.open(model)
    assert found.styles == ("dawn", "dusk", "forest") and found.sizes[0] == (64, 64)
    assert (found.unit, found.channels, found.guidance) == (1, 3, 1.0) and len(found.digest()) == 64


@pytest.mark.skipif("landscapes" not in bundled(), reason="the bundled weights are not in this checkout")
def test_bundled_models_are_found_from_everywhere(tmp_path):
    assert Model.open("landscapes", tmp_path).styles[0] == Model.open("landscapes").styles[0]


def test_a_hub_s_model_needs_its_commit(tmp_path):
    found = Model.open(f"owner/name@{REVISION}", tmp_path)
    assert found.repository == ("owner/name", REVISION) and found.assumed and found.digest() == REVISION
    for name in ("owner/name", "owner/name@main", f"owner/name@{REVISION[1:]}", f"../x/y@{REVISION}"):
        with pytest.raises(SceneError, match="^model: must be a bundled model .* OWNER/NAME@REVISION"):
            Model.open(name, tmp_path)


def test_a_plan_may_assume_a_folder_that_is_not_here(tmp_path):
    assert Model.open("sd", tmp_path, assume=True).assumed
    (tmp_path / "sd").mkdir()
    with pytest.raises(SceneError, match="^model: must hold a model_index.json that can be read"):
        Model.open("sd", tmp_path, assume=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"no safetensors", (40).to_bytes(8, "little") + b"{" * 40, (2).to_bytes(8, "little") + b"[]"],
)
def test_files_that_are_no_models(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(SceneError, match="^model: must be a safetensors file written by intarsia"):
        Model.open("m.safetensors", tmp_path)
    (tmp_path / "m.ckpt").write_bytes(content)
    with pytest.raises(SceneError, match="pickled weights are not read"):
        Model.open("m.ckpt", tmp_path)
