# SPDX-License-Identifier: Apache-2.0
"""The steps of Hamiltonian Monte Carlo: any parts in one launch, and one more where energies are summed."""

import struct

import torch

import triton
import triton.language as tl

from ._launch import accumulator, check_grid, guard, narrow, power_of_two

__all__ = ["leapfrog", "metropolis_select"]

BLOCK = 1024
SUMMED = 256

REFRESH, LANGEVIN, ENERGY_BEFORE, KICK, HALF_KICK, DRIFT, ENERGY_AFTER = (1 << i for i in range(7))
SIGNED = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


@triton.jit
def _number(values, bits, sample, GIVEN: tl.constexpr, WORK: tl.constexpr):
    # Triton passes a Python float as fp32; an integer keeps all 64 bits.
    if GIVEN:
        return tl.load(values + sample).to(WORK)
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(WORK)


@triton.jit
def _root(value, WORK: tl.constexpr):
    if WORK == tl.float32:
        return tl.sqrt_rn(value)
    return tl.sqrt(value)


@triton.jit
def _over(value, by, WORK: tl.constexpr):
    if WORK == tl.float32:
        return tl.div_rn(value, by)
    return value / by


@triton.jit(do_not_specialize=["step_bits", "damping_bits", "mass_bits"])
def _leapfrog(
    position_out,  # [B, size], like all but the numbers and the mass
    momentum_out,
    refreshed_out,
    partial,  # [B, blocks] fp64
    position,
    momentum,
    gradient,
    noise,
    steps,  # [B]
    dampings,  # [B]
    masses,  # [B], or [1|B, size]
    step_bits,
    damping_bits,
    mass_bits,
    size,
    mass_stride,
    blocks,
    RENEWS: tl.constexpr,
    LANGEVIN: tl.constexpr,
    BEFORE: tl.constexpr,
    KICKS: tl.constexpr,
    HALF: tl.constexpr,
    DRIFTS: tl.constexpr,
    AFTER: tl.constexpr,
    STEPS: tl.constexpr,
    DAMPINGS: tl.constexpr,
    MASSES: tl.constexpr,
    ELEMENTS: tl.constexpr,
    WORK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    place = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    live = place < size
    at = sample * size + place

    step = _number(steps, step_bits, sample, STEPS, WORK)
    v = tl.load(momentum + at, mask=live, other=0).to(WORK)
    if ELEMENTS:
        mass = tl.load(masses + sample * mass_stride + place, mask=live, other=1).to(WORK)
    else:
        mass = _number(masses, mass_bits, sample, MASSES, WORK)
    if RENEWS:
        n = tl.load(noise + at, mask=live, other=0).to(WORK)
        if LANGEVIN:
            v += _root(2 * step, WORK) * n
        else:
            damping = _number(dampings, damping_bits, sample, DAMPINGS, WORK)
            spread = _root((1 - damping) * (1 + damping), WORK) * _root(mass, WORK)
            v = damping * v + spread * n
        if BEFORE:
            tl.store(refreshed_out + at, narrow(v, refreshed_out), mask=live)
    if BEFORE:
        q = _over(v, mass, WORK) if ELEMENTS else v
        energy = v.to(tl.float64) * q.to(tl.float64)
    if KICKS:
        kick = 0.5 * step if HALF else step
        v += kick * tl.load(gradient + at, mask=live, other=0).to(WORK)
    if AFTER:
        q = _over(v, mass, WORK) if ELEMENTS else v
        energy = v.to(tl.float64) * q.to(tl.float64)
    if KICKS or RENEWS:
        tl.store(momentum_out + at, narrow(v, momentum_out), mask=live)
    if DRIFTS:
        x = tl.load(position + at, mask=live, other=0).to(WORK)
        if ELEMENTS:
            x += _over(step * v, mass, WORK)
        else:
            x += _over(step, mass, WORK) * v
        tl.store(position_out + at, narrow(x, position_out), mask=live)
    if BEFORE or AFTER:
        # Outside the sample v is 0 and the mass is 1.
        tl.store(partial + program, tl.sum(energy, 0))


@triton.jit(do_not_specialize=["mass_bits"])
def _energies(
    out,  # [B] fp64
    partial,  # [B, blocks] fp64
    masses,  # [B]
    mass_bits,
    blocks,
    MASSES: tl.constexpr,
    ELEMENTS: tl.constexpr,
    WORK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.float64)
    start = blocks * 0
    while start < blocks:
        place = start + tl.arange(0, BLOCK)
        total += tl.load(partial + sample * blocks + place, mask=place < blocks, other=0)
        start += BLOCK
    energy = 0.5 * tl.sum(total, 0)
    if not ELEMENTS:
        energy = energy / _number(masses, mass_bits, sample, MASSES, WORK).to(tl.float64)
    tl.store(out + sample, energy)


def _split(number: float | torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, int, bool]:
    if isinstance(number, torch.Tensor):
        return number, 0, True
    return like, int(struct.unpack("<q", struct.pack("<d", number))[0]), False


def leapfrog(
    position_out: torch.Tensor | None,
    momentum_out: torch.Tensor | None,
    refreshed_out: torch.Tensor | None,
    energy_out: torch.Tensor | None,
    position: torch.Tensor | None,
    momentum: torch.Tensor,
    gradient: torch.Tensor | None,
    noise: torch.Tensor | None,
    step_size: float | torch.Tensor,
    damping: float | torch.Tensor,
    mass: float | torch.Tensor,
    parts: int,
) -> None:
    """Write what one pass of `parts` makes.

    Args:
        position_out: `[B, *s]` or None, contiguous like all others; perhaps the input of its name.
        momentum_out: `[B, *s]` or None.
        refreshed_out: `[B, *s]` or None.
        energy_out: `[B]` fp64 or None.
        position: `[B, *s]` or None.
        momentum: `[B, *s]`; under LANGEVIN the position.
        gradient: `[B, *s]` or None.
        noise: `[B, *s]` or None.
        step_size: a number or `[B]`.
        damping: a number or `[B]`.
        mass: a number, `[B]`, or `[1|B, *s]`.
        parts: what to do.
    """
    batch = momentum.shape[0]
    size = momentum.numel() // max(batch, 1)
    block = power_of_two(size, BLOCK)
    blocks = max(triton.cdiv(size, block), 1)
    elements = isinstance(mass, torch.Tensor) and mass.dim() > 1
    counts = energy_out is not None
    partial = torch.empty(batch * blocks if counts else 0, dtype=torch.float64, device=momentum.device)
    numbers = [_split(number, momentum) for number in (step_size, damping, mass)]
    tensors = (position_out, momentum_out, refreshed_out, partial, position, momentum, gradient, noise)
    grid = check_grid("leapfrog", batch * blocks)
    with guard(momentum):
        _leapfrog[grid](
            *(momentum if tensor is None else tensor for tensor in tensors),
            *(values for values, _, _ in numbers),
            *(bits for _, bits, _ in numbers),
            size,
            size if elements and mass.shape[0] > 1 else 0,
            blocks,
            RENEWS=bool(parts & (REFRESH | LANGEVIN)),
            LANGEVIN=bool(parts & LANGEVIN),
            BEFORE=bool(parts & ENERGY_BEFORE),
            KICKS=bool(parts & (KICK | HALF_KICK)),
            HALF=bool(parts & HALF_KICK),
            DRIFTS=bool(parts & DRIFT),
            AFTER=bool(parts & ENERGY_AFTER),
            STEPS=numbers[0][2],
            DAMPINGS=numbers[1][2],
            MASSES=numbers[2][2] and not elements,
            ELEMENTS=elements,
            WORK=accumulator(momentum.dtype),
            BLOCK=block,
            enable_fp_fusion=False,
        )
        if counts:
            masses, bits, given = numbers[2]
            _energies[(batch,)](
                energy_out,
                partial,
                masses,
                bits,
                blocks,
                MASSES=given and not elements,
                ELEMENTS=elements,
                WORK=accumulator(momentum.dtype),
                BLOCK=SUMMED,
                enable_fp_fusion=False,
            )


@triton.jit
def _decide(
    energy_out,  # [B], like all others
    kinetic_out,
    accepted,
    probability,
    current_energy,
    current_kinetic,
    proposed_energy,
    proposed_kinetic,
    uniform,
    batch,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = sample < batch
    old, new = tl.load(current_energy + sample, mask=live), tl.load(proposed_energy + sample, mask=live)
    old_kinetic = tl.load(current_kinetic + sample, mask=live)
    new_kinetic = tl.load(proposed_kinetic + sample, mask=live)
    before, after = old.to(tl.float64) + old_kinetic, new.to(tl.float64) + new_kinetic
    finite = (tl.abs(before) < float("inf")) & (tl.abs(after) < float("inf"))
    difference = tl.where(finite, before, 0.0) - tl.where(finite, after, 0.0)
    finite = finite & (tl.abs(difference) < float("inf"))
    chance = tl.exp(tl.where(finite & (difference < 0), difference, 0.0))
    chance = tl.where(finite, chance, 0.0)
    keep = tl.load(uniform + sample, mask=live).to(tl.float64) < chance
    tl.store(probability + sample, chance, mask=live)
    tl.store(accepted + sample, keep, mask=live)
    tl.store(energy_out + sample, tl.where(keep, new, old), mask=live)
    tl.store(kinetic_out + sample, tl.where(keep, new_kinetic, old_kinetic), mask=live)


@triton.jit
def _select(
    out,  # [B, size] integers, like the next two
    current,
    proposed,
    accepted,  # [B] bool
    size,
    blocks,
    SIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    place = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    live = place < size
    at = sample * size + place
    if tl.load(accepted + sample).to(tl.int1):
        value = tl.load(proposed + at, mask=live, other=0)
    else:
        value = tl.load(current + at, mask=live, other=0)
        if SIGN != 0:
            value = (value ^ SIGN).to(out.dtype.element_ty)
    tl.store(out + at, value, mask=live)


def metropolis_select(
    out: tuple[torch.Tensor | None, ...],
    accepted: torch.Tensor,
    probability: torch.Tensor,
    current: tuple[torch.Tensor | None, ...],
    proposed: tuple[torch.Tensor | None, ...],
    uniform: torch.Tensor,
) -> None:
    """Write the proposed state where it is accepted, else the current one with its momentum negated.

    Args:
        out: position `[B, *s]`, momentum or None, energy `[B]`, kinetic energy `[B]` fp64, gradient or None.
        accepted: `[B]` bool.
        probability: `[B]` fp64.
        current: the same as `out`.
        proposed: the same as `out`.
        uniform: `[B]`.
    """
    batch = accepted.shape[0]
    block = power_of_two(batch, SUMMED)
    with guard(accepted):
        energies = (current[2], current[3], proposed[2], proposed[3])
        grid = check_grid("metropolis_select", triton.cdiv(batch, block))
        _decide[grid](out[2], out[3], accepted, probability, *energies, uniform, batch, BLOCK=block)
        for member in (0, 1, 4):
            target = out[member]
            if target is None or target.numel() == 0:
                continue
            bits = SIGNED.get(target.dtype, torch.int64)
            size = target.numel() // batch
            block = power_of_two(size, BLOCK)
            blocks = triton.cdiv(size, block)
            tensors = (state[member].view(bits) for state in (out, current, proposed))
            sign = torch.iinfo(bits).min if member == 1 else 0
            grid = check_grid("metropolis_select", batch * blocks)
            _select[grid](*tensors, accepted, size, blocks, SIGN=sign, BLOCK=block)
