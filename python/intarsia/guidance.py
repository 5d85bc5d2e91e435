# SPDX-License-Identifier: Apache-2.0
"""Guidance: signed sums of one network's answers to several conditions, with coefficients that sum to one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from intarsia.types import (
    Cond,
    Denoiser,
    broadcast_cond,
    cat_cond,
    energy_of,
    override_cond,
    same_structure,
    sizes_of,
    with_energy,
)

__all__ = ["CFG", "Native", "Rescale", "Term", "evaluate", "flatten", "native", "process_of"]

Term: TypeAlias = tuple[Denoiser, Cond, float | Tensor]
"""(denoiser, what overrides the run's condition, coefficient: a number, or [R] inside a Factor)."""


@dataclass(frozen=True, eq=False)
class CFG:
    """Classifier-free guidance, `D = D(uncond) + scale * (D(cond) - D(uncond))`.

    Attributes:
        denoiser: the denoiser that is guided; itself linear in its terms, if it has any.
        uncond: the null condition. A dict overrides the run's keys and keeps the others, such as the place of
            a region; anything else, None included, replaces the run's condition as a whole. Its tensors have
            a leading axis of 1, or B (R inside a Factor).
        scale: 1 is the plain conditional denoiser, 0 the unconditional one (each costs one evaluation, not
            two). [R], one per region, inside a Factor only.

    Raises:
        ValueError: a scale that is not finite or requires grad, or a tensor that is not rank 1.

    Note:
        Linear: a Factor flattens `terms` into its own batch, and the sum is taken where regions meet.
        Both conditions go through the network in one batch wherever their trees match; otherwise
        in two calls.

    Source:
        Ho and Salimans 2022, "Classifier-free diffusion guidance", equation 6 with scale = 1 + w.

    Example:
        >>> net = lambda x, sigma, cond: x * cond["gain"].reshape(-1, 1, 1)
        >>> D = CFG(net, uncond={"gain": torch.zeros(1)}, scale=3.0)
        >>> D(torch.ones(1, 1, 2), torch.ones(1), {"gain": torch.ones(1)})
        tensor([[[3., 3.]]])
    """

    denoiser: Denoiser
    uncond: Cond
    scale: float | Tensor

    def __post_init__(self) -> None:
        scale = torch.as_tensor(self.scale)
        if scale.ndim > 1 or not scale.numel():
            raise ValueError(
                f"CFG: scale must be a number or have shape [R], got {list(scale.shape)}. "
                "Inside a Factor give one scale for each region."
            )
        if scale.requires_grad:
            raise ValueError(
                "CFG: scale must not require grad, got a tensor that does. "
                "Detach it; gradients reach the networks, not the scale."
            )
        if scale.ndim:
            object.__setattr__(self, "scale", scale)
        if not torch.isfinite(scale).all():
            raise ValueError(f"CFG: scale must be finite, got {self.scale}. Usual scales are 1 to 15.")

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the guided denoiser."""
        return sizes_of(self.denoiser)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The signed sum: (denoiser, condition that overrides the run's, coefficient) of each term.

        The coefficients sum to one. A term whose coefficient is the number 0 is left out.
        """
        if isinstance(self.scale, Tensor) and self.scale.ndim:
            return (self.denoiser, {}, self.scale), (self.denoiser, self.uncond, 1 - self.scale)
        scale = float(self.scale)
        both: tuple[Term, ...] = (self.denoiser, {}, scale), (self.denoiser, self.uncond, 1.0 - scale)
        return tuple(term for term in both if term[2] != 0)

    @property
    def native(self) -> Denoiser:
        """The same sum of the networks' own outputs; a leaf without `native` makes it an AttributeError."""
        return native(self)

    @property
    def energy(self) -> Callable[..., Tensor]:
        """The same sum of the network's energies; an AttributeError where it has none."""
        if energy_of(self.denoiser) is None:
            raise AttributeError(f"{type(self.denoiser).__name__} has no energy")

        def total(x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
            value = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
            for leaf, over, scale in self.terms:
                _refuse_regional(scale)
                value = value + scale * with_energy(leaf, x, sigma, override_cond(cond, over))[0]
            return value

        return total

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the guided estimate [B, C, *S] at `x` [B, C, *S] and noise levels `sigma` [B].

        Raises:
            ValueError: `scale` is [R], which has no meaning outside a Factor.
        """
        terms = flatten(self)
        for _, _, coefficient in terms:
            _refuse_regional(coefficient)
        parts = evaluate(terms, x, sigma, cond)
        return _combine(parts, [float(coefficient) for _, _, coefficient in terms])


@dataclass(frozen=True, eq=False)
class Rescale:
    """Guidance whose contrast is pulled back to that of the conditional estimate.

    `D = phi * D_cfg * std(D_cond) / std(D_cfg) + (1 - phi) * D_cfg`, std over each sample's elements.
    Not linear, so a Factor does not look into it.

    Attributes:
        cfg: the guidance to pull back; its scale is a number.
        phi: 0 leaves it as it is, 1 matches the standard deviation.

    Raises:
        ValueError: `phi` is outside 0 to 1, or `cfg.scale` is not a number.

    Note:
        As a Factor's denoiser it acts on every region on its own.

    Source:
        Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", equations 14 to 16.

    Example:
        >>> net = lambda x, sigma, cond: x * cond["gain"].reshape(-1, 1, 1)
        >>> D = Rescale(CFG(net, uncond={"gain": torch.zeros(1)}, scale=3.0), phi=1.0)
        >>> D(torch.tensor([[[1.0, 2.0]]]), torch.ones(1), {"gain": torch.ones(1)})
        tensor([[[1., 2.]]])
    """

    cfg: CFG
    phi: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise ValueError(f"Rescale: phi must be within 0 and 1, got {self.phi}. The paper uses 0.7.")
        _refuse_regional(self.cfg.scale)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the guided denoiser."""
        return self.cfg.sizes

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the rescaled estimate [B, C, *S] at `x` [B, C, *S] and noise levels `sigma` [B]."""
        terms: tuple[Term, ...] = (
            (self.cfg.denoiser, {}, 1.0),
            (self.cfg.denoiser, self.cfg.uncond, 0.0),
        )
        positive, negative = evaluate(terms, x, sigma, cond)
        scale = float(self.cfg.scale)
        guided = _combine([positive, negative], [scale, 1 - scale])
        axes = tuple(range(1, x.ndim))
        ratio = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp_min(1e-12)
        return guided * (self.phi * ratio + (1 - self.phi))


@dataclass(frozen=True, eq=False)
class Native:
    """A leaf's `native(x, t, cond)` in the place of its call, so that all that sums denoisers sums it.

    Attributes:
        leaf: a denoiser that offers `native`.

    Example:
        >>> class Leaf:
        ...     def native(self, x, t, cond=None):
        ...         return x + t.reshape(-1, 1, 1)
        >>> Native(Leaf())(torch.zeros(1, 1, 2), torch.tensor([3]))
        tensor([[[3., 3.]]])
    """

    leaf: Denoiser

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the leaf."""
        return sizes_of(self.leaf)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that the leaf's network takes; None stands for that of the canvas."""
        return getattr(self.leaf, "dtype", None)

    @property
    def process(self) -> Hashable:
        """What the leaf predicts of which process; None where it does not say."""
        return process_of(self.leaf)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """Return the network's output [B, C, *S] at `x` [B, C, *S], in its own scale, and times `t` [B]."""
        out: Tensor = self.leaf.native(x, t, cond)  # type: ignore[attr-defined]
        return out


@dataclass(frozen=True, eq=False)
class _Sum:
    """Terms that were taken from a guided denoiser, callable as one."""

    terms: tuple[Term, ...]

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        for _, _, coefficient in self.terms:
            _refuse_regional(coefficient)
        parts = evaluate(self.terms, x, t, cond)
        return _combine(parts, [float(coefficient) for _, _, coefficient in self.terms])


def process_of(denoiser: Denoiser) -> Hashable:
    """Look up what a denoiser's `native` predicts, and of which process.

    Returns:
        Its `process`, to compare with others', or None where it does not say.

    Example:
        >>> process_of(lambda x, sigma, cond=None: x) is None
        True
    """
    process: Hashable = getattr(denoiser, "process", None)
    return process


def native(denoiser: Denoiser) -> Denoiser:
    """Return a denoiser with every leaf's `native` in the place of its call.

    Args:
        denoiser: a leaf that offers `native(x, t, cond)`, or guidance over such leaves.

    Returns:
        `f(x [B, C, *S], t [B], cond)`, the network's own output in its own scale; guidance keeps its terms.

    Raises:
        AttributeError: a leaf has no `native`, or the leaves differ in process or prediction type, whose
            outputs may not be added.

    Note:
        A signed sum with coefficients that sum to one is the same in every prediction type, so guidance and
        averages of what networks say need no conversion.

    Example:
        >>> class Leaf:
        ...     def native(self, x, t, cond=None):
        ...         return x * cond.reshape(-1, 1, 1)
        >>> f = native(CFG(Leaf(), uncond=torch.zeros(1), scale=3.0))
        >>> f(torch.ones(1, 1, 2), torch.tensor([999]), torch.ones(1))
        tensor([[[3., 3.]]])
    """
    if getattr(denoiser, "terms", None) is None:
        if not callable(getattr(denoiser, "native", None)):
            kind = getattr(denoiser, "__name__", type(denoiser).__name__)
            raise AttributeError(
                f"native: denoiser must offer native(x, t, cond), got {kind}. "
                "Wrap the network with intarsia.adapters.diffusers.denoiser."
            )
        return Native(denoiser)
    terms = flatten(denoiser)
    leaves: dict[int, Native] = {}
    for leaf, _, _ in terms:
        if id(leaf) not in leaves:
            leaves[id(leaf)] = native(leaf)  # type: ignore[assignment]
    kinds = {process_of(leaf) for leaf in leaves.values()}
    if len(kinds) > 1:
        got = " and ".join(map(str, kinds))
        raise AttributeError(
            f"native: leaves must share one process and prediction type, got {got}. "
            "Use a solver of intarsia.samplers, which converts all of them."
        )
    return _Sum(tuple((leaves[id(leaf)], cond, coefficient) for leaf, cond, coefficient in terms))


def flatten(denoiser: Denoiser) -> tuple[Term, ...]:
    """Return a denoiser as a signed sum of denoisers that have no `terms` of their own.

    Args:
        denoiser: any denoiser; one without `terms` is its own only term, with coefficient 1.

    Returns:
        Terms in order. Nested coefficients are multiplied, nested conditions override the outer ones.

    Example:
        >>> net = lambda x, sigma, cond: x
        >>> [k for _, _, k in flatten(CFG(CFG(net, {"style": 0}, 2.0), {"text": None}, 3.0))]
        [6.0, -3.0, -4.0, 2.0]
    """
    terms: tuple[Term, ...] | None = getattr(denoiser, "terms", None)
    if terms is None:
        return ((denoiser, {}, 1.0),)
    flat: list[Term] = []
    for inner, outer_cond, outer in terms:
        if not isinstance(outer_cond, dict) and getattr(inner, "terms", None) is not None:
            # Two overrides in a row join into one only if the outer one leaves the rest of the tree alone.
            flat.append((inner, outer_cond, outer))
            continue
        flat += [
            (leaf, override_cond(outer_cond, cond), outer * coefficient)
            for leaf, cond, coefficient in flatten(inner)
        ]
    return tuple(flat)


def evaluate(terms: tuple[Term, ...], x: Tensor, sigma: Tensor, cond: Cond) -> list[Tensor]:
    """Return each term's estimate, with as few calls of the network as their conditions allow.

    Args:
        terms: (denoiser, condition that overrides `cond`, coefficient); the coefficients are not used.
        x: [B, C, *S], shared by the terms.
        sigma: [B], noise levels.
        cond: the run's condition, tensors with a leading axis of 1 or B.

    Returns:
        One [B, C, *S] for each term, in order.

    Note:
        Neighbouring terms of one denoiser whose trees match form one batch of up to len(terms) * B rows.

    Example:
        >>> net = lambda x, sigma, cond: x + cond.reshape(-1, 1, 1)
        >>> terms = (net, torch.tensor([1.0]), 1.0), (net, torch.tensor([2.0]), 0.0)
        >>> [part.item() for part in evaluate(terms, torch.zeros(1, 1, 1), torch.ones(1), None)]
        [1.0, 2.0]
    """
    rows = x.shape[0]
    conds = [broadcast_cond(override_cond(cond, over), rows) for _, over, _ in terms]
    parts: list[Tensor] = []
    while len(parts) < len(terms):
        start = stop = len(parts)
        denoiser = terms[start][0]
        while stop < len(terms) and terms[stop][0] is denoiser and same_structure(conds[start], conds[stop]):
            stop += 1
        count = stop - start
        repeats = (count, *(1,) * (x.ndim - 1))
        batch = denoiser(x.repeat(repeats), sigma.repeat(count), cat_cond(conds[start:stop]))
        parts += batch.to(x.dtype).chunk(count)
    return parts


def _combine(parts: list[Tensor], coefficients: list[float]) -> Tensor:
    if len(parts) == 1 and coefficients[0] == 1:
        return parts[0]
    # In differences, so that equal parts come back unchanged to the last bit.
    out = parts[-1]
    for part, coefficient in zip(parts[:-1], coefficients[:-1], strict=True):
        out = torch.add(out, part - parts[-1], alpha=coefficient)
    return out


def _refuse_regional(scale: float | Tensor) -> None:
    if isinstance(scale, Tensor) and scale.ndim:
        raise ValueError(
            f"CFG: scale must be a number outside a Factor, got {scale.numel()} regional scales. "
            "Give the guided denoiser to compose.Factor, which has regions."
        )
