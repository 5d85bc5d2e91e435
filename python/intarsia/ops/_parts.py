# SPDX-License-Identifier: Apache-2.0
"""The parts of a pass over phase space, in their order; csrc/intarsia.h has the same numbers."""

REFRESH = 1
LANGEVIN = 2
ENERGY_BEFORE = 4
KICK = 8
HALF_KICK = 16
DRIFT = 32
ENERGY_AFTER = 64

KICKS = KICK | HALF_KICK
RENEWS = REFRESH | LANGEVIN
ENERGIES = ENERGY_BEFORE | ENERGY_AFTER
