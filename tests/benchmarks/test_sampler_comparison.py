"""The comparison of samplers: its schedules in closed form, and the commands end to end on a tiny model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from benchmarks.sampler_comparison import (
    LEVELS,
    Setting,
    default_plan,
    draw,
    main,
    noise_levels,
    partial_renoising,
    read_plan,
)
from cdvae_lab import datasets
from cdvae_lab.errors import SettingError
from cdvae_lab.io.reconstructions import read_store
from cdvae_lab.metrics.reconstruction import reconstruction
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.schedules import Schedule
from tests.small_model import SMALL

CONFIG = CDVAEConfig(max_atoms=20)
TABLE = Path(__file__).resolve().parents[2] / "docs" / "results" / "samplers.csv"


@pytest.mark.parametrize(
    ("share", "schedule"), [(0.0, Schedule.ancestral(CONFIG, 50)), (1.0, Schedule.renoising(CONFIG, 50, "geometric"))]
)
def test_ends_of_the_family_are_samplers_of_the_package(share: float, schedule: Schedule) -> None:
    made = Setting(50, share).schedule(CONFIG)
    for name in ("sigma", "drift", "diffusion"):
        torch.testing.assert_close(getattr(made, name), getattr(schedule, name), rtol=1e-12, atol=1e-15)
    assert made.keep_composition


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_point_mass_has_the_next_levels_noise_after_every_step(share: float, levels: str) -> None:
    # Of atoms at 0 with noise of variance v the score is -x / sigma^2; a step maps v to v (1 - drift / sigma^2)^2 +
    # diffusion^2.
    sigma = noise_levels(CONFIG, 40, levels)
    made = partial_renoising(sigma, share)
    variance = sigma**2 * (1 - made.drift / sigma**2) ** 2 + made.diffusion**2
    torch.testing.assert_close(variance[:-1], sigma[1:] ** 2)
    assert variance[-1] == 0


@pytest.mark.parametrize("n", [6, 25, 200])
@pytest.mark.parametrize("levels", LEVELS)
def test_noise_levels_decrease_from_the_largest_to_the_smallest(n: int, levels: str) -> None:
    sigma = noise_levels(CONFIG, n, levels)
    assert sigma.shape == (n,)
    assert (sigma.diff() < 0).all()
    torch.testing.assert_close(sigma[[0, -1]], torch.tensor([CONFIG.sigma_max, CONFIG.sigma_min], dtype=torch.float64))
    if levels == "dense":
        inside = (sigma < 1.0 + 1e-9) & (sigma > 0.1 - 1e-9)
        assert int(inside.sum()) == round(0.7 * n)


def test_settings_that_are_none_are_refused(tmp_path: Path) -> None:
    for wrong in ({"share": 1.5}, {"levels": "thick"}, {"types": "drawn"}, {"share": None, "levels": "dense"}):
        with pytest.raises(SettingError):
            Setting(**{"calls": 50, **wrong})
    with pytest.raises(SettingError, match="multiple of 50 calls, and one"):
        Setting(60, None).schedule(CONFIG)
    with pytest.raises(SettingError, match="at least 2 calls"):
        noise_levels(CONFIG, 1, "dense")
    plan = tmp_path / "plan.json"
    for text, message in (
        ("[", "cannot be read as JSON"),
        ("{}", "is no list"),
        ('[{"calls": 9}, {"steps": 9}]', "entry 2"),
    ):
        plan.write_text(text)
        with pytest.raises(SettingError, match=message):
            read_plan(plan)
    plan.write_text(json.dumps([{"calls": 51, "share": None}]))
    assert read_plan(plan) == [Setting(51, None)]
    assert read_plan(plan)[0].schedule(CONFIG).name == "langevin"
    for setting in default_plan():
        assert len(setting.schedule(CONFIG)) == setting.calls


def test_the_commands_decode_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = datasets.load("synthetic_perovskites", "val", limit=5)
    torch.manual_seed(0)
    model = CDVAE.for_dataset(data, **SMALL).save(tmp_path / "tiny.safetensors")
    plan = tmp_path / "plan.json"
    settings = [{"calls": 8, "levels": "dense"}, {"calls": 8, "share": 0.3, "max_attempts": 2}]
    plan.write_text(json.dumps(settings[:1]))
    crystals, out = data.crystals.save_npz(tmp_path / "five.npz"), tmp_path / "out"
    command = [str(model), "--data", str(crystals), "--plan", str(plan), "--device", "cpu", "--out", str(out)]
    assert main([*command, "--batch-size", "3"]) == 0

    # A single attempt equals `reconstruct`.
    truth, predicted, about = read_store(out / Setting(8, 1.0, "dense").file)
    schedule = Setting(**about["setting"]).schedule(CONFIG)
    expected = last(reconstruct(load(model), truth, sampler=schedule, allow_unseen=True)).crystals
    assert torch.equal(predicted.atomic_numbers, expected.atomic_numbers)
    assert torch.allclose(predicted.frac_coords, expected.frac_coords, atol=1e-4)
    assert about["attempts"] == [1] * 5

    # Measured settings are skipped, and crystals of another model are refused.
    plan.write_text(json.dumps(settings))
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("renoising in part, 0.3, 8 calls: ")
    assert main([*command, "--limit", "4"]) == 2
    assert "was decoded with another ids" in capsys.readouterr().err

    assert main(["--score", str(out), "--rows", "4", "--jobs", "1"]) == 0
    assert "| 8 | renoising, dense | 1 |" in capsys.readouterr().out
    with (out / "samplers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["data"], row["crystals"], row["compared"]) for row in rows] == [
        ("tiny", "five", "5", "4")
    ] * 2
    dense = next(row for row in rows if row["levels"] == "dense")
    assert float(dense["match_rate"]) == reconstruction(truth[:4], predicted[:4], jobs=1).structure.match_rate


def test_refusals_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mp_20"]) == 2
    assert "give MODEL, --data and --out" in capsys.readouterr().err
    assert main(["--score", str(tmp_path)]) == 2
    assert "holds no decoded crystals" in capsys.readouterr().err


def test_the_figure_draws_the_documented_table() -> None:
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = draw(rows, "dark")
    assert [note.text for note in figure.layout["annotations"]] == ["mp_20 (val)", "carbon_24 (val)"]
    ancestral = next(trace for trace in figure.data if trace.name == "ancestral")
    assert list(ancestral.x) == [25, 50, 100, 200, 500]
    assert [round(share) for share in ancestral.y] == [16, 21, 24, 24, 25]
    with pytest.raises(SettingError, match="no data set"):
        draw(rows[:3])
