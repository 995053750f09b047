"""Names of the data sets; labels, sources and licenses of the public ones. Importing them does not import torch."""

from __future__ import annotations

SPLITS = ("train", "val", "test")
# name: (default label, source, license)
PUBLIC = {
    "perov_5": (
        "heat_ref",
        "Perov-5: ABX3 perovskites of Castelli et al., Energy Environ. Sci. 5, 5814 (2012), as split by txie-93/cdvae",
        "MIT (txie-93/cdvae)",
    ),
    "carbon_24": (
        "energy_per_atom",
        "Carbon-24: carbon at 10 GPa from random structure search, Pickard, doi:10.24435/materialscloud:2020.0026/v1, "
        "as split by txie-93/cdvae",
        "MIT (txie-93/cdvae); original data CC BY 4.0",
    ),
    "mp_20": (
        "formation_energy_per_atom",
        "MP-20: crystals of the Materials Project with at most 20 atoms, Jain et al., APL Mater. 1, 011002 (2013), as "
        "split by txie-93/cdvae",
        "MIT (txie-93/cdvae); original data CC BY 4.0",
    ),
}
SYNTHETIC = "synthetic_perovskites"
JOINED = "train+val"  # split of carbon_24's joined training data
