"""Space groups and contacts of known crystals, against pymatgen and hand."""

from __future__ import annotations

import math

import pytest
import torch
from pymatgen.core import Lattice, Structure

from benchmarks.symmetry import main, shares
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.metrics.symmetry import closest_contact, space_groups

DIAMOND, COVALENT_CARBON = 3.567, 0.76  # Å; radius of Cordero et al. (2008)


@pytest.fixture
def crystals() -> Crystals:
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(DIAMOND), ["C"], [[0, 0, 0]])
    shaken = Structure(diamond.lattice, diamond.species, diamond.frac_coords + 0.1 * torch.rand(8, 3).numpy())
    polonium = Structure(Lattice.cubic(1.0), ["Po"], [[0, 0, 0]])
    given = [diamond, shaken, polonium]
    return Crystals.from_lists(
        [torch.tensor(s.frac_coords) for s in given],
        [torch.tensor(s.atomic_numbers) for s in given],
        torch.stack([torch.tensor(s.lattice.matrix) for s in given]),
    )


def test_symmetry_is_found_and_lost(crystals: Crystals) -> None:
    assert space_groups(crystals).tolist() == [227, 1, 221]
    assert space_groups(crystals[1], symprec=2.0).tolist() != [1]


def test_a_contact_is_a_bond_over_the_radii_or_an_image_of_its_own(crystals: Crystals) -> None:
    bond = DIAMOND * math.sqrt(3) / 4
    diamond, shaken, polonium = closest_contact(crystals).tolist()
    assert diamond == pytest.approx(bond / (2 * COVALENT_CARBON))
    assert shaken < diamond
    assert polonium == pytest.approx(1.0 / (2 * 1.40))


def test_shares_and_their_table(crystals: Crystals, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shares(crystals)
    third = 100 / 3
    assert (found["P1"], found["cubic"], found["triclinic"]) == pytest.approx((third, 2 * third, third))
    assert found["too close"] > 33
    assert math.isnan(found["P1 above 12 atoms"])
    path = crystals.save_npz(tmp_path / "made.npz")
    assert main([str(path), "--limit", "1"]) == 0
    assert "| 0.0 % | nan % | 0.0 % | 100.0 %" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing.npz")]) == 2
