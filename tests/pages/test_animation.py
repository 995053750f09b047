"""Animations: pages and the viewer show the frames of the run, and its origin moves without jumps."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.pages import packed, write_html
from cdvae_lab.pages.animation import steady
from cdvae_lab.render import FrameOrigin
from cdvae_lab.sampling.denoising import DenoisingFrame


@pytest.fixture(scope="module")
def run() -> list[DenoisingFrame]:
    return list(lab.denoise(lab.load("perov_5"), n=6, seed=2))


def unpacked(batch: dict) -> tuple[np.ndarray, np.ndarray]:
    frac = np.frombuffer(base64.b64decode(batch["x"]), "<u2").reshape(*batch["shape"], 3) / 65536
    return frac, np.frombuffer(base64.b64decode(batch["z"]), "u1").reshape(batch["shape"])


def from_page(path: Path) -> dict:
    found = re.search(r"^const data = (\{.*\});$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def wrapped(difference: torch.Tensor | np.ndarray) -> np.ndarray:
    away = np.asarray(difference) % 1
    return np.minimum(away, 1 - away)


class TestFrameOrigin:
    def test_at_the_end_an_atom_of_the_rarest_element_is_at_the_origin(self, run: list[DenoisingFrame]) -> None:
        last = steady(run)[-1]
        for one, numbers in zip(last.frac_coords, last.atomic_numbers.tolist(), strict=True):
            fewest = min(numbers.count(n) for n in numbers)
            at = [n for n, x in zip(numbers, one, strict=True) if wrapped(x).max() < 1e-5]
            assert any(numbers.count(n) == fewest for n in at)

    def test_atoms_do_not_jump_with_the_origin(self, run: list[DenoisingFrame]) -> None:
        shown = steady(run)
        for k in range(1, len(run)):
            own = wrapped(run[k].crystals.frac_coords - run[k - 1].crystals.frac_coords).max((1, 2))
            seen = wrapped(shown[k].frac_coords - shown[k - 1].frac_coords).max((1, 2))
            # The atom at the origin lends its own step to all; a glide takes a fifth of half a cell at most.
            assert (seen < 2 * own + 0.101).all(), k

    def test_an_atom_that_becomes_the_rarest_moves_gradually_to_the_origin(self) -> None:
        frac = torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.7, 0.8], [0.9, 0.5, 0.1]]])
        lattice = 4 * torch.eye(3)[None]
        before, after = (Crystals(frac, torch.tensor([numbers]), lattice) for numbers in ([26, 8, 8], [8, 26, 8]))
        origin = FrameOrigin.of(before)
        assert wrapped(origin.move(before).frac_coords[0, 0]).max() < 1e-6
        places = [origin.move(before).frac_coords[0, 1]]
        for _ in range(40):
            origin = origin.then(after)
            places.append(origin.move(after).frac_coords[0, 1])
        steps = [wrapped(b - a).max() for a, b in itertools.pairwise(places)]
        assert 0.05 < max(steps) < 0.101
        assert wrapped(places[-1]).max() < 1e-6
        assert wrapped(FrameOrigin.of(before).then(after, last=True).move(after).frac_coords[0, 1]).max() < 1e-6

    def test_a_crystal_alone_equals_one_in_a_padded_batch(self, known_crystals: Crystals) -> None:
        together = FrameOrigin.of(known_crystals).move(known_crystals)
        assert (together.frac_coords[~together.mask] == 0).all()
        for k in range(len(known_crystals)):
            alone = FrameOrigin.of(known_crystals[k]).move(known_crystals[k])
            n = int(known_crystals.num_atoms[k])
            assert wrapped(alone.frac_coords[0, :n] - together.frac_coords[k, :n]).max() < 1e-6


class TestPacked:
    def test_packed_numbers_are_read_back(self, run: list[DenoisingFrame]) -> None:
        (batch,) = packed(run)
        frac, numbers = unpacked(batch)
        assert wrapped(frac - np.stack([f.crystals.frac_coords.numpy() for f in run])).max() < 2**-16
        assert (numbers == np.stack([f.crystals.atomic_numbers.numpy() for f in run])).all()
        way = np.frombuffer(base64.b64decode(batch["s"]), "<i2").reshape(frac.shape) / 1000
        late = np.stack([(f.sigma**2 * f.score).numpy() for f in run])
        short = np.linalg.norm(late, axis=-1) < 30
        assert np.abs(way - late)[short].max() < 6e-4

    def test_numbers_that_are_not_finite_or_far_are_packed(self, run: list[DenoisingFrame]) -> None:
        frame = run[-1]
        broken = frame.crystals.replace(frac_coords=torch.full_like(frame.crystals.frac_coords, torch.nan))
        score = torch.zeros_like(frame.score)
        score[..., 0], score[..., 1] = 3e9, -4e9
        (batch,) = packed([replace(frame, crystals=broken, score=score)])
        assert (unpacked(batch)[0] == 0).all()
        way = np.frombuffer(base64.b64decode(batch["s"]), "<i2").reshape(-1, 3)
        assert (way == [18000, -24000, 0]).all()

    def test_crystals_of_other_sizes_are_other_batches(self, known_crystals: Crystals) -> None:
        salt, more = known_crystals[1], known_crystals[0]
        few = Crystals(salt.frac_coords[:, :2], salt.atomic_numbers[:, :2], salt.lattice)
        assert [b["shape"] for b in packed([few, few, more])] == [[2, 1, 2], [1, 1, 5]]


class TestWriteHtml:
    @pytest.mark.parametrize("which", [None, 4])
    def test_the_page_holds_the_run(self, run: list[DenoisingFrame], tmp_path: Path, which: int | None) -> None:
        path = write_html(run, tmp_path / "new" / "run.html", which=which)
        data = from_page(path)
        chosen = slice(None) if which is None else slice(which, which + 1)
        frac, numbers = unpacked(data["frames"][0])
        for k, frame in enumerate(run):
            assert (numbers[k] == frame.crystals.atomic_numbers[chosen].numpy()).all()
            true = frame.crystals.frac_coords[chosen].numpy()
            assert wrapped((frac[k] - frac[k][:, :1]) - (true - true[:, :1])).max() < 2**-14
        cells = frame.crystals.lattice[chosen].flatten(1).numpy()
        assert np.abs(np.array(data["cells"]) - cells).max() < 1e-4
        assert data["steps"] == [frame.step for frame in run]
        assert data["sigmas"] == pytest.approx([frame.sigma for frame in run], rel=1e-3)
        assert {int(n) for n in np.unique(numbers)} == {int(n) for n in data["elements"]}

    def test_the_page_is_small_and_needs_no_network(self, run: list[DenoisingFrame], tmp_path: Path) -> None:
        path = write_html(run, tmp_path / "run.html", title="<b>mine</b> & yours")
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_size < 200_000
        assert not re.search(r"https?://|\b(src|@import|fetch|XMLHttpRequest)\b", text)
        assert "&lt;b&gt;mine&lt;/b&gt; &amp; yours" in text
        assert "/*DATA*/" not in text
        assert "/*CELL*/" not in text

    def test_a_recording_gives_the_same_page(self, run: list[DenoisingFrame], tmp_path: Path) -> None:
        one, other = write_html(run, tmp_path / "1.html"), write_html(lab.Trajectory.of(run), tmp_path / "2.html")
        assert one.read_bytes() == other.read_bytes()

    @pytest.mark.parametrize(("frames", "which", "error"), [([], None, SettingError), (None, 9, IndexError)])
    def test_refused(
        self, run: list[DenoisingFrame], tmp_path: Path, frames: Sequence | None, which: int | None, error: type
    ) -> None:
        with pytest.raises(error):
            write_html(run if frames is None else frames, tmp_path / "run.html", which=which)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_made(self, run: list[DenoisingFrame], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(LabError, match="animation"):
            write_html(run, tmp_path / "file" / "run.html")
