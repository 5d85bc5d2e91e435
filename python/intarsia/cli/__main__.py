# SPDX-License-Identifier: Apache-2.0
"""`python -m intarsia.cli`: the command without an installation."""

import sys

from intarsia.cli.app import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
