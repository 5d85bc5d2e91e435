# SPDX-License-Identifier: Apache-2.0
import pytest


@pytest.fixture
def calls(monkeypatch, tmp_path):
    seen = []

    def train(data, output, settings=None, *, resume=True, progress=True):
        seen.append((str(data), str(output), settings, resume, progress))
        return output / "model.safetensors"

    monkeypatch.setattr("intarsia.training.image.train", train)
    (tmp_path / "photos").mkdir()
    return seen


def test_defaults_are_those_of_the_library(run, calls):
    from intarsia.training.image import ImageTraining

    code, _, err = run("train", "image", "--data", "photos", "-o", "model")
    assert code == 0 and err == "intarsia: wrote model/model.safetensors\n"
    assert calls == [("photos", "model", ImageTraining(), True, True)]


def test_options_reach_the_library(run, calls):
    words = "--iterations 7 --batch 3 --learning-rate 0.1 --seed 0 --fresh --quiet"
    assert run("train", "image", "--data", "photos", "-o", "model", *words.split()) == (0, "", "")
    ((_, _, settings, resume, progress),) = calls
    assert (settings.iterations, settings.batch, settings.learning_rate, settings.seed) == (7, 3, 0.1, 0)
    assert (resume, progress) == (False, False)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--data absent -o model", "--data must be a folder .* got 'absent'"),
        ("--data photos -o model --iterations 0", "--iterations must be positive, got 0"),
        ("--data photos -o model --learning-rate -1", "--learning-rate must be positive"),
        ("--data photos -o model --seed -1", "--seed must be positive"),
        ("-o model", "Missing option '--data'"),
    ],
)
def test_errors(run, calls, words, text):
    import re

    code, out, err = run("train", "image", *words.split())
    assert (code, out, calls) == (2, "", []) and re.search(text, err) and err.count("\n") == 1


def test_a_folder_without_photographs(run, tmp_path):
    (tmp_path / "photos").mkdir()
    code, _, err = run("train", "image", "--data", "photos", "-o", "model")
    assert code == 2 and "must hold one sub-folder of photographs per style" in err
