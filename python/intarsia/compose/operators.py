# SPDX-License-Identifier: Apache-2.0
"""AND, OR and NOT of densities: products, mixtures and negations of denoisers, nested as you like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from intarsia.guidance import Term, evaluate, flatten
from intarsia.layout._check import fail
from intarsia.types import (
    Cond,
    Denoiser,
    energy_of,
    override_cond,
    per_sample,
    sizes_of,
    with_energy,
)

__all__ = ["Flat", "Mixture", "Sum", "conjunction", "mixture", "negation", "product"]

LogWeights: TypeAlias = Sequence[float] | Tensor | Callable[[Tensor], Tensor]


class Flat:
    """The denoiser of a flat density: its score is 0, its energy 0, and its estimate what it is given.

    Example:
        >>> Flat()(torch.ones(1, 1, 2), torch.ones(1))
        tensor([[[1., 1.]]])
    """

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return `x` [B, C, *S]."""
        return x

    def energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return zeros [B] for `x` [B, C, *S] and `sigma` [B]."""
        return torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)


FLAT = Flat()


@dataclass(frozen=True, eq=False)
class Sum:
    """A signed sum of scores, written as estimates whose coefficients sum to one; a Factor takes it apart.

    Made by `conjunction`, `product` and `negation`. It has an energy, the same sum, when all parts have.

    Attributes:
        terms: (denoiser, condition that overrides the run's, coefficient: a number, or [R] inside a Factor).

    Raises:
        ValueError: coefficients that do not sum to one.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        total = sum(torch.as_tensor(k, dtype=torch.float64) for _, _, k in self.terms)
        size = sum(torch.as_tensor(k, dtype=torch.float64).abs() for _, _, k in self.terms)
        if not bool((torch.as_tensor(total - 1).abs() <= 1e-6 * torch.as_tensor(size)).all()):
            remedy = "Scores are added by product, which fills up with a flat density."
            fail("Sum", "terms", "have coefficients that sum to one", total, remedy)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the first part that declares any."""
        return next((s for s in (sizes_of(leaf) for leaf, _, _ in self.terms) if s), None)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S] at `x` [B, C, *S] and noise levels `sigma` [B]."""
        terms = flatten(self)
        parts = evaluate(terms, x, sigma, cond)
        value = torch.zeros_like(x)
        for part, (_, _, coefficient) in zip(parts, terms, strict=True):
            value = torch.add(value, part, alpha=_number(coefficient))
        return value

    @property
    def energy(self) -> Callable[..., Tensor]:
        """`energy(x [B, C, *S], sigma [B], cond) -> [B]`; an AttributeError where a part has none."""
        for leaf, _, _ in self.terms:
            if energy_of(leaf) is None:
                raise AttributeError(f"{getattr(leaf, '__name__', type(leaf).__name__)} has no energy")
        return lambda x, sigma, cond=None: self._both(x, sigma, cond)[0]

    @property
    def with_energy(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Energy [B] and estimate [B, C, *S] in one go; an AttributeError where a part has no energy."""
        _ = self.energy
        return self._both

    def _both(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
        energy = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        value = torch.zeros_like(x)
        for leaf, over, coefficient in self.terms:
            part, estimate = with_energy(leaf, x, sigma, override_cond(cond, over))
            energy = energy + _number(coefficient) * part.double()
            value = torch.add(value, estimate, alpha=_number(coefficient))
        return energy.to(x.dtype), value


def conjunction(denoiser: Denoiser, concepts: Sequence[tuple[Cond, float | Tensor]], *, uncond: Cond) -> Sum:
    """Ask one network for several things at once: `s = s_u + sum_i w_i (s_i - s_u)`.

    Args:
        denoiser: conditional, with a null condition.
        concepts: (condition, weight) of each; a negative weight keeps away from it. A weight is a number, or
            [R] inside a Factor.
        uncond: the null condition, as for `guidance.CFG`.

    Returns:
        A linear denoiser: a Factor sends all its rows through the network in one batch. It has an energy when
        the denoiser has one.

    Raises:
        ValueError: no concept.

    Note:
        The weighted score is that of no noised density, so sampling needs Langevin or Hamiltonian steps
        (`corrector=`) to meet the product that is meant.

    Source:
        Liu et al. 2022, "Compositional visual generation with composable diffusion models", equation 11; Du
        et al. 2023, "Reduce, Reuse, Recycle", equation 12.

    Example:
        >>> net = lambda x, sigma, cond: x * cond["gain"].reshape(-1, 1, 1)
        >>> gain = lambda value: {"gain": torch.tensor([value])}
        >>> both = conjunction(net, [(gain(2.0), 1.5), (gain(0.5), -1.0)], uncond=gain(1.0))
        >>> both(torch.ones(1, 1, 1), torch.ones(1))
        tensor([[[3.]]])
    """
    if not concepts:
        fail("conjunction", "concepts", "hold at least one (condition, weight)", "none", "Give a condition.")
    rest: Any = 1 - sum(weight for _, weight in concepts)
    terms: list[Term] = [(denoiser, cond, weight) for cond, weight in concepts]
    return Sum((*terms, (denoiser, uncond, rest)))


def product(*denoisers: Denoiser, weights: Sequence[float] | None = None) -> Sum:
    """Multiply densities: `E = sum_i w_i E_i`, what all of them find likely.

    Args:
        *denoisers: two or more, of one canvas.
        weights: powers of the densities; None is 1 for each.

    Returns:
        A linear denoiser, `x + sum_i w_i (D_i - x)`.

    Raises:
        ValueError: no denoiser, or another number of weights.

    Note:
        The product of noised densities is not the noised product: reverse diffusion alone is wrong, however
        many steps it takes. Metropolis or Langevin steps at each level (`corrector=`) make it right.

    Source:
        Du et al. 2023, "Reduce, Reuse, Recycle", section 3.1.

    Example:
        >>> halve = lambda x, sigma, cond=None: x / 2
        >>> product(halve, halve)(torch.ones(1, 1, 1), torch.ones(1))
        tensor([[[0.]]])
    """
    powers = [1.0] * len(denoisers) if weights is None else list(weights)
    if not denoisers or len(powers) != len(denoisers):
        got = f"{len(denoisers)} and {len(powers)} weights"
        fail(
            "product", "denoisers", "be one or more, with a weight for each", got, "Leave weights out for 1."
        )
    terms: list[Term] = [(D, {}, weight) for D, weight in zip(denoisers, powers, strict=True)]
    rest = 1.0 - math.fsum(powers)
    return Sum((*terms, (FLAT, {}, rest)) if rest else tuple(terms))


def negation(denoiser: Denoiser, away: Denoiser, *, alpha: float = 0.5) -> Sum:
    """Keep away from what another density finds likely: `E = E_0 - alpha * E_1`.

    Args:
        denoiser: what is wanted.
        away: what is not.
        alpha: how strongly.

    Returns:
        A linear denoiser, `D_0 - alpha * (D_1 - x)`.

    Raises:
        ValueError: an alpha that is negative.

    Note:
        For a large alpha the density need not be normalisable.

    Source:
        Du et al. 2023, "Reduce, Reuse, Recycle", section 3.1 (alpha = 0.5).

    Example:
        >>> halve = lambda x, sigma, cond=None: x / 2
        >>> negation(halve, halve)(torch.ones(1, 1, 1), torch.ones(1))
        tensor([[[0.7500]]])
    """
    if not alpha >= 0:
        fail("negation", "alpha", "not be negative", alpha, "A product asks for both.")
    return Sum(((denoiser, {}, 1.0), (away, {}, -alpha), (FLAT, {}, alpha)))


@dataclass(frozen=True, eq=False)
class Mixture:
    """One density or another: `E = -logsumexp_i(log w_i - E_i)`. Made by `mixture`.

    Attributes:
        denoisers: each with an energy.
        log_weights: [N], or sigma [B] -> [B, N].
        temperature: of the choice among them; 1 is the mixture itself, 0 would take the likeliest.
    """

    denoisers: tuple[Denoiser, ...]
    log_weights: LogWeights
    temperature: float = 1.0

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the first part that declares any."""
        return next((s for s in map(sizes_of, self.denoisers) if s), None)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S]: the parts', weighted by how likely each finds `x`."""
        return self.with_energy(x, sigma, cond)[1]

    def energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return minus the log density [B] of `x` [B, C, *S] at levels `sigma` [B], up to a constant."""
        return self.with_energy(x, sigma, cond)[0]

    def with_energy(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
        """Return energy [B] and estimate [B, C, *S]."""
        pairs = [with_energy(D, x, sigma, cond) for D in self.denoisers]
        given = self.log_weights(sigma) if callable(self.log_weights) else torch.as_tensor(self.log_weights)
        logits = given.to(x.device, torch.float64) - torch.stack([e.double() for e, _ in pairs], 1)
        logits = logits / self.temperature
        energy = -self.temperature * torch.logsumexp(logits, 1)
        shares = logits.softmax(1).to(x.dtype)
        value = torch.zeros_like(x)
        for share, (_, estimate) in zip(shares.unbind(1), pairs, strict=True):
            value = value + per_sample(share, x) * estimate
        return energy.to(x.dtype), value


def mixture(*denoisers: Denoiser, log_weights: LogWeights | None = None, temperature: float = 1.0) -> Mixture:
    """Mix densities: what any of them finds likely.

    Args:
        *denoisers: two or more, each with an energy: the choice among them asks how likely each finds x.
        log_weights: logarithms of the weights, [N]; or a function of sigma [B] that returns [B, N], for
            energies whose constants differ from level to level. None assumes equal constants and weights.
        temperature: of the choice.

    Returns:
        A denoiser with an energy. Not linear in its parts, so a Factor does not look into it.

    Raises:
        ValueError: a denoiser without an energy, another number of weights, or a temperature of 0.

    Note:
        Noising and mixing commute, so reverse diffusion alone is right in the limit of many steps. Energies
        are known up to constants only, and a wrong constant is a wrong weight: give `log_weights` where
        they differ.

    Source:
        Du et al. 2023, "Reduce, Reuse, Recycle", section 3.1.

    Example:
        >>> from intarsia import denoisers
        >>> at = lambda m: denoisers.Potential(lambda x, s, c=None: ((x - m) ** 2).flatten(1).sum(1) / 2)
        >>> with torch.no_grad():
        ...     mixture(at(-5.0), at(5.0))(torch.full((1, 1, 1), 4.0), torch.ones(1))
        tensor([[[5.]]])
    """
    if len(denoisers) < 2:
        fail("mixture", "denoisers", "be two or more", len(denoisers), "One density needs no mixing.")
    for number, D in enumerate(denoisers):
        if energy_of(D) is None:
            kind = getattr(D, "__name__", type(D).__name__)
            fail(
                "mixture",
                "denoisers",
                "have energies, as the choice among them asks how likely each is",
                f"{kind} without one at {number}",
                "Wrap the network in denoisers.EnergyDenoiser; a score alone does not tell.",
            )
    if not 0 < temperature < math.inf:
        fail("mixture", "temperature", "be a finite number above 0", temperature, "1 is the mixture itself.")
    given: LogWeights = [0.0] * len(denoisers) if log_weights is None else log_weights
    if not callable(given) and len(given) != len(denoisers):
        fail("mixture", "log_weights", f"have {len(denoisers)} entries", len(given), "One for each denoiser.")
    return Mixture(denoisers, given, temperature)


def _number(coefficient: float | Tensor) -> float:
    if isinstance(coefficient, Tensor) and coefficient.ndim:
        fail("Sum", "weights", "be numbers outside a Factor", f"[{len(coefficient)}]", "Regions have [R].")
    return float(coefficient)
