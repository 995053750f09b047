"""The benchmark of speed and quality, end to end on a tiny model: its files, and that measured settings are skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.speed_quality import SETTINGS, main, setting
from cdvae_lab import datasets
from cdvae_lab.errors import SettingError
from cdvae_lab.io.reconstructions import read_store
from cdvae_lab.metrics.reconstruction import reconstruction
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.schedules import choose_schedule
from cdvae_lab.sampling.settings import NAMED
from tests.small_model import SMALL

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "pymatgen matminer ase spglib smact joblib torch_geometric plotly pandas pooch tqdm scipy umap IPython PIL"


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("synthetic_perovskites", "val", limit=5)


@pytest.fixture(scope="module")
def command(data: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Five crystals in batches of three, and an untrained model."""
    folder = tmp_path_factory.mktemp("speed")
    torch.manual_seed(0)
    model = CDVAE.for_dataset(data, **SMALL).save(folder / "tiny.safetensors")
    crystals = data.crystals.save_npz(folder / "five.npz")
    return [str(model), "--data", str(crystals), "--batch-size", "3", "--device", "cpu", "--out", str(folder / "out")]


def test_settings_are_read_from_their_names() -> None:
    assert setting("ancestral_25") == ("ancestral", {"steps": 25})
    assert setting("probability_flow_100") == ("probability_flow", {"steps": 100})
    assert setting("langevin_2_argmax") == ("langevin", {"steps_per_level": 2, "types": "argmax"})
    for name, of in NAMED.items():
        assert setting(name) == of
        assert setting(f"{name}_argmax") == (of[0], of[1] | {"types": "argmax"})
        assert of in [setting(measured) for measured in SETTINGS]
    for wrong in ("ancestral", "langevin_x", "_5", "argmax"):
        with pytest.raises(SettingError, match="give ancestral_50"):
            setting(wrong)


def test_decoding_needs_little_more_than_torch_and_is_scored_elsewhere(
    command: list[str], data: datasets.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    block = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.split('.')[0] in {ABSENT.split()!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from benchmarks.speed_quality import main\n"
    )
    code = f"{block}sys.exit(main({[*command, '--settings', 'ancestral_12', 'langevin_1_argmax']!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ancestral_12: 12 calls" in done.stdout

    out = Path(command[-1])
    times = json.loads((out / "times.json").read_text())
    assert (times["about"]["crystals"], times["about"]["data"], times["about"]["device"]) == (5, "five", "cpu")
    assert {name: one["calls"] for name, one in times["settings"].items()} == {
        "ancestral_12": 12,
        "langevin_1_argmax": 51,
    }
    for one in times["settings"].values():
        assert one["seconds"] > 0
        assert one["seconds_with_start"] > 0
    truth, predicted, about = read_store(out / "ancestral_12.safetensors")
    assert torch.equal(truth.atomic_numbers, data.crystals.atomic_numbers)
    assert about["sampler"]["calls"] == 12
    assert len(predicted) == 5

    # Measured settings are skipped, and those of another model or data set are refused.
    written = (out / "ancestral_12.safetensors").stat().st_mtime_ns
    assert main([*command, "--settings", "ancestral_12", "probability_flow_11"]) == 0
    assert (out / "ancestral_12.safetensors").stat().st_mtime_ns == written
    assert capsys.readouterr().out.startswith("probability_flow_11: 11 calls")
    after = json.loads((out / "times.json").read_text())["settings"]
    assert list(after) == ["ancestral_12", "langevin_1_argmax", "probability_flow_11"]
    assert after["ancestral_12"] == times["settings"]["ancestral_12"]
    decoded, model = read_store(out / "probability_flow_11.safetensors")[1], load(command[0])
    schedule = choose_schedule(model, "probability_flow", steps=11)
    for a, b in ((0, 3), (3, 5)):
        expected = last(
            reconstruct(model, truth[a:b].trim(), sampler=schedule, first_number=a, allow_unseen=True)
        ).crystals
        assert torch.equal(decoded[a:b].trim().frac_coords, expected.trim().frac_coords)
        assert torch.equal(decoded[a:b].trim().atomic_numbers, expected.trim().atomic_numbers)
    assert main([*command, "--limit", "4"]) == 2
    assert "holds times with another crystals" in capsys.readouterr().err

    assert main(["--score", str(out), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| langevin 1, types argmax | 51 |" in printed
    measured = json.loads((out / "speed_quality.json").read_text())
    scored = reconstruction(truth, predicted, jobs=1)
    row = measured["rows"][0]
    assert (row["setting"], row["device"], row["match_rate"]) == ("ancestral_12", "cpu", scored.structure.match_rate)
    assert row["match_rate_paper"] == scored.paper.match_rate
    assert row["rmse"] == (None if scored.structure.matched == 0 else pytest.approx(scored.structure.rmse))
    assert "seconds" in row
    assert "plotly" in (out / "speed_quality.html").read_text()[:10000].lower()


def test_bad_input_is_refused(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = [*command[:-1], str(tmp_path / "new")]
    for arguments, message in (
        ([command[0]], "give MODEL, --data and --out"),
        (["--score", str(tmp_path)], "times.json: there is no such file"),
        ([*elsewhere, "--settings", "metropolis_5"], "no sampler 'metropolis'"),
        ([*elsewhere, "--settings", "ancestral_8"], "too few calls"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
