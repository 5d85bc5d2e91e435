# SPDX-License-Identifier: Apache-2.0
"""How much each denoiser counts where: weighted sums of denoisers over the regions of a canvas."""

from intarsia.compose._job import NonFiniteRegionError
from intarsia.compose.composite import Composite, average, weighted_sum
from intarsia.compose.factor import Factor
from intarsia.compose.factor_graph import bethe, factor_graph

__all__ = ["Composite", "Factor", "NonFiniteRegionError", "average", "bethe", "factor_graph", "weighted_sum"]
