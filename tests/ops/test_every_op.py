# SPDX-License-Identifier: Apache-2.0
"""What holds for every operator: empty work, NaN stays where it belongs, far memory, threads, forks."""

from __future__ import annotations

import inspect
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from calls import CALLS, Call, equal, far_apart, on
from intarsia import ops

each = pytest.mark.parametrize("call", CALLS, ids=str)
poisoned = pytest.mark.parametrize("call", [call for call in CALLS if call.poison], ids=str)


HELPERS = {"backends", "reason", "rope_frequencies", "rope_table", "use_backend"}


def test_every_operator_has_a_row():
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert {call.name.split()[0] for call in CALLS} == functions - HELPERS


@pytest.mark.parametrize(
    "call,name", [(call, name) for call in CALLS for name in call.empty], ids=lambda value: str(value)
)
def test_empty_work_is_legal(backend, poisoned_empty, call: Call, name: str):
    inputs = call.inputs(**{name: 0})
    with ops.use_backend("reference"):
        expected = call(inputs)
    for one, other in zip(call(on(backend.device, inputs)), expected, strict=True):
        torch.testing.assert_close(one.cpu(), other)
        assert bool(one.isfinite().all())


@poisoned
@pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning"
)  # the interpreter's, on inf - inf
def test_nan_reaches_only_what_depends_on_it(backend, call: Call):
    inputs = call.inputs(device=backend.device)
    name, where = call.poison
    clean = call(inputs)

    def with_values(values) -> tuple[torch.Tensor, ...]:
        changed = inputs[name].clone()
        changed[where] = values
        return call({**inputs, name: changed})

    depends = [torch.zeros_like(result, dtype=torch.bool) for result in clean]
    for _ in range(3):
        for mark, result, before in zip(
            depends, with_values(10 * torch.randn_like(inputs[name][where])), clean, strict=True
        ):
            mark |= result != before
    assert any(bool(mark.any()) for mark in depends) and not all(bool(mark.all()) for mark in depends)
    for bad in (float("nan"), float("inf")):
        for mark, result, before in zip(depends, with_values(bad), clean, strict=True):
            assert torch.equal(result[~mark], before[~mark])
            assert not bool(result[mark].isfinite().any())


@each
def test_inputs_far_apart_in_memory(call: Call):
    small = call.inputs(call.dtypes[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    far = {
        name: far_apart(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in small.items()
    }
    assert equal(call(far), call(small))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@each
@pytest.mark.parametrize("busy,calls", [(False, 3200), (True, 32)], ids=["small", "large"])
def test_sixteen_python_threads(threads, call: Call, busy: bool, calls: int):
    threads(2)
    inputs = call.inputs(busy=busy)
    expected = call(inputs)
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda _: equal(call(inputs), expected), range(calls)))


FORK = """
import os, signal, sys, threading, warnings
warnings.simplefilter("ignore")
import torch
from calls import CALLS
torch.set_num_threads(2)
torch.manual_seed(0)
inputs = [call.inputs(busy=True) for call in CALLS]
def work():
    # Compared as bytes: torch.equal itself would wait in the child for threads that are not there.
    return [[r.numpy().tobytes() for r in call(given)] for call, given in zip(CALLS, inputs)]
expected = work()
stop = threading.Event()
def busy():
    while not stop.is_set():
        work()
beside = threading.Thread(target=busy)
beside.start()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        wrong = [call.name for call, ours, right in zip(CALLS, work(), expected) if ours != right]
        print(*wrong, file=sys.stderr, flush=True)
        os._exit(len(wrong))
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
stop.set()
beside.join()
print(codes)
"""


FIRST = """
import threading, torch
from calls import CALLS, equal
torch.manual_seed(0)
inputs = [call.inputs() for call in CALLS]
together, results = threading.Barrier(16), []
def work(turn):
    together.wait()
    # Each begins with another operator, so that all are loaded and planned for the first time at once.
    for i in range(len(CALLS)):
        i = (i + turn) % len(CALLS)
        results.append((i, CALLS[i](inputs[i])))
threads = [threading.Thread(target=work, args=(turn,)) for turn in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
expected = [call(given) for call, given in zip(CALLS, inputs)]
print(len(results) == 16 * len(CALLS), all(equal(result, expected[i]) for i, result in results))
"""


def fresh(script: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [kept.get("PYTHONPATH")])])
    command = [sys.executable, "-c", script]
    environment = {**kept, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_forked_child_finishes_every_op():
    done = fresh(FORK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 0, 0]", done.stderr


def test_the_first_calls_of_a_process_may_come_from_sixteen_threads():
    done = fresh(FIRST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True True", done.stderr
