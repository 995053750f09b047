"""A laboratory for the crystal diffusion variational autoencoder (CDVAE): train it, generate crystals, look inside.

    import cdvae_lab as lab

    model = lab.load("perov_5")
    for frame in lab.denoise(model, n=4, seed=0):
        ...
    frame.crystals.write_cif("out/")

Every public name is declared once, in `__init__.pyi`, and imported when it is first used (SPEC 1), so that
`import cdvae_lab` costs almost nothing.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
