# SPDX-License-Identifier: Apache-2.0
"""Let these tests import the closed-form problems of tests/analytic.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
