"""The report page is self-contained, shows every crystal, and has pymatgen's numbers."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from pymatgen.core import Structure

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import LabError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.pages.run_report import facts, write_report
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.trajectory import Trajectory


class Page(HTMLParser):
    """Every tag's attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self, kind: str) -> list[bytes]:
        """The contents of all data URIs of a kind."""
        found = [
            value for _, attrs in self.tags for value in attrs.values() if value and value.startswith(f"data:{kind}")
        ]
        return [base64.b64decode(value.split(",", 1)[1]) for value in found]


@pytest.fixture(scope="module")
def model() -> CDVAE:
    torch.manual_seed(0)
    config = CDVAEConfig(
        max_atoms=6, hidden_dim=16, latent_dim=8, head_dim=16, encoder_blocks=1, decoder_blocks=1, num_neighbors=8
    )
    model = CDVAE(config).eval().requires_grad_(False)
    model.lattice_mean.copy_(torch.tensor([2.5, 2.5, 2.5, 90, 90, 90]))
    model.metadata = {
        "data": {"name": "toys & <games>", "split": "train", "crystals": 7, "source": "a box", "license": "MIT"},
        "scores": ["all of them"],
    }
    return model


def ending_with(crystals: Crystals, model: CDVAE) -> DenoisingFrame:
    schedule = Schedule.ancestral(model.config, 4)
    z, numbers = torch.zeros(len(crystals), 8), torch.arange(len(crystals))
    return DenoisingFrame(4, 0.01, crystals, torch.zeros_like(crystals.frac_coords), z, numbers, 3, schedule)


def test_the_page_needs_nothing_from_elsewhere_and_shows_every_crystal(model: CDVAE, tmp_path: Path) -> None:
    run = Trajectory.of(denoise(model, n=3, sampler=Schedule.ancestral(model.config, 6)))
    path = write_report(tmp_path / "out", model, run, which=1, seconds=2)
    text = path.read_text(encoding="utf-8")
    page = Page(path)
    sources = [attrs[k] for _, attrs in page.tags for k in ("src", "href", "srcset") if k in attrs]
    assert sources
    assert all(source and source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|@import|url\(", text)
    assert not any(tag in ("script", "iframe") for tag, _ in page.tags)
    assert "prefers-color-scheme:dark" in text

    pictures = [Image.open(io.BytesIO(content)) for content in page.links("image/png")]
    assert len(pictures) == 3
    assert all(len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 50 for picture in pictures)
    animations = [Image.open(io.BytesIO(content)) for content in page.links("image/gif")]
    assert len(animations) == 2  # light and dark
    assert all(getattr(animation, "n_frames", 1) >= len(run) for animation in animations)
    for content, expected in zip(page.links("chemical/x-cif"), run[-1].crystals.to_structures(), strict=True):
        assert Structure.from_str(content.decode(), "cif").composition == expected.composition

    assert "toys & <games> (train), 7 crystals: a box" in page.text  # escaped, or it would not be read back
    assert "ancestral, 6 network calls" in page.text
    assert "2.0 s on cpu" in page.text


def test_facts_are_pymatgen_s(known_crystals: Crystals) -> None:
    for one, structure in zip(facts(known_crystals), known_crystals.to_structures(), strict=True):
        assert one.formula == structure.composition.reduced_formula
        assert one.density == pytest.approx(float(structure.density), rel=1e-4)
        assert one.lengths == pytest.approx(structure.lattice.abc, rel=1e-5)
        assert one.angles == pytest.approx(structure.lattice.angles, abs=1e-3)
        nearest = min(n.nn_distance for site in structure for n in structure.get_neighbors(site, 4))
        assert one.distance == pytest.approx(nearest, rel=1e-4)
        assert one.structure_valid
        assert Structure.from_str(one.cif, "cif").composition == structure.composition
    assert [one.pair for one in facts(known_crystals)] == ["Ti–O", "Na–Cl", "C–C"]
    assert [one.composition_valid for one in facts(known_crystals)] == [True, True, True]


def test_an_atom_s_own_images_count_where_there_are_others() -> None:
    """Each atom of a cell 1.6 Å wide is 1.6 Å from its own image, though the others are 4.32 Å away."""
    cell = torch.diag(torch.tensor([1.6, 8.64, 9.0]))[None]
    narrow = Crystals(torch.tensor([[[0.0, 0, 0], [0, 0.5, 0]]]), torch.tensor([[8, 38]]), cell)
    [one] = facts(narrow)
    assert one.distance == pytest.approx(1.6)
    assert one.pair in ("O–O", "Sr–Sr")


def test_one_atom_is_closest_to_its_own_image() -> None:
    iron = Crystals(torch.zeros(1, 1, 3), torch.tensor([[26]]), 2.5 * torch.eye(3)[None])
    [one] = facts(iron)
    assert (one.pair, one.distance) == ("Fe–Fe", pytest.approx(2.5))


def test_broken_crystals_are_shown_as_such(model: CDVAE, srtio3: Crystals, tmp_path: Path) -> None:
    close = srtio3.replace(frac_coords=srtio3.frac_coords * 0.1)
    odd = srtio3.replace(atomic_numbers=torch.tensor([[38, 22, 22, 8, 8]]))
    lost = srtio3.replace(frac_coords=srtio3.frac_coords * torch.nan)
    flat = srtio3.replace(lattice=srtio3.lattice * torch.tensor([1.0, 1.0, 0.0]))
    path = write_report(tmp_path, model, ending_with(Crystals.cat([close, odd, lost, flat, srtio3]), model))
    page = Page(path)
    assert page.text.count("✗ structure") == 3
    assert page.text.count("✓ structure") == 2
    assert "two atoms closer than 0.5 Å" in page.text
    assert len(page.links("image/png")) == 5
    assert len(page.links("chemical/x-cif")) == 3  # what no program could read is not offered
    assert "40% structure valid" in " ".join(page.text.split())


def test_the_summary_fits_one_screen(model: CDVAE, srtio3: Crystals, tmp_path: Path) -> None:
    many = Crystals.cat([srtio3] * 70)
    path = write_report(tmp_path, model, ending_with(many, model), name="test")
    lines = (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert lines[0] == "70 crystals from test"
    assert "and 54 more in index.html" in "\n".join(lines)
    row = next(line for line in lines if "SrTiO3" in line)
    assert row.split() == ["0", "SrTiO3", *["3.90"] * 3, *["90.0"] * 3, "5.12", "Ti–O", "1.95", "valid", "valid"]
    assert len(Page(path).links("image/png")) == 60
    assert "Pictures of the first 60" in path.read_text(encoding="utf-8")


def test_an_unfinished_run_is_marked(model: CDVAE, tmp_path: Path) -> None:
    run = list(denoise(model, n=1, sampler=Schedule.ancestral(model.config, 6)))
    write_report(tmp_path, model, run[3])
    assert "stopped" in (tmp_path / "summary.txt").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_made_is_an_error(model: CDVAE, srtio3: Crystals, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot write the report"):
        write_report(tmp_path / "file" / "out", model, ending_with(srtio3, model))
    run = Trajectory.of(denoise(model, n=1, sampler=Schedule.ancestral(model.config, 4)))
    with pytest.raises(IndexError):
        write_report(tmp_path, model, run, which=5)
