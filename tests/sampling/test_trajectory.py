"""Recordings are lossless: a run resumes from its record bit for bit, wherever it was interrupted."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CheckpointError, LabError, SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.frames import every, last, progress
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.trajectory import Trajectory, record

STEPS = 12


@pytest.fixture(scope="module")
def model() -> CDVAE:
    torch.manual_seed(0)
    config = CDVAEConfig(
        max_atoms=6, hidden_dim=16, latent_dim=8, head_dim=16, encoder_blocks=1, decoder_blocks=1, num_neighbors=8
    )
    model = CDVAE(config).eval().requires_grad_(False)
    model.lattice_mean.copy_(torch.tensor([2.5, 2.5, 2.5, 90, 90, 90]))
    return model


def run(model: CDVAE) -> Iterator[DenoisingFrame]:
    return denoise(model, n=3, seed=4, sampler=Schedule.ancestral(model.config, STEPS))


def assert_same(a: DenoisingFrame, b: DenoisingFrame) -> None:
    assert (a.step, a.sigma, a.seed, a.num_steps) == (b.step, b.sigma, b.seed, b.num_steps)
    for name in ("frac_coords", "atomic_numbers", "lattice"):
        assert torch.equal(getattr(a.crystals, name), getattr(b.crystals, name)), name
    for name in ("score", "z", "numbers"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("sigma", "drift", "diffusion"):
        assert torch.equal(getattr(a.schedule, name), getattr(b.schedule, name)), name


def test_a_run_resumes_from_its_record_bit_for_bit(model: CDVAE, tmp_path: Path) -> None:
    whole = list(run(model))
    path = tmp_path / "run.safetensors"
    for frame in record(run(model), path):
        if frame.step == 5:
            break
    half = Trajectory.load(path)
    assert [f.step for f in half] == [0, 1, 2, 3, 4, 5]
    rest = list(record(denoise(model, frame=half[-1]), path, after=half))
    assert_same(rest[-1], whole[-1])
    joined = Trajectory.load(path)
    assert len(joined) == STEPS + 1
    for again, frame in zip(joined, whole, strict=True):
        assert_same(again, frame)


@pytest.mark.parametrize("kept", ["keep_types", "keep_composition"])
def test_kept_types_and_compositions_stay_kept_after_loading_a_record(model: CDVAE, tmp_path: Path, kept: str) -> None:
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    plain = Schedule.ancestral(model.config, STEPS)
    schedule = dataclasses.replace(plain, **{kept: True})
    whole = list(denoise(model, z=z, seed=4, sampler=schedule))
    path = Trajectory.of(whole[:6]).save(tmp_path / "run.safetensors")
    half = Trajectory.load(path)
    assert getattr(half.schedule, kept)
    assert getattr(half[::2].schedule, kept)
    assert_same(last(denoise(model, frame=half[-1])), whole[-1])
    other = dataclasses.replace(half, schedule=plain)
    with pytest.raises(SettingError, match="different runs"):
        Trajectory.of([half[0], dataclasses.replace(other[1], z=z.clone())])
    with pytest.raises(SettingError, match="do not continue"):
        Trajectory.of([whole[6]], after=other)


def test_a_record_without_kept_fields_keeps_none(model: CDVAE, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = Trajectory.of(run(model)).save(tmp_path / "run.safetensors")
    with safe_open(path, "pt") as file:
        text = {key: value.replace(', "keep_types": false, "keep_composition": false', "") for key, value in
                file.metadata().items()}  # fmt: skip
    assert "keep_" not in str(text)
    save_file(load_file(path), path, text)
    schedule = Trajectory.load(path).schedule
    assert (schedule.keep_types, schedule.keep_composition) == (False, False)


def test_frames_pass_through_a_recording_unchanged(model: CDVAE, tmp_path: Path) -> None:
    for passed, frame in zip(record(run(model), tmp_path / "run.safetensors"), run(model), strict=True):
        assert_same(passed, frame)


def test_a_branch_starts_from_any_frame(model: CDVAE) -> None:
    trajectory = Trajectory.of(run(model))
    branch = last(denoise(model, frame=trajectory[3], seed=9))
    assert branch.finished
    assert not torch.equal(branch.crystals.frac_coords, trajectory[-1].crystals.frac_coords)


@pytest.mark.parametrize("interval", [0.0, 1000.0])
def test_an_interrupted_recording_is_readable_and_ends_with_the_newest_frame(
    model: CDVAE, tmp_path: Path, interval: float
) -> None:
    def interrupted() -> Iterator[DenoisingFrame]:
        for frame in run(model):
            yield frame
            if frame.step == 7:
                raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        last(record(interrupted(), path, thin=4, interval=interval))
    trajectory = Trajectory.load(path)
    assert trajectory.steps.tolist() == [0, 4, 7]
    assert_same(last(denoise(model, frame=trajectory[-1])), last(run(model)))


def test_a_recording_is_on_disk_before_the_run_ends(model: CDVAE, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    frames = record(run(model), path, interval=0)
    next(frames)
    assert Trajectory.load(path).steps.tolist() == [0]  # as a killed process would leave it
    assert list(tmp_path.iterdir()) == [path]


def test_thinning_keeps_the_first_and_the_last(model: CDVAE, tmp_path: Path) -> None:
    last(record(run(model), tmp_path / "run.safetensors", thin=5))
    assert Trajectory.load(tmp_path / "run.safetensors").steps.tolist() == [0, 5, 10, STEPS]
    assert Trajectory.of(every(Trajectory.of(run(model)), 5)).steps.tolist() == [0, 5, 10, STEPS]
    assert Trajectory.of(run(model))[2:9:3].steps.tolist() == [2, 5, 8]


def steps(*numbers: int) -> Iterator[SimpleNamespace]:
    return (SimpleNamespace(step=n, num_steps=10) for n in numbers)


@pytest.mark.parametrize(
    ("given", "n", "kept"),
    [
        (range(11), 4, [0, 4, 8, 10]),
        (range(1, 9), 4, [1, 4, 8]),
        (range(3, 7), 10, [3, 6]),
        ([], 3, []),
        ([5], 3, [5]),
        (range(4), 1, [0, 1, 2, 3]),
    ],
)
def test_every(given: list[int], n: int, kept: list[int]) -> None:
    assert [f.step for f in every(steps(*given), n)] == kept


def test_every_yields_at_once() -> None:
    """A frame that is kept does not wait for the next one."""
    source = steps(*range(5))
    thinned = every(source, 2)
    assert next(thinned).step == 0
    assert next(source).step == 1


def test_last_and_empty_runs() -> None:
    assert last(steps(1, 2, 3)).step == 3
    with pytest.raises(SettingError, match="no frames"):
        last(steps())
    with pytest.raises(SettingError, match="at least one frame"):
        Trajectory.of([])


def test_progress_counts_every_run_and_shows_the_time() -> None:
    text = io.StringIO()
    passed = [f.step for f in progress(steps(*range(11), *range(11)), runs=2, file=text)]
    assert passed == [*range(11), *range(11)]
    line = text.getvalue().split("\r")[-1]
    assert "20/20" in line
    assert "step/s" in line
    assert "<" in line  # time taken < time left


def test_progress_of_a_resumed_run_starts_at_its_step() -> None:
    text = io.StringIO()
    list(progress(steps(8, 9, 10), file=text))
    assert "7/10" in text.getvalue().split("\r")[1]
    assert "10/10" in text.getvalue()


def test_progress_of_real_frames(model: CDVAE) -> None:
    text = io.StringIO()
    assert last(progress(run(model), file=text)).finished
    assert f"{STEPS}/{STEPS}" in text.getvalue()
    assert "sigma 0.01 Å" in text.getvalue()


def test_frames_of_another_run_are_refused(model: CDVAE, tmp_path: Path) -> None:
    a, b = (
        Trajectory.of(run(model)),
        Trajectory.of(denoise(model, n=3, seed=5, sampler=Schedule.ancestral(model.config, STEPS))),
    )
    with pytest.raises(SettingError, match="different runs"):
        Trajectory.of([a[0], b[1]])
    with pytest.raises(SettingError, match="to another file"):
        last(record(denoise(model, frame=a[3], seed=8), tmp_path / "x.safetensors", after=a[:4]))
    frame = a[3]
    kept = dataclasses.replace(frame, schedule=dataclasses.replace(frame.schedule, keep_types=True))
    with pytest.raises(SettingError, match="do not continue"):
        Trajectory.of(denoise(model, frame=kept), after=a[:4])
    with pytest.raises(SettingError, match="to another file"):
        Trajectory.of(a, after=a)
    with pytest.raises(SettingError, match="thin is 0"):
        record(run(model), tmp_path / "x.safetensors", thin=0)
    with pytest.raises(SettingError, match="n is 0"):
        every(run(model), 0)
    with pytest.raises(IndexError):
        a[len(a)]
    with pytest.raises(SettingError, match="are empty"):
        a[5:5]


def test_damaged_and_foreign_files(model: CDVAE, tmp_path: Path) -> None:
    path = Trajectory.of(run(model)).save(tmp_path / "run.safetensors")
    whole = path.read_bytes()
    for length in (0, 5, 500, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"run\.safetensors.*truncated"):
            Trajectory.load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        Trajectory.load(tmp_path / "none.safetensors")
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds a model, but a trajectory"):
        Trajectory.load(tmp_path / "model.safetensors")


def test_a_file_that_cannot_be_written_is_an_error(model: CDVAE, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot write"):
        last(record(run(model), tmp_path / "file" / "run.safetensors"))


def test_one_crystal_as_a_film_leaves_the_lab(srtio3: Crystals, model: CDVAE, tmp_path: Path) -> None:
    from ase.io import read
    from pymatgen.core import Structure

    trajectory = Trajectory.of(every(run(model), 4))
    film = trajectory.crystal(1)
    assert torch.equal(film.frac_coords[2], trajectory[2].crystals.frac_coords[1])
    frames = read(trajectory.write_extxyz(tmp_path / "film.xyz", which=1), index=":")
    assert [atoms.info["step"] for atoms in frames] == trajectory.steps.tolist()
    count = int(film.num_atoms[0])
    torch.testing.assert_close(
        torch.from_numpy(frames[2].arrays["score"]), trajectory.score[2, 1, :count], check_dtype=False
    )
    files = trajectory.write_cif(tmp_path / "film", which=1)
    assert [file.name for file in files] == [f"step_{step:04d}.cif" for step in trajectory.steps]
    assert Structure.from_file(files[-1]).num_sites == count
