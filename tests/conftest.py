"""Runtime checks of shapes and types for every test, and crystals with known structures."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch

# Before anything imports the package: every annotated function then checks its arguments and what it returns. Not where
# there is a GPU: torch.compile cannot trace these checks.
if not torch.cuda.is_available():
    jaxtyping.install_import_hook("cdvae_lab", "beartype.beartype")

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset

# A test's time depends on what else the machine computes, and is not a property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

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


@pytest.fixture
def random_dataset() -> Dataset:
    """Twenty random crystals of 1 to 6 atoms of C, O and Ti, the first four without a label."""
    generator = torch.Generator().manual_seed(20)
    sizes = [1 + i % 6 for i in range(20)]
    strain = 0.1 * torch.randn(20, 3, 3, generator=generator)
    side = torch.tensor([(15.0 * n) ** (1 / 3) for n in sizes])  # 15 Å^3 an atom
    crystals = Crystals.from_lists(
        [torch.rand(n, 3, generator=generator) for n in sizes],
        [torch.tensor([6, 8, 22])[torch.randint(3, (n,), generator=generator)] for n in sizes],
        (torch.eye(3) + strain) * side[:, None, None],
    )
    labels = torch.randn(20, generator=generator) - 2
    labels[:4] = torch.nan
    ids = tuple(f"random-{i}" for i in range(20))
    return Dataset("random", "all", crystals, ids, labels, "energy", "eV/atom", "random numbers", "none")
