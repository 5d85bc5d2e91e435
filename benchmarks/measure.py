# SPDX-License-Identifier: Apache-2.0
"""One row: every candidate is checked against the float64 truth, then all are timed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import counting, floor, oracle
from benchmarks.suite import Call, Missing, Out, Peer, Problem, Target
from benchmarks.timing import Race, captured, race

__all__ = ["OURS", "WrongResult", "check", "measure"]

Row = dict[str, Any]
OURS = "intarsia"
CALLS_OF_A_GRAPH = 20


class WrongResult(AssertionError):
    """Our result does not agree with the float64 oracle: no time is taken."""


def _tensors(result: Any) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):
        return (result,)
    return tuple(result) if isinstance(result, (tuple, list)) else ()


def check(name: str, call: Call, problem: Problem, out: Out, form: str = "") -> float | None:
    """Return the relative error of a candidate, the largest of its results.

    Args:
        name: The candidate.
        call: What it does.
        problem: Knows the truth.
        out: The buffers that the call writes, filled with NaN before.
        form: "inplace" where `out` is the state that the call changes, which is restored before.

    Returns:
        The error, or None where the problem has no truth.

    Raises:
        WrongResult: If it is too large.
    """
    if form == "inplace":
        problem.state()
    elif out is not None:
        for buffer in _tensors(out):
            if buffer.is_floating_point():
                buffer.fill_(float("nan"))
    problem.begin(name)
    result = call()
    error = problem.error_of(name, _tensors(result))
    if error is None:
        return None
    mine = problem.tolerance or oracle.TOLERANCE[problem.out_dtype]
    theirs = problem.peer_tolerance or oracle.PEER_TOLERANCE[problem.out_dtype]
    allowed = mine if name == OURS else max(mine, theirs)
    if not error <= allowed:
        raise WrongResult(
            f"{problem.case.name}: {name} must agree with the oracle to {allowed:.0e}, got {error:.2e}. "
            "Nothing is timed before this is repaired."
        )
    return error


def measure(
    problem: Problem,
    *,
    mode: str,
    threads: int,
    slow: bool,
    rounds: int,
    round_seconds: float = 0.1,
    build_ours: Callable[[Any, Any], Call] | None = None,
) -> Row:
    """Check and time one row.

    Args:
        problem: The case, with its tensors.
        mode: "neutral", "default-fresh" (fresh results), "out" (reused ones); on CUDA "eager", "captured".
        threads: Intra-op threads.
        slow: Whether the slow formulations join.
        rounds: Quiet rounds wanted.
        round_seconds: Least duration of a round.
        build_ours: Our side (the tests pass a wrong one); None: the problem's own.

    Returns:
        The row, ready for JSON.

    Raises:
        WrongResult: If our result is wrong.
        Missing: If this version of the library lacks the op.
    """
    torch.set_num_threads(threads)
    case, cuda, form = problem.case, problem.device.type == "cuda", problem.case.form_in(mode)
    out = {"fresh": lambda: None, "out": problem.buffers, "inplace": problem.state}[form]()
    dtype = str(problem.dtype).removeprefix("torch.")
    row: Row = {"case": case.name, "dtype": dtype, "threads": threads, "mode": mode, "form": form}
    row |= {"device": problem.device.type, "errors": {}, "calls": {}, "left_out": {}}
    mine = problem.ours(out) if build_ours is None else build_ours(problem, out)
    runners: dict[str, Call] = {OURS: mine}
    row["errors"][OURS] = check(OURS, mine, problem, out, form)
    field = _field(problem, form, slow, threads, out, runners, row)
    if not case.heavy:
        for name, call in runners.items():
            if name not in field or not field[name].compiled:
                row["calls"][name] = counting.operator_calls(call)
        many = form != "fresh" and mode == "out"
        row |= counting.on_gpu(mine) if cuda else counting.on_cpu(mine, many=many)
    read_bytes, write_bytes = problem.traffic()
    row |= {"read_bytes": read_bytes, "write_bytes": write_bytes}
    runners |= floor.floors(read_bytes, write_bytes, problem.device)
    per_sample = CALLS_OF_A_GRAPH if mode == "captured" else 1
    if mode == "captured":
        runners = _capture(runners, row["left_out"], per_sample)
        field = {name: peer for name, peer in field.items() if name in runners}
    optional = tuple(name for name, peer in field.items() if not (peer.idiom or peer.aside))
    options = {"rounds": min(rounds, 3), "long": True} if case.heavy else {"rounds": rounds}
    times = race(runners, optional=optional, round_seconds=round_seconds, cuda=cuda, **options)
    _summarise(row, times, field, per_sample)
    row["figures"] = problem.figures(row)
    target = _target(problem, row)
    if target is not None:
        row["target"] = _verdict(row, target)
        row["stretch"] = target.stretch
    return row


def _field(
    problem: Problem, form: str, slow: bool, threads: int, out: Out, runners: dict[str, Call], row: Row
) -> dict[str, Peer]:
    """Build and check the peers; those that cannot run here, or are wrong, are left out with the reason."""
    field: dict[str, Peer] = {}
    wanted = [peer for peer in problem.peers() if form in peer.forms and (slow or not peer.slow)]
    if any(peer.compiled for peer in wanted):
        torch._dynamo.reset()
        torch._inductor.config.cpp.threads = threads
    for peer in wanted:
        try:
            call = peer.build(problem, out)
            known = (peer.name, form)
            if known not in problem.checked or peer.compiled:
                problem.checked[known] = check(peer.name, call, problem, out, form)
            row["errors"][peer.name] = problem.checked[known]
            field[peer.name], runners[peer.name] = peer, call
        except (ImportError, Missing, RuntimeError, WrongResult) as reason:
            row["left_out"][peer.name] = str(reason).splitlines()[0]
    return field


def _target(problem: Problem, row: Row) -> Target | None:
    """Return what is asked of the row: targets hold for the kernels' own mode unless they name another."""
    kernels = "captured" if row["device"] == "cuda" else "neutral"
    wanted = (row["device"], row["dtype"], row["threads"] if row["device"] == "cpu" else 1, row["mode"])
    return next(
        (t for t in problem.case.targets if (t.device, t.dtype, t.threads, t.mode or kernels) == wanted), None
    )


