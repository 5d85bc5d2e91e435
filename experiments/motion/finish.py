# SPDX-License-Identifier: Apache-2.0
"""Second part of the training of `moves`: the same run goes on at lower noise levels.

Usage: python experiments/motion/finish.py --data cmu_motion_30fps.npz --run RUN --output FINISHED

What trembles in a motion is settled at noise levels that the first part (ln sigma about -1.2) seldom draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from intarsia.media.motion import read_clips
from intarsia.training import MotionClips, MotionTraining
from intarsia.training.motion import _MotionRun

SETTINGS = MotionTraining(
    iterations=600,
    learning_rate=4e-4,
    warmup=30,
    decay=0.7,
    log_sigma=(-2.3, 1.4),
    seed=1,
    checkpoint_every=250,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--run", "--output"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    clips = MotionClips([(c.motion, c.action, c.held) for c in read_clips(arguments.data)])
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    run = _MotionRun(clips, output, SETTINGS)
    if not run.checkpoint.exists():
        state = torch.load(Path(arguments.run) / "checkpoint.pt", weights_only=True)
        run.denoiser.load_state_dict(state["average"])
        run.average.module.load_state_dict(state["average"])
        run.average.updates = 10**4
    run.complete(resume=True, progress=False)


if __name__ == "__main__":
    main()
