# SPDX-License-Identifier: Apache-2.0
"""The choice that ends a trajectory: per sample, the proposed state or the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intarsia.ops import _backend
from intarsia.ops._check import FLOATS, FOUR, fail
from intarsia.ops._leapfrog_check import check_per_sample, span
from intarsia.ops._library import bumped, choose, direct, register

__all__ = ["PhasePoint", "Selected", "metropolis_select"]

_NAME = "metropolis_select"


class PhasePoint(NamedTuple):
    """A place in phase space and what is known of it.

    Attributes:
        position: [B, *s].
        momentum: [B, *s], or None for a sampler that has none.
        energy: [B] float32 or float64, minus the log density up to a constant.
        kinetic_energy: [B] float64, or what stands in its place.
        gradient: [B, *s] of the log density at the position, or None where it is not kept.
    """

    position: Tensor
    momentum: Tensor | None
    energy: Tensor
    kinetic_energy: Tensor
    gradient: Tensor | None = None


class Selected(NamedTuple):
    """What `metropolis_select` returns.

    Attributes:
        point: the state that each sample goes on with.
        accepted: [B] bool.
        probability: [B] float64, the chance of acceptance.
    """

    point: PhasePoint
    accepted: Tensor
    probability: Tensor


def metropolis_select(
    current: PhasePoint, proposed: PhasePoint, uniform: Tensor, *, out: PhasePoint | Selected | None = None
) -> Selected:
    """Accept or reject every sample by itself, and select all of its state in one pass.

    p = min(1, exp(H(current) - H(proposed))), H = energy + kinetic_energy; accepted = uniform < p

    Args:
        current: State to return to, with the momentum that the trajectory began with after its refreshment.
            Tensors [B, *s] float16, bfloat16, float32 or float64; any axes s.
        proposed: State at the end of the trajectory, with the same members.
        uniform: [B] floating-point numbers in [0, 1).
        out: Where to write the selected state. Each of its tensors may be that of `proposed` or `current`,
            which is then only written where it differs: with `out=proposed` an accepted sample costs nothing.
            A `Selected` takes accepted and probability, too, so that nothing is allocated.

    Returns:
        A `Selected` of the state, accepted [B] bool and probability [B] float64. A rejected sample has the
        bits of `current`, its momentum negated.

    Raises:
        ValueError: If an argument has the wrong shape, dtype or device, or `out` shares memory it must not.

    Note:
        Nothing waits for the device. A difference of energies that is not finite rejects, so a chain has to
        begin where its energy is finite. Not differentiable: a state that requires grad is refused. For a
        Langevin proposal let `kinetic_energy` be minus the log of the density to go there: of `current` to
        `proposed` ||x' - x - h g||^2 / (4 h), which is `kinetic_energy(x' - x - h g, mass=2 * h)`, of
        `proposed` the way back.

    Source:
        Neal, "MCMC using Hamiltonian dynamics", 2011, equation 5.23; for the negated momentum Horowitz, "A
        generalized guided Monte Carlo algorithm", 1991.

    Example:
        >>> import torch
        >>> from intarsia import ops
        >>> one, zero = torch.ones(2, 1), torch.zeros(2, dtype=torch.float64)
        >>> current = ops.PhasePoint(one, one, torch.tensor([0.0, 0.0]), zero)
        >>> proposed = ops.PhasePoint(2 * one, 3 * one, torch.tensor([-1.0, 9.0]), zero)
        >>> selected = ops.metropolis_select(current, proposed, torch.tensor([0.5, 0.5]))
        >>> selected.accepted.tolist(), selected.point.position.tolist(), selected.point.momentum.tolist()
        ([True, False], [[2.0], [1.0]], [[3.0], [-1.0]])
    """
    _require_point("current", current)
    _require_point("proposed", proposed)
    tensors: tuple[Any, ...] = (*current, *proposed, uniform)
    if not all(tensor is None or isinstance(tensor, Tensor) for tensor in tensors):
        _check(tensors)
    if out is None:
        made = choose(_NAME, _select, *tensors)(*tensors)
        members, (accepted, probability) = iter(made[:-2]), made[-2:]
        chosen: list[Any] = [None if member is None else next(members) for member in proposed]
        point = PhasePoint(*chosen)
        return Selected(point, accepted, probability)
    given = None
    if isinstance(out, Selected):
        given, out = (out.accepted, out.probability), out.point
    _require_point("out", out)
    quick = getattr(_backend.chosen("cpu"), f"{_NAME}_if_plain", None)
    if quick is not None and direct():
        flags = given or _flags(uniform)
        if quick(out, *flags, current, proposed, uniform, torch.get_num_threads()):
            bumped(out if given is None else (*out, *given))
            return Selected(out, *flags)
    if given is None:
        return Selected(out, *choose(f"{_NAME}_out", _select_out, *tensors, *out)(*tensors, *out))
    if not all(isinstance(flag, Tensor) for flag in given):
        _check_flags(given, out, tensors)
    written = (*tensors, *out, *given)
    choose(f"{_NAME}_reuse", _select_reuse, *written)(*written)
    return Selected(out, *given)


def _require_point(argument: str, state: object) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
        remedy = "Make an ops.PhasePoint of position, momentum, energy, kinetic_energy and gradient."
        fail(_NAME, argument, "be a PhasePoint", type(state).__name__, remedy)


def _check(tensors: Sequence[Any]) -> None:
    current, proposed, uniform = PhasePoint(*tensors[:5]), PhasePoint(*tensors[5:10]), tensors[10]
    like = proposed.position
    if not isinstance(like, Tensor) or like.dtype not in FLOATS or like.dim() < 2:
        got = f"{like.dtype} {list(like.shape)}" if isinstance(like, Tensor) else type(like).__name__
        fail(_NAME, "proposed", f"have a position [B, *s] to {FOUR}", got, "Convert it with .float().")
    if not isinstance(proposed.energy, Tensor) or proposed.energy.dtype not in FLOATS[::3]:
        got = getattr(proposed.energy, "dtype", type(proposed.energy).__name__)
        fail(_NAME, "proposed", "have an energy of float32 or float64", got, "Convert it with .double().")
    for argument, state in (("current", current), ("proposed", proposed)):
        _check_state(argument, state, like, proposed)
    if not isinstance(uniform, Tensor):
        fail(_NAME, "uniform", "be a tensor [B]", type(uniform).__name__, "Draw it with torch.rand.")
    check_per_sample(_NAME, "uniform", uniform, like)
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                got, remedy = "a tensor that requires grad", "Detach it, or run under torch.no_grad()."
                fail(_NAME, "states", "not require grad, as a choice has no derivative", got, remedy)


def _check_state(argument: str, state: PhasePoint, like: Tensor, proposed: PhasePoint) -> None:
    for field, tensor, other in zip(PhasePoint._fields, state, proposed, strict=True):
        if tensor is None and other is None and field in ("momentum", "gradient"):
            continue
        energy, kinetic = field == "energy", field == "kinetic_energy"
        shape = like.shape[:1] if energy or kinetic else like.shape
        dtype = proposed.energy.dtype if energy else torch.float64 if kinetic else like.dtype
        wanted = f"have {field} {dtype} {list(shape)} on {like.device}"
        if not isinstance(tensor, Tensor) or other is None:
            got = "None" if tensor is None else f"a {type(tensor).__name__} and None in proposed"
            fail(_NAME, argument, wanted, got, "Give both states the same members.")
        if tensor.shape != shape or tensor.dtype is not dtype or tensor.device != like.device:
            got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            fail(_NAME, argument, wanted, got, "Give both states tensors of one kind.")
        if tensor.layout is not torch.strided:
            fail(_NAME, argument, f"have a dense {field}", tensor.layout, "Call .to_dense() first.")


def _check_out(out: PhasePoint, tensors: Sequence[Any]) -> None:
    proposed = PhasePoint(*tensors[5:10])
    _check_state("out", out, proposed.position, proposed)
    spans = [None if tensor is None else span(tensor) for tensor in tensors]
    before: list[tuple[int, int, bool]] = []
    for index, tensor in enumerate(out):
        if tensor is None:
            continue
        if not tensor.is_contiguous():
            fail(_NAME, "out", "be contiguous", f"strides {tensor.stride()}", "Write a dense one and copy.")
        if torch.is_grad_enabled() and tensor.requires_grad:
            fail(_NAME, "out", "not require grad", "one that does", "Run under torch.no_grad().")
        here = span(tensor)
        own = [place for place in (index, index + 5) if spans[place] == here]
        for place, there in enumerate((*spans, *before)):
            if there and place not in own and here[0] < there[1] and there[0] < here[1]:
                wanted = "be a tensor of proposed or current with the same name, or apart from all others"
                fail(_NAME, "out", wanted, "memory shared with another", "Allocate it apart.")
        before.append(here)


def _check_flags(flags: tuple[Tensor, Tensor], out: Sequence[Any], tensors: Sequence[Any]) -> None:
    like = tensors[10]
    for name, dtype, tensor in zip(Selected._fields[1:], (torch.bool, torch.float64), flags, strict=True):
        wanted = f"have {name} {dtype} [{like.shape[0]}] on {like.device}, contiguous"
        if not isinstance(tensor, Tensor):
            fail(_NAME, "out", wanted, type(tensor).__name__, "Pass what an earlier call returned.")
        right = tensor.shape == like.shape[:1] and tensor.dtype is dtype and tensor.device == like.device
        if not right or not tensor.is_contiguous():
            got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}, strides {tensor.stride()}"
            fail(_NAME, "out", wanted, got, "Pass what an earlier call returned.")
        here = span(tensor)
        others = (*tensors, *out, flags[0] if tensor is flags[1] else flags[1])
        for other in others:
            there = span(other) if isinstance(other, Tensor) else None
            if there and here[0] < there[1] and there[0] < here[1]:
                wanted = f"have {name} apart from all other tensors"
                fail(_NAME, "out", wanted, "memory shared with another", "Allocate it apart.")


def _flags(like: Tensor) -> tuple[Tensor, Tensor]:
    batch, device = like.shape[0], like.device
    return torch.empty(batch, dtype=torch.bool, device=device), torch.empty(
        batch, dtype=torch.float64, device=device
    )


def _write(out: Sequence[Any], flags: tuple[Tensor, Tensor], tensors: Sequence[Any]) -> None:
    if flags[0].shape[0]:
        dense = [None if tensor is None else tensor.contiguous() for tensor in tensors]
        select = _backend.select(flags[0].device).metropolis_select
        select(tuple(out), *flags, tuple(dense[:5]), tuple(dense[5:10]), dense[10])


def _select(*tensors: Any) -> list[Tensor]:
    _check(tensors)
    out = [None if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors[5:10]]
    flags = _flags(tensors[5])
    _write(out, flags, tensors)
    return [*(tensor for tensor in out if tensor is not None), *flags]


def _fake(*tensors: Any) -> list[Tensor]:
    _check(tensors)
    states = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors[5:10] if t is not None]
    return [*states, *_flags(tensors[5])]


def _select_out(*tensors: Any) -> tuple[Tensor, Tensor]:
    flags = _flags(tensors[5])
    _into(tensors[:11], PhasePoint(*tensors[11:]), flags)
    return flags


def _select_reuse(*tensors: Any) -> None:
    given, out, flags = tensors[:11], PhasePoint(*tensors[11:16]), (tensors[16], tensors[17])
    _check(given)
    _check_flags(flags, out, given)
    _into(given, out, flags)
    bumped(flags)


def _into(given: Sequence[Any], out: PhasePoint, flags: tuple[Tensor, Tensor]) -> None:
    _check(given)
    _check_out(out, given)
    _write(out, flags, given)
    bumped(out)


def _fake_out(*tensors: Any) -> tuple[Tensor, Tensor]:
    _check(tensors[:11])
    return _flags(tensors[5])


def _fake_reuse(*tensors: Any) -> None:
    _check(tensors[:11])


def _members(suffix: str) -> str:
    kinds = ("Tensor", "Tensor?", "Tensor", "Tensor", "Tensor?")
    pairs = zip(kinds, PhasePoint._fields, strict=True)
    return ", ".join(f"{kind} {suffix}_{field}" for kind, field in pairs)


_ARGUMENTS = f"{_members('current')}, {_members('proposed')}, Tensor uniform"
_OUT = (
    "Tensor(a!) position, Tensor(b!)? momentum, Tensor(c!) energy, Tensor(d!) kinetic_energy, "
    "Tensor(e!)? gradient"
)
register(_NAME, f"({_ARGUMENTS}) -> Tensor[]", _select, _fake)
register(f"{_NAME}_out", f"({_ARGUMENTS}, {_OUT}) -> (Tensor, Tensor)", _select_out, _fake_out)
_FLAGS = "Tensor(f!) accepted, Tensor(g!) probability"
register(f"{_NAME}_reuse", f"({_ARGUMENTS}, {_OUT}, {_FLAGS}) -> ()", _select_reuse, _fake_reuse)
