# SPDX-License-Identifier: Apache-2.0
"""A small algebra of concepts: `A & (B | C) & ~D`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from intarsia.compose.operators import mixture, negation, product
from intarsia.guidance import Term, evaluate
from intarsia.layout._check import fail
from intarsia.types import Cond, Denoiser, energy_of, override_cond, sizes_of, with_energy

__all__ = ["Concept", "Not"]


@dataclass(frozen=True, eq=False)
class Concept:
    """A denoiser, as a rule a network told one thing, that combines with others.

    `A & B` multiplies densities, `A | B` mixes them (both need energies), `A & ~B` keeps away from B with
    alpha 0.5, `A & ~B * 0.8` with 0.8; `A * w` raises a density to the power w. A concept is a denoiser.

    Attributes:
        denoiser: the network.
        cond: overrides the run's condition.

    Example:
        >>> import torch
        >>> from intarsia import denoisers
        >>> at = lambda m: Concept(denoisers.Potential(lambda x, s, c=None: ((x - m) ** 2).flatten(1).sum(1)))
        >>> wanted = at(0.0) & (at(3.0) | at(-3.0)) & ~at(9.0)
        >>> with torch.no_grad():
        ...     wanted.energy(torch.zeros(1, 1, 1), torch.ones(1)).round()
        tensor([-32.])
    """

    denoiser: Denoiser
    cond: Any = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """Itself, with its condition; a Factor looks further."""
        return ((self.denoiser, {} if self.cond is None else self.cond, 1.0),)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """The sizes of the denoiser."""
        return sizes_of(self.denoiser)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """Return the estimate [B, C, *S] at `x` [B, C, *S] and noise levels `sigma` [B]."""
        return evaluate(self.terms, x, sigma, cond)[0]

    @property
    def energy(self) -> Any:
        """The denoiser's energy, told the concept's condition; an AttributeError where it has none."""
        if energy_of(self.denoiser) is None:
            raise AttributeError(f"{type(self.denoiser).__name__} has no energy")
        return lambda x, sigma, cond=None: self._both(x, sigma, cond)[0]

    @property
    def with_energy(self) -> Any:
        """Energy and estimate in one go; an AttributeError where there is no energy."""
        _ = self.energy
        return self._both

    def _both(self, x: Tensor, sigma: Tensor, cond: Cond = None) -> tuple[Tensor, Tensor]:
        told = override_cond(cond, {} if self.cond is None else self.cond)
        return with_energy(self.denoiser, x, sigma, told)

    def __and__(self, other: Concept | Not) -> Concept:
        """Both, or the one and not the other."""
        if isinstance(other, Not):
            return Concept(negation(self, other.concept, alpha=other.alpha))
        return Concept(product(self, _concept("&", other)))

    def __or__(self, other: Concept) -> Concept:
        """Either."""
        return Concept(mixture(self, _concept("|", other)))

    def __invert__(self) -> Not:
        """Not this."""
        return Not(self)

    def __mul__(self, power: float) -> Concept:
        """Raise the density to a power."""
        return Concept(product(self, weights=[float(power)]))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Not:
    """What a concept is to keep away from; it means something beside a concept that is wanted, only.

    Attributes:
        concept: what is not wanted.
        alpha: how strongly.
    """

    concept: Concept
    alpha: float = 0.5

    def __mul__(self, alpha: float) -> Not:
        """Keep away more or less strongly."""
        return Not(self.concept, float(alpha))

    __rmul__ = __mul__

    def __rand__(self, other: Any) -> Concept:
        """The other, but not this."""
        return _concept("&", other) & self

    def __and__(self, other: Concept) -> Concept:
        """The other, but not this."""
        return _concept("&", other) & self

    def __invert__(self) -> Concept:
        """The concept itself."""
        return self.concept


def _concept(operator: str, other: Any) -> Concept:
    if not isinstance(other, Concept):
        remedy = "Wrap it: Concept(denoiser, cond). What is only not wanted needs something that is."
        fail("Concept", f"what {operator} combines", "be a Concept", type(other).__name__, remedy)
    return other
