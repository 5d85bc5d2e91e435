# SPDX-License-Identifier: Apache-2.0
"""One process of a run: checks, then times, the rows of one allocator setting; one JSON line per row."""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import floor, oracle, ours, peers
from benchmarks.cases import Case, Target, select
from benchmarks.problem import Problem, build
from benchmarks.timing import Race, captured, race

__all__ = ["WrongResult", "check", "main", "measure"]

Row = dict[str, Any]
OURS = "intarsia"


class WrongResult(AssertionError):
    """Our result does not agree with the float64 oracle: no time is taken."""


class _Counter(TorchDispatchMode):
    """Counts the operator calls that are not mere views."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += not getattr(func, "is_view", False)
        return func(*args, **(kwargs or {}))


def check(name: str, call: Callable[[], object], problem: Problem, out: Tensor | None) -> float | None:
    """Return the relative error of a candidate against the oracle; raise WrongResult if too large."""
    if problem.truth is None:
        call()
        return None
    if out is not None:
        out.fill_(float("nan"))
    result = call()
    assert isinstance(result, Tensor)
    error = oracle.relative_error(result, problem.truth)
    allowed = (oracle.TOLERANCE if name == OURS else oracle.PEER_TOLERANCE)[problem.out_dtype]
    if not error <= allowed:
        raise WrongResult(
            f"{problem.case.name}: {name} must agree with the oracle to {allowed:.0e}, got {error:.2e}. "
            "Nothing is timed before this is repaired."
        )
    return error


def _allocations(call: Callable[[], object]) -> dict[str, float]:
    """Return what one call allocates, over 100 calls or a third of a second."""
    began = time.perf_counter()
    call()
    calls = min(100, max(3, int(0.3 / (time.perf_counter() - began))))
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as found:
        for _ in range(calls):
            call()
    events = found.events() or []
    sizes = [e.cpu_memory_usage for e in events if e.name == "[memory]" and e.cpu_memory_usage > 0]
    return {"calls": calls, "per_call": len(sizes) / calls, "bytes_per_call": sum(sizes) / calls}


def _on_gpu(call: Callable[[], object]) -> Row:
    """Return the kernel launches of one call and the most memory it holds beyond what is held already."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    launches = sum(str(event.device_type).endswith("CUDA") for event in found.events() or [])
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    return {"launches": launches, "peak_bytes": torch.cuda.max_memory_allocated() - held}


