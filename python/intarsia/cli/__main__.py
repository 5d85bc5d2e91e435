# SPDX-License-Identifier: Apache-2.0
"""`python -m intarsia.cli`: the command without an installation."""

import sys

from intarsia.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
