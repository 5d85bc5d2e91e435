# SPDX-License-Identifier: Apache-2.0
"""Samplers say when: solvers step between noise levels, and one loop drives them all."""

from intarsia.samplers._noise import normal_like
from intarsia.samplers.adaptation import Adapted, DualAveraging
from intarsia.samplers.amdm import AMDM, amdm
from intarsia.samplers.canvas import CanvasNoise, initial
from intarsia.samplers.dpmpp import DPMpp2M
from intarsia.samplers.euler import DDIM, Euler, EulerAncestral
from intarsia.samplers.from_diffusers import FromDiffusers
from intarsia.samplers.heun import Heun
from intarsia.samplers.loop import Callback, sample, trajectory
from intarsia.samplers.mcmc import HMC, MALA, UHMC
from intarsia.samplers.ula import ULA

__all__ = [
    "AMDM",
    "Adapted",
    "Callback",
    "CanvasNoise",
    "DDIM",
    "DPMpp2M",
    "DualAveraging",
    "Euler",
    "EulerAncestral",
    "FromDiffusers",
    "HMC",
    "Heun",
    "MALA",
    "UHMC",
    "ULA",
    "amdm",
    "initial",
    "normal_like",
    "sample",
    "trajectory",
]
