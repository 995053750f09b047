"""Shapes and types of the whole package are checked in every test; a few crystals that everyone knows."""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import pytest
import torch

# Before anything imports the package: every annotated function then checks its arguments and what it returns.
jaxtyping.install_import_hook("cdvae_lab", "beartype.beartype")

from cdvae_lab.crystals import Crystals  # noqa: E402

# One thread a process: the tests run in several, and sums come out the same on every machine.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """The folder with the benchmark data sets, if it lies beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture
def srtio3() -> Crystals:
    """Cubic SrTiO3, a perovskite: 5 atoms, a = 3.905 Å."""
    return Crystals(
        frac_coords=torch.tensor([[[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]]),
        atomic_numbers=torch.tensor([[38, 22, 8, 8, 8]]),
        lattice=3.905 * torch.eye(3)[None],
    )


@pytest.fixture
def nacl() -> Crystals:
    """Rock salt in its primitive cell: 2 atoms, a = 5.640 Å, all angles 60 degrees."""
    return Crystals(
        frac_coords=torch.tensor([[[0.0, 0, 0], [0.5, 0.5, 0.5]]]),
        atomic_numbers=torch.tensor([[11, 17]]),
        lattice=5.640 / 2 * torch.tensor([[[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]]),
    )


@pytest.fixture
def diamond() -> Crystals:
    """Diamond in its primitive cell: 2 atoms, a = 3.567 Å, all angles 60 degrees."""
    return Crystals(
        frac_coords=torch.tensor([[[0.0, 0, 0], [0.25, 0.25, 0.25]]]),
        atomic_numbers=torch.tensor([[6, 6]]),
        lattice=3.567 / 2 * torch.tensor([[[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]]),
    )


@pytest.fixture
def known_crystals(srtio3: Crystals, nacl: Crystals, diamond: Crystals) -> Crystals:
    """SrTiO3, rock salt and diamond as one batch, the last two padded to 5 sites."""
    return Crystals.cat([srtio3, nacl, diamond])
