# SPDX-License-Identifier: Apache-2.0
"""What importing changes (nothing), and forks after parallel work (they finish)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch


def run(script, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=120)


IMPORT = """
import logging, os, random, sys, threading, time, warnings
import torch
state = lambda: (
    torch.get_rng_state().tolist(), random.getstate(), dict(os.environ), logging.root.handlers[:],
    logging.root.level, torch.get_num_threads(), threading.active_count(), list(warnings.filters),
)
before, start = state(), time.process_time()
import intarsia.ops
took = time.process_time() - start
assert state() == before, "importing changed the process"
assert not torch.cuda.is_initialized() and "triton" not in sys.modules and "intarsia._C" not in sys.modules
intarsia.ops.backends()["cpu"]
canvas = torch.zeros(1, 1, 4)
intarsia.ops.extract_patches(canvas, offsets=[[0]], size=(2,))
assert not torch.cuda.is_initialized()
print(took)
"""


def test_importing_is_harmless(tmp_path):
    done = run(IMPORT, HOME=str(tmp_path), INTARSIA_BACKEND="reference")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5


FORK = """
import os, signal, sys, threading, torch
from intarsia import ops
torch.set_num_threads(2)
torch.manual_seed(0)
offsets = [[i, j] for i in range(0, 200, 25) for j in range(0, 200, 25)]
canvas = torch.randn(1, 8, 239, 239)
weight = ops.gaussian_weights((64, 64))
def work():
    # Compared as bytes: torch.equal itself would wait in the child for threads that are not there.
    patches = ops.extract_patches(canvas, offsets=offsets, size=(64, 64))
    return ops.scatter_average(patches, offsets=offsets, size=(239, 239), weight=weight).numpy().tobytes()
expected = work()
stop = threading.Event()
def busy():
    while not stop.is_set():
        work()
beside = threading.Thread(target=busy)
beside.start()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if work() == expected else 1)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
stop.set()
beside.join()
assert work() == expected
print(codes)
"""


def test_a_forked_child_finishes_with_the_same_bits():
    done = run(FORK.replace("import os", "import warnings; warnings.simplefilter('ignore'); import os", 1))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 0, 0, 0]"


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_of_a_data_loader_finish(threads):
    from torch.utils.data import DataLoader

    threads(2)
    Strips()[0]
    batches = list(DataLoader(Strips(), batch_size=2, num_workers=2, timeout=60))
    assert len(batches) == 3 and all(torch.equal(batch[0], Strips()[0]) for batch in batches)


class Strips(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        from intarsia import ops

        patches = torch.ones(1, 3, 64, 4096)
        weight = (torch.ones(4096),)
        return ops.scatter_average(patches, offsets=[[0], [2048], [4096]], weight=weight, size=(8192,))
