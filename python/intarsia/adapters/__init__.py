# SPDX-License-Identifier: Apache-2.0
"""The models and samplers of other libraries; the only place that knows them. Import what you use."""

from __future__ import annotations

__all__ = []
