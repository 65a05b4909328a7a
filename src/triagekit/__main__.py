"""`python -m triagekit`: the same as `triage`, for launchers that start an interpreter rather than a script."""

from __future__ import annotations

import sys

from triagekit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
