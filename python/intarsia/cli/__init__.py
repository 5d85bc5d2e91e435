# SPDX-License-Identifier: Apache-2.0
"""The `intarsia` command. Importing it must not import torch: `--help` answers at once."""

from intarsia.cli.app import app, main

__all__ = ["app", "main"]