def _page_faults(call: Callable[[], object], calls: int = 3) -> float:
    """Return the page faults per call: about none in neutral mode, many where large results are fresh."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls


def _target(case: Case, device: str, dtype: str, threads: int, mode: str) -> Target | None:
    if mode not in ("neutral", "captured"):
        return None
    wanted = (device, dtype, threads if device == "cpu" else 1)
    return next((t for t in case.targets if (t.device, t.dtype, t.threads) == wanted), None)


def _verdict(row: Row, target: Target) -> dict[str, dict[str, Any]]:
    """Return per wanted figure what was asked, what was reached, whether that is enough.

    For a ratio also what the floor would allow: no kernel is faster than its memory traffic (to about 15 %).
    """
    speed = row.get("floor_factor")
    reached = {
        "best": (target.best, row.get("ratio_best"), True),
        "idiom": (target.idiom, row.get("ratio_idiom"), True),
        "floor": (target.floor, row.get("floor_factor"), False),
        "max_us": (target.max_us, row["ms"][OURS] * 1e3, False),
        "error": (target.error, row["errors"].get(OURS), False),
    }
    verdict: dict[str, dict[str, Any]] = {}
    for key, (must, got, upward) in reached.items():
        if must is not None:
            met = None if got is None else got >= must if upward else got <= must
            verdict[key] = {"must": must, "reached": got, "met": met}
            if upward and got is not None and speed is not None:
                verdict[key]["floor_allows"] = got * speed
    return verdict


def measure(
    problem: Problem,
    *,
    mode: str,
    threads: int,
    slow: bool,
    rounds: int,
    round_seconds: float = 0.1,
    build_ours: Callable[[Problem, Tensor | None], Callable[[], object]] = ours.build,
) -> Row:
    """Check and time one row.

    Args:
        problem: The case, with its tensors.
        mode: "neutral", "default-fresh" (fresh results), "out" (reused ones); on CUDA "eager", "captured".
        threads: Intra-op threads.
        slow: Whether the slow formulations join.
        rounds: Quiet rounds wanted.
        round_seconds: Least duration of a round.
        build_ours: Our side (the tests pass a wrong one).

    Returns:
        The row, ready for JSON.

    Raises:
        WrongResult: If our result is wrong.
    """
    torch.set_num_threads(threads)
    case, cuda = problem.case, problem.device.type == "cuda"
    dtype = str(problem.dtype).removeprefix("torch.")
    out = None
    if mode in ("out", "captured") and case.op not in ("plan", "weights"):
        out = torch.empty(problem.out_shape(), dtype=problem.out_dtype, device=problem.device)
    row: Row = {"case": case.name, "op": case.op, "dtype": dtype, "threads": threads, "mode": mode}
    row |= {"device": problem.device.type, "errors": {}, "calls": {}, "left_out": {}}
    runners: dict[str, Callable[[], object]] = {OURS: build_ours(problem, out)}
    row["errors"][OURS] = check(OURS, runners[OURS], problem, out)
    field: dict[str, peers.Peer] = {}
    for peer in peers.candidates(problem, slow=slow):
        try:
            runners[peer.name] = peer.build(problem, out)
            known = (peer.name, out is None)
            if known not in problem.checked:
                problem.checked[known] = check(peer.name, runners[peer.name], problem, out)
            row["errors"][peer.name] = problem.checked[known]
            field[peer.name] = peer
        except (ImportError, RuntimeError, WrongResult) as reason:
            runners.pop(peer.name, None)
            row["left_out"][peer.name] = str(reason).splitlines()[0]
    for name, call in runners.items():
        if name != "torch.compile":
            with _Counter() as counter:
                call()
            row["calls"][name] = counter.calls
    if mode == "out" and not cuda:
        row["allocations"] = _allocations(runners[OURS])
    row |= _on_gpu(runners[OURS]) if cuda else {"page_faults": _page_faults(runners[OURS])}
    read_bytes, write_bytes = case.traffic(dtype)
    row |= {"read_bytes": read_bytes, "write_bytes": write_bytes}
    runners |= floor.floors(read_bytes, write_bytes, problem.device)
    per_sample = 20 if mode == "captured" else 1
    if mode == "captured":
        runners = _capture(runners, row["left_out"], per_sample)
        field = {name: peer for name, peer in field.items() if name in runners}
    optional = tuple(name for name, peer in field.items() if not peer.idiom)
    times = race(runners, optional=optional, rounds=rounds, round_seconds=round_seconds, cuda=cuda)
    _summarise(row, times, field, per_sample)
    target = _target(case, problem.device.type, dtype, threads, mode)
    if target is not None:
        row["target"] = _verdict(row, target)
        row["stretch"] = target.stretch
    return row


def _capture(
    runners: dict[str, Callable[[], object]], left_out: dict[str, str], calls: int
) -> dict[str, Callable[[], object]]:
    replays = {}
    for name, call in runners.items():
        try:
            replays[name] = captured(call, calls)
        except RuntimeError as reason:
            if name == OURS:
                raise
            left_out[name] = str(reason).splitlines()[0]
    return replays


def _summarise(row: Row, times: Race, field: dict[str, peers.Peer], per_sample: int) -> None:
    milliseconds = {name: times.median(name) * 1e3 / per_sample for name in times.samples}
    grounds = {n: t for n, t in milliseconds.items() if n.startswith("floor")}
    row["ms"] = {n: t for n, t in milliseconds.items() if n not in grounds}
    row["fastest_ms"] = {name: min(seconds) * 1e3 / per_sample for name, seconds in times.samples.items()}
    row |= {"rounds": len(times.quiet), "quiet_rounds": times.quiet_rounds, "disturbed": times.disturbed}
    row["retired"] = times.retired
    mine = milliseconds[OURS]
    if grounds:
        row["floor"] = min(grounds, key=grounds.__getitem__)
        row["floor_ms"] = grounds[row["floor"]]
        row["floor_factor"] = mine / row["floor_ms"]
    listed = {n: milliseconds[n] for n, peer in field.items() if peer.listed}
    if listed:
        row["best"] = min(listed, key=listed.__getitem__)
        row["ratio_best"] = listed[row["best"]] / mine
        strongest = min(field, key=milliseconds.__getitem__)
        row["strongest"] = strongest
        row["ratio_strongest"] = milliseconds[strongest] / mine
    idioms = [milliseconds[n] for n, peer in field.items() if peer.idiom]
    if idioms:
        row["ratio_idiom"] = min(idioms) / mine


def main(argument: str) -> None:
    """Run the rows a JSON object describes; print one JSON line per row. A wrong result is a row, too."""
    spec = json.loads(argument)
    device = torch.device(spec["device"])
    # The allocator keeps what it is given back: touched here once, it costs the first rows nothing.
    torch.ones(spec.get("kept_bytes", 0), dtype=torch.uint8)
    for case in select(spec["only"], spec["device"], spec["quick"]):
        if case.op == "sliding" and importlib.util.find_spec("monai") is None:
            continue
        for dtype in [d for d in case.dtypes if d in spec["dtypes"] or len(case.dtypes) == 1]:
            problem: Problem | None = None
            for mode in spec["modes"]:
                for threads in spec["threads"]:
                    row: Row = {"case": case.name, "dtype": dtype, "threads": threads, "mode": mode}
                    if case.op in ("plan", "weights") and (
                        mode != "neutral" or threads != spec["threads"][0]
                    ):
                        continue
                    if time.time() > spec["deadline"]:
                        print(json.dumps(row | {"skipped": "the time budget was spent"}), flush=True)
                        continue
                    problem = problem or build(case, dtype, device)
                    slow = not spec["quick"] and mode in ("neutral", "captured")
                    try:
                        row = measure(problem, mode=mode, threads=threads, slow=slow, rounds=spec["rounds"])
                    except WrongResult as reason:
                        row["refused"] = str(reason)
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
