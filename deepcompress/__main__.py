"""`python -m deepcompress` is the command `deepcompress`."""

from __future__ import annotations

import sys

from deepcompress.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