def _verdict(row: Row, target: Target) -> dict[str, dict[str, Any]]:
    """Return per wanted figure what was asked, what was reached, whether that is enough.

    For a ratio also what the floor would allow: no kernel is faster than its memory traffic (to about 15 %).
    """
    speed, mine = row.get("floor_factor"), row["ms"][OURS]
    reached = {
        "best": (target.best, row.get("ratio_best"), True),
        "idiom": (target.idiom, row.get("ratio_idiom"), True),
        "floor": (target.floor, row.get("floor_factor"), False),
        "max_us": (target.max_us, mine * 1e3, False),
        "error": (target.error, row["errors"].get(OURS), False),
        "launches": (target.launches, row.get("launches"), False),
    }
    for peer, must in target.versus:
        reached[peer] = (must, row["ratios"].get(peer), True)
    verdict: dict[str, dict[str, Any]] = {}
    for key, (must, got, upward) in reached.items():
        if must is not None:
            met = None if got is None else got >= must if upward else got <= must
            verdict[key] = {"must": must, "reached": got, "met": met}
            if upward and got is not None and speed is not None:
                verdict[key]["floor_allows"] = got * speed
    for key, must in target.figures:
        got, upward = row["figures"].get(key.removesuffix(" >=")), key.endswith(" >=")
        met = None if got is None else got >= must if upward else got <= must
        verdict[key] = {"must": must, "reached": got, "met": met}
    return verdict


def _capture(runners: dict[str, Call], left_out: dict[str, str], calls: int) -> dict[str, Call]:
    replays = {}
    for name, call in runners.items():
        try:
            replays[name] = captured(call, calls)
        except RuntimeError as reason:
            if name == OURS:
                raise
            left_out[name] = str(reason).splitlines()[0]
    return replays


def _summarise(row: Row, times: Race, field: dict[str, Peer], per_sample: int) -> None:
    milliseconds = {name: times.median(name) * 1e3 / per_sample for name in times.samples}
    grounds = {n: t for n, t in milliseconds.items() if n.startswith("floor")}
    row["ms"] = {n: t for n, t in milliseconds.items() if n not in grounds}
    row["fastest_ms"] = {name: min(seconds) * 1e3 / per_sample for name, seconds in times.samples.items()}
    row |= {"rounds": len(times.quiet), "quiet_rounds": times.quiet_rounds, "disturbed": times.disturbed}
    row["retired"] = times.retired
    mine = milliseconds[OURS]
    field = {name: peer for name, peer in field.items() if not peer.aside}
    row["ratios"] = {name: milliseconds[name] / mine for name in field}
    if grounds:
        row["floor"] = min(grounds, key=grounds.__getitem__)
        row["floor_ms"] = grounds[row["floor"]]
        row["floor_factor"] = mine / row["floor_ms"]
    listed = {n: milliseconds[n] for n, peer in field.items() if peer.listed}
    if listed:
        row["best"] = min(listed, key=listed.__getitem__)
        row["ratio_best"] = listed[row["best"]] / mine
    if field:
        row["strongest"] = min(field, key=milliseconds.__getitem__)
        row["ratio_strongest"] = milliseconds[row["strongest"]] / mine
    idioms = [milliseconds[n] for n, peer in field.items() if peer.idiom]
    if idioms:
        row["ratio_idiom"] = min(idioms) / mine
