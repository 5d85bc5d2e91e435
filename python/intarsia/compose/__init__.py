# SPDX-License-Identifier: Apache-2.0
"""How much each denoiser counts where: weighted sums of denoisers over the regions of a canvas."""

from intarsia.compose._job import NonFiniteRegionError
from intarsia.compose.composite import Composite, average, weighted_sum
from intarsia.compose.expression import Concept, Not
from intarsia.compose.factor import Factor
from intarsia.compose.factor_graph import bethe, factor_graph
from intarsia.compose.operators import Flat, Mixture, Sum, conjunction, mixture, negation, product

__all__ = [
    "Composite",
    "Concept",
    "Factor",
    "Flat",
    "Mixture",
    "NonFiniteRegionError",
    "Not",
    "Sum",
    "average",
    "bethe",
    "conjunction",
    "factor_graph",
    "mixture",
    "negation",
    "product",
    "weighted_sum",
]
