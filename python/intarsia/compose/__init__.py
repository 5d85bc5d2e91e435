# SPDX-License-Identifier: Apache-2.0
"""How much each denoiser counts where: weighted sums of denoisers over the regions of a canvas."""

from intarsia.compose._job import NonFiniteRegionError
from intarsia.compose.composite import Composite, average, weighted_sum
from intarsia.compose.factor import Factor

__all__ = ["Composite", "Factor", "NonFiniteRegionError", "average", "weighted_sum"]
