"""Crystals: a batch of them, lattices, periodic neighbors, reduced cells, elements and formulas, limits.

Names are declared in `__init__.pyi` and imported when they are first used, so that `crystals.elements` needs no torch.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
