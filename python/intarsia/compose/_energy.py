# SPDX-License-Identifier: Apache-2.0
"""The energy of a signed sum: the same sum of its denoisers' energies over their regions."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.compose._rows import Rows
from intarsia.compose.factor import Factor, name_of
from intarsia.guidance import Term
from intarsia.types import Cond, energy_of, with_energy


def why_no_energy(name: str, factors: tuple[Factor, ...], *, normalize: bool) -> str | None:
    """The reason why a composite has no energy, or None where it has one."""
    if normalize:
        return f"{name} divides by weights that vary, so it is the gradient of nothing"
    for number, factor in enumerate(factors):
        for weight in factor.regions.weights(factor.weight, dtype=torch.float64):
            if not all(bool((part == part.flatten()[0]).all()) for part in weight):
                return f"factor {number} of {name} weighs its elements differently"
        for leaf, _, _ in factor.terms:
            if energy_of(leaf) is None:
                return f"{name_of(leaf)} in factor {number} of {name} has none"
    return None


def summed(factors: tuple[Factor, ...], x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """Energy [B] float64 and estimate [B, C, *S] of a sum without normalisation."""
    energy = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    denoised = torch.zeros_like(x)
    for factor in factors:
        weights = factor.regions.weights(factor.weight, dtype=x.dtype, device=x.device)
        for (part, index), weight in zip(factor.regions.groups, weights, strict=True):
            level = 1.0
            for axis in weight:
                level *= float(axis.flatten()[0])
            patches = part.extract(x)
            for term in factor.terms:
                scale = (level * _scale(factor, term)[index]).to(x.device)
                values, estimates = _answers(factor, term, index, patches, sigma, cond)
                energy = energy + (values.double() * scale).sum(1)
                signed = scale.to(x.dtype)
                denoised = denoised + part.merge(
                    estimates, weight=_ones(weight), normalize=False, coefficient=signed, dtype=x.dtype
                )
    return energy, denoised


def _ones(weight: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.ones_like(part) for part in weight)


def _scale(factor: Factor, term: Term) -> Tensor:
    return factor.scale(term[2]).expand(factor.regions.num_regions)


def _answers(
    factor: Factor, term: Term, index: Tensor, patches: Tensor, sigma: Tensor, cond: Cond
) -> tuple[Tensor, Tensor]:
    """Energies [B, R] and estimates [B, R, C, *s] of one term."""
    leaf, override, _ = term
    samples, regions = patches.shape[:2]
    rows = Rows(index, factor.cond, [override], factor.max_batch)
    flat = patches.flatten(0, 1)
    values, estimates = [], []
    for start, stop, told in rows.batches(samples, cond, flat.device, keep=False):
        levels = sigma.index_select(0, torch.arange(start, stop, device=sigma.device) // regions)
        value, estimate = with_energy(leaf, flat[start:stop], levels, told)
        values.append(value)
        estimates.append(estimate)
    return torch.cat(values).reshape(samples, regions), torch.cat(estimates).reshape(patches.shape)
