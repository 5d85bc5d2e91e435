# SPDX-License-Identifier: Apache-2.0
"""Turn what a network predicts (eps, v, x0, flow velocity, score) into a denoiser `D(x, sigma) -> x0`.

All of them are affine, `D = c_skip(sigma) * x + c_out(sigma) * net(c_in(sigma) * x, time(sigma))`. The canvas
is always `x = x0 + sigma * n`; a variance-preserving network sees `x / sqrt(1 + sigma^2)`, a flow sees
`x / (1 + sigma)`.
"""

from intarsia.denoisers.energy import EnergyDenoiser, Potential
from intarsia.denoisers.parametrisations import from_edm, from_eps, from_flow, from_score, from_v, from_x0
from intarsia.denoisers.preconditioned import Clip, Network, Preconditioned

__all__ = [
    "Clip",
    "EnergyDenoiser",
    "Network",
    "Potential",
    "Preconditioned",
    "from_edm",
    "from_eps",
    "from_flow",
    "from_score",
    "from_v",
    "from_x0",
]
