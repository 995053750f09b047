"""Data sets: the public benchmarks, synthetic perovskites, and a user's own crystals; `load` reads all of them.

Names are declared in `__init__.pyi` and imported when they are first used, so that `datasets.catalog` needs no torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
