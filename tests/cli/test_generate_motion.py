# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from bodies import BODY, wandering
from intarsia import layout
from intarsia.cli.animate import MotionSettings, animate, place_windows
from intarsia.kinematics import FeatureSpace
from intarsia.media.motion import read_bvh, read_npz
from intarsia.models import EDMDenoiser, UNet, load, save
from PIL import Image

SIZES = (16, 8)


@pytest.fixture(scope="module")
def moves(tmp_path_factory):
    """A tiny untrained model of motion whose output depends on its action."""
    space = FeatureSpace(BODY, joints=(0, 1, 2, 4, 5, 7, 8), feet=(2, 5), fps=30.0)
    space = space.fitted([space.encode(wandering(60, seed=s)) for s in range(3)], channels=16)
    settings = {"ndim": 1, "in_channels": 16, "channels": [16], "blocks": 1, "num_classes": 3}
    torch.manual_seed(0)
    net = UNet(**settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    denoiser = EDMDenoiser(
        net,
        styles=["walk", "jump"],
        sizes=[(size,) for size in SIZES],
        sigma_range=(0.01, 20.0),
        label="action",
        about={"motion": space.to_json()},
    )
    path = tmp_path_factory.mktemp("model") / "moves.safetensors"
    save(denoiser, path, settings)
    return str(path)


@pytest.fixture
def motion(run, moves):
    """Runs `intarsia generate motion` on the tiny model, short unless said otherwise."""

    def call(*words):
        short = []
        for option, value in (
            ("--model", moves),
            ("--actions", "walk"),
            ("--seconds", "1"),
            ("--steps", "2"),
        ):
            short += [] if option in words else [option, value]
        return run("generate", "motion", *short, *words)

    return call


def test_a_motion_is_written(motion, tmp_path):
    code, out, err = motion("-o", "out.bvh", "--actions", "walk, jump", "--preview", "out.gif")
    assert (code, err) == (0, "")
    assert out.startswith("out.bvh: a motion of 1 s, 30 frames, in ") and out.endswith("seed 0\n")
    made = read_bvh("out.bvh")
    assert len(made) == 30 and made.fps == 30 and made.skeleton.names == BODY.names
    with Image.open("out.gif") as film:
        assert film.n_frames == 15
    assert sorted(os.listdir(tmp_path)) == ["out.bvh", "out.gif"]


def test_seeds_and_methods_differ_and_repeat(motion):
    def made(*words):
        assert motion("-o", "m.npz", *words)[0] == 0
        return read_npz("m.npz").rotations

    base = made()
    assert torch.equal(made(), base)
    changes = ("--seed 1", "--method average", "--method concat", "--loop", "--guidance 2", "--actions jump")
    for words in changes:
        other = made(*words.split())
        assert not torch.equal(other[:20], base[:20]), words
    assert torch.equal(made("--no-plant"), base)  # planting moves the root alone


def test_loops_close_and_say_how_long_they_are(motion):
    code, out, err = motion("-o", "m.bvh", "--loop", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["frames"] == 32 and facts["loop"] is True and facts["actions"] == ["walk"]
    assert "a loop of 1.067 s" in motion("-o", "m.bvh", "--loop")[1]
    closing = read_bvh("m.bvh").translation
    step = (closing[0] - closing[-1])[[0, 2]].norm()
    assert step < 3 * closing[:, [0, 2]].diff(dim=0).norm(dim=1).max()


@pytest.mark.parametrize("method", ["bethe", "average"])
def test_a_loop_turned_by_a_stride_is_a_loop(moves, method):
    denoiser = load(moves, dtype=torch.float32)
    settings = MotionSettings(("walk",), frames=40, loop=True, method=method, steps=2)
    windows = place_windows(settings, sizes=SIZES, classes=[1])
    from intarsia.cli.animate import composite

    D = composite(denoiser, settings, windows, max_batch=64)
    x, sigma = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    torch.testing.assert_close(D(x.roll(8, 2), sigma), D(x, sigma).roll(8, 2), atol=1e-5, rtol=0)
    assert (D(x.roll(1, 2), sigma) - D(x, sigma).roll(1, 2)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("frames", "loop", "method", "length", "actions", "shared"),
    [
        (16, False, "bethe", 16, [2], []),
        (17, False, "bethe", 24, [1, 2], [0]),
        (40, False, "bethe", 40, [1, 1, 2, 2], [1, 0, 2]),
        (40, True, "bethe", 40, [1, 1, 2, 2, 1], [1, 1, 0, 2, 0]),
        (9, True, "average", 24, [1, 2, 1], [1, 0, 0]),
        (40, False, "concat", 48, [1, 2, 2], []),
    ],
)
def test_windows_and_their_actions(frames, loop, method, length, actions, shared):
    settings = MotionSettings(("a", "b"), frames=frames, loop=loop, method=method)
    windows = place_windows(settings, sizes=SIZES, classes=[1, 2])
    assert windows.layout.size == (length,)
    assert windows.actions.tolist() == actions
    joints = layout.separators(windows.layout)
    places = [offset[0] for offset, _ in joints.boxes()] if joints else []
    # In the order of time: the separator at 0 closes the loop.
    assert windows.shared.tolist() == shared and len(places) == len(shared)
    for place, label in zip(places, shared, strict=True):
        owners = [
            action
            for (start,), action in zip(windows.layout.offsets.tolist(), actions, strict=True)
            if (place - start) % length <= SIZES[0] - SIZES[1]
        ]
        assert label == (owners[0] if owners[0] == owners[1] else 0)


def test_both_kinds_of_separators_and_guidance_work(moves):
    denoiser = load(moves, dtype=torch.float32)
    base = MotionSettings(("walk", "jump"), frames=40, steps=2)
    made = [
        animate(denoiser, base.__class__(**{**base.__dict__, **change}), seeds=[0, 1])
        for change in ({}, {"shared": True}, {"guidance": 3.0})
    ]
    assert all(m.shape == (2, 16, 40) and m.isfinite().all() for m in made)
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--actions swimming", r"--actions must be known to the model, got 'swimming'. Known: walk, jump"),
        ("--actions ,", r"--actions must name 1 to 256 actions, got 0"),
        ("--seconds 0", r"--seconds must lie in 0.1 to 600"),
        ("--seconds nan", r"--seconds must lie in"),
        ("--method sum", r"--method must be one of bethe, average, concat"),
        ("--method concat --loop", r"--method must be bethe or average with --loop"),
        ("--seed -1", r"--seed must lie in"),
        ("--steps 0", r"--steps must lie in 1 to 1000"),
        ("--guidance inf", r"--guidance must lie in"),
        ("--preview m.avi", r"write_preview: path must end in .gif or .mp4"),
        ("--model absent", r"--model must be a model of motion, got 'absent'"),
        ("--model {model}", r"--model must be a model of motion"),
    ],
)
def test_refusals_come_before_the_work(motion, tmp_path, words, said):
    code, out, err = motion("-o", "m.bvh", *words.split())
    assert (code, out) == (2, "") and said.replace("\\", "") in err and err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(motion, tmp_path):
    code, _, err = motion("-o", "none/m.bvh")
    assert code == 1 and "--output must be a file that can be written" in err
    code, _, err = motion("-o", "m.txt")
    assert code == 2 and "--output must end in .bvh or .npz" in err
    code, _, err = motion("-o", "m.bvh", "--preview", "none/m.gif")
    assert code == 1 and "--preview must be a file that can be written" in err
    assert os.listdir(tmp_path) == []


def test_pictures_refuse_models_of_motion(generate, moves):
    code, _, err = generate("-o", "a.png", "--model", moves)
    assert code == 2 and "not a model of pictures" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_an_interrupt_leaves_no_file(moves, tmp_path):
    words = ["generate", "motion", "-o", "m.bvh", "--model", moves, "--actions", "walk", "--seconds", "600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "intarsia.cli", *words, "--steps", "1000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"no partial file is left" in err
    assert os.listdir(tmp_path) == []
