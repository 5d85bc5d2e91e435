# SPDX-License-Identifier: Apache-2.0
"""What a call does beside taking time: operator calls, launches, allocations, page faults."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.suite import Call

__all__ = ["on_cpu", "on_gpu", "operator_calls"]


class _Counter(TorchDispatchMode):
    """Counts the operator calls that are not mere views."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += not getattr(func, "is_view", False)
        return func(*args, **(kwargs or {}))


def operator_calls(call: Call) -> int:
    """Return how many operators of torch one call goes through, mere views left out."""
    with _Counter() as counter:
        call()
    return counter.calls


def on_cpu(call: Call, *, many: bool, warm: bool = True) -> dict[str, Any]:
    """Return the page faults of a call, the most bytes it holds at once, and what it allocates.

    Args:
        call: What to look at.
        many: Whether to look at 100 calls (a third of a second at most), and not at one.
        warm: Whether to call it before; without, what the first call keeps counts as held.

    Returns:
        `page_faults` (about none in neutral mode), `peak_bytes`, and `allocations` where `many` is set.
    """
    figures: dict[str, Any] = {"page_faults": _page_faults(call)} if warm else {}
    calls, began = 1, time.perf_counter()
    if many:
        call()
        calls = min(100, max(3, int(0.3 / (time.perf_counter() - began))))
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as found:
        for _ in range(calls):
            call()
    held = peak = 0
    changes = _changes(found)
    for change in changes:
        held += change
        peak = max(peak, held)
    figures["peak_bytes"] = peak
    if many:
        sizes = [change for change in changes if change > 0]
        figures["allocations"] = {
            "calls": calls, "per_call": len(sizes) / calls, "bytes_per_call": sum(sizes) / calls
        }  # fmt: skip
    return figures


def _changes(found: torch.profiler.profile) -> list[int]:
    """Return the bytes of every allocation, and less than zero of every release, in order.

    The profiler's summary adds up what happens inside an operator; its raw events do not.
    """
    raw = found.profiler.kineto_results.events() if found.profiler is not None else []
    memory = [event for event in raw if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns())]


def on_gpu(call: Call) -> dict[str, Any]:
    """Return the kernel launches of one call and the most memory it holds beyond what is held already."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    launches = sum(str(event.device_type).endswith("CUDA") for event in found.events() or [])
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    return {"launches": launches, "peak_bytes": torch.cuda.max_memory_allocated() - held}


def _page_faults(call: Call, calls: int = 3) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls
