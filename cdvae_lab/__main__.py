"""Run the command line as `python -m cdvae_lab`, where its script is not on the path."""

from __future__ import annotations

import sys

from cdvae_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
