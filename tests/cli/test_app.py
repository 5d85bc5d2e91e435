# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import intarsia
import pytest


@pytest.mark.parametrize("words", [[], ["generate"], ["train"]])
def test_bare_commands_show_help(run, words):
    code, out, err = run(*words)
    assert code == 0 and "Usage: intarsia" in out and err == ""


@pytest.mark.parametrize(
    "words", [["--help"], ["generate", "image", "--help"], ["train", "image", "--help"], ["doctor", "--help"]]
)
def test_help_is_tidy(run, words):
    code, out, _ = run(*words)
    assert code == 0 and "bool" not in out and "None" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_version(run):
    assert run("--version") == (0, f"intarsia {intarsia.__version__}\n", "")


def test_unknown_command(run):
    code, out, err = run("bake")
    assert (code, out, err) == (2, "", "intarsia: error: No such command 'bake'.\n")


def test_help_does_not_pay_for_torch():
    probe = (
        "import sys; from intarsia.cli import main; code = main(['generate', 'image', '--help']);"
        "sys.exit(code or 'torch' in sys.modules or 'PIL' in sys.modules)"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", probe], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    # Processor time: other work on the machine is not ours to blame.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_warnings_are_one_line(run, monkeypatch):
    import warnings

    def warn():
        warnings.warn("careful\nnow", RuntimeWarning, stacklevel=1)
        return {}

    monkeypatch.setattr("intarsia.cli.doctor.examine", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run("doctor")[2] == "intarsia: note: careful now\n"
