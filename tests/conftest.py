# SPDX-License-Identifier: Apache-2.0
"""What must be settled before any test module is imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton decides when it is imported whether it compiles or interprets.
    os.environ.setdefault("TRITON_INTERPRET", "1")
