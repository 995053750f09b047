"""`python -m cdvae_lab.cli`, where the package is not installed."""

from __future__ import annotations

import sys

from cdvae_lab.cli import main

sys.exit(main())
