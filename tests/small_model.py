# SPDX-License-Identifier: Apache-2.0
"""A tiny untrained model file of the bundled kind, whose output depends on its style."""

from __future__ import annotations

from pathlib import Path

import torch
from intarsia.models import EDMDenoiser, UNet, save

STYLES = ("dawn", "dusk", "forest")
SIZES = ((64, 64), (64, 32), (32, 64), (32, 32))


def write_small_model(path: Path) -> str:
    """Write it, the same in every run, and return its path."""
    generator = torch.Generator().manual_seed(0)
    settings = {
        "ndim": 2,
        "in_channels": 3,
        "channels": [16, 16],
        "blocks": 1,
        "num_classes": 4,
        "num_positions": 2,
    }
    net = UNet(**settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    save(EDMDenoiser(net, styles=STYLES, sizes=SIZES), path, settings)
    return str(path)
