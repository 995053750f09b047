"""Every command end to end on a tiny model, in this process where possible; bad input gets code 2 and no traceback."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from pymatgen.core import Element, Lattice, Structure
from safetensors.torch import load_file

import cdvae_lab as lab
from cdvae_lab import cli, datasets
from cdvae_lab.cli import train
from cdvae_lab.cli.flags.property_model import state_of
from cdvae_lab.cli.generate import coefficients, consecutive
from cdvae_lab.cli.info import lines
from cdvae_lab.cli.optimize import decoded_at
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import atoms_from_counts, element_counts
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.evaluation.sources import read_source
from cdvae_lab.explore.guided import optimize_guided
from cdvae_lab.explore.saved_steps import load_steps
from cdvae_lab.io import assets
from cdvae_lab.metrics.reconstruction import reconstruction
from cdvae_lab.models import checkpoints
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load_property_model, read_training_state
from cdvae_lab.models.latents import latents_of
from cdvae_lab.sampling.decoding import decode, latent_distance
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.training.losses import TERMS
from cdvae_lab.training.settings import LossWeights

ROOT = Path(__file__).resolve().parents[2]
DATA = ["synthetic_perovskites", "--limit", "64"]
TINY = [
    "--batch-size", "16", "--hidden-dim", "16", "--latent-dim", "8", "--head-dim", "16", "--encoder-blocks", "1",
    "--decoder-blocks", "1", "--num-neighbors", "8", "--warm-up", "2", "--log-every", "3", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training state after twelve steps, with its log."""
    out = tmp_path_factory.mktemp("trained") / "tiny.safetensors"
    settings = ["--steps", "12", "--validate-every", "6", "--validate-limit", "8", "--weight-kl", "0.02"]
    assert cli.main(["train", *DATA, *TINY, *settings, "--out", str(out)]) == 0
    return out


def rows(state: Path) -> list[dict]:
    return [json.loads(line) for line in state.with_suffix(".jsonl").read_text().splitlines()]


# Training


def test_training_keeps_the_averaged_weights_that_validate_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of five validations is the best; the last two are of a resumed run, which must not overwrite it."""
    out = tmp_path / "a.safetensors"
    values = iter([3.0, 1.0, 2.0, 1.5, 1.2])
    seen: list[CDVAE] = []

    def validate(model: CDVAE, dataset: Dataset) -> dict[str, float]:
        seen.append(model)
        return dict.fromkeys(TERMS, 0.0) | {"types": next(values)}

    monkeypatch.setattr(train, "validation_losses", validate)
    validation = ["--validate-every", "2", "--out", str(out)]
    assert cli.main(["train", *DATA, *TINY, *validation, "--steps", "6", "--weight-types", "2"]) == 0
    assert cli.main(["train", *DATA, *validation, "--resume", "--steps", "10", "--device", "cpu"]) == 0
    assert [row["val_loss"] for row in rows(out) if "val_loss" in row] == [6.0, 2.0, 4.0, 3.0, 2.4]
    kept = checkpoints.load(train.best_of(out))
    assert kept.metadata["steps"] == 4
    for name, tensor in kept.state_dict().items():
        assert torch.equal(tensor, seen[1].state_dict()[name]), name


def test_the_flags_of_regularization_reach_the_run(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    flags = ["--weight-decay", "0.1", "--strain", "0.02", "--rattle", "0.05", "--decoder-dropout", "0.2"]
    assert cli.main(["train", *DATA, *TINY, *flags, "--steps", "1", "--validate-every", "0", "--out", str(out)]) == 0
    state = read_training_state(out)
    assert (state.fit["weight_decay"], state.fit["strain"], state.fit["rattle"]) == (0.1, 0.02, 0.05)
    assert isinstance(state.model, CDVAE)
    assert state.model.config.decoder_dropout == 0.2


def test_training_leaves_a_state_and_a_log(state: Path) -> None:
    model = checkpoints.load(state)
    assert model.config.hidden_dim == 16
    assert model.metadata["data"]["labels"] == 64
    assert model.metadata["seconds"] > 0
    steps = [row["step"] for row in rows(state) if "loss" in row]
    assert steps == [3, 6, 9, 12]
    validated = [row for row in rows(state) if "val_coordinates" in row]
    assert [row["step"] for row in validated] == [6, 12]
    loss_weights = dataclasses.asdict(LossWeights(kl=0.02))
    for each in validated:
        terms = {name: each[f"val_{name}"] for name in loss_weights}
        assert each["val_loss"] == pytest.approx(sum(loss_weights[name] * value for name, value in terms.items()))
    row = rows(state)[0]
    weights = {
        "coordinates": 10,
        "types": 1,
        "num_atoms": 1,
        "lattice": 10,
        "composition": 1,
        "kl": 0.02,
        "property": 1,
    }
    assert row["loss"] == pytest.approx(sum(w * row[name] for name, w in weights.items()), rel=1e-4)


def test_a_run_in_two_pieces_is_the_run_in_one(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.safetensors"
    command = ["train", *DATA, "--out", str(out), "--validate-every", "0", "--log-every", "3"]
    first = [*TINY, "--steps", "12", "--weight-kl", "0.02"]
    assert cli.main([*command, *first, "--time-limit", "0"]) == 0  # stops after one step
    assert [row["step"] for row in rows(out)] == [1]
    log = out.with_suffix(".jsonl")
    log.write_text(log.read_text() + '{"step": 7}\n{"ste')  # as a killed run may leave the file
    assert cli.main([*command, "--resume"]) == 0
    assert [row["step"] for row in rows(out)] == [1, 3, 6, 9, 12]
    for name, tensor in checkpoints.load(out).state_dict().items():
        assert torch.equal(tensor, checkpoints.load(state).state_dict()[name]), name


def test_resuming_without_a_state_starts_and_a_finished_one_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        *DATA,
        *TINY[:2],
        "--steps",
        "1",
        "--validate-every",
        "0",
        "--out",
        str(tmp_path / "a.safetensors"),
    ]
    assert cli.main([*command, *TINY[2:], "--resume"]) == 0
    assert cli.main([*command, "--resume"]) == 0
    assert "all of its steps are done" in capsys.readouterr().err


def test_ctrl_c_stops_after_a_step_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.safetensors"
    log = out.with_suffix(".jsonl")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without one

    def interrupt() -> None:
        while not (log.is_file() and log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = cli.main(["train", *DATA, *TINY, "--steps", "1000000", "--validate-every", "0", "--out", str(out)])
    thread.join()
    assert code == 130
    assert "--resume resumes" in capsys.readouterr().err
    assert 0 < rows(out)[-1]["step"] < 1_000_000
    assert checkpoints.load(out).config.hidden_dim == 16
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


FIVE = ["synthetic_perovskites", "--steps", "3", "--limit", "5", "--jobs", "1"]


def decoded(path: Path) -> tuple[Crystals, Crystals]:
    """True and decoded crystals that `reconstruct --out PATH` kept beside its table."""
    tensors = load_file(path.with_suffix(".safetensors"))
    fields = ("frac_coords", "atomic_numbers", "lattice")
    truth, predicted = (Crystals(*(tensors[f"{side}.{n}"] for n in fields)) for side in ("truth", "predicted"))
    return truth, predicted


def test_more_attempts_reconstruct_nearer(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["reconstruct", str(state), *FIVE, "--batch-size", "2"]
    one, three = tmp_path / "one.csv", tmp_path / "three.csv"
    assert cli.main([*common, "--out", str(one)]) == 0
    assert cli.main([*common, "--out", str(three), "--max-attempts", "3", "--tolerance", "0"]) == 0
    assert "at most 3 attempts" in capsys.readouterr().out
    model = checkpoints.load(state)
    z = model.encode(decoded(one)[0]).mu
    once, best = (latent_distance(model, decoded(path)[1], z) for path in (one, three))
    assert (best <= once + 1e-5).all()
    assert (best < once - 1e-5).any()
    assert cli.main([*common, "--out", str(three), "--max-attempts", "2", "--tolerance", "0"]) == 2
    assert "another max_attempts" in capsys.readouterr().err
    assert cli.main([*common, "--out", str(one), "--max-attempts", "0"]) == 2


def test_attempts_start_at_the_given_noise_levels(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["reconstruct", str(state), *FIVE, "--max-attempts", "2", "--tolerance", "0"]
    out = tmp_path / "out.csv"
    assert cli.main([*common, "--out", str(out), "--restart-sigmas", "inf", "2"]) == 0
    model = checkpoints.load(state)
    truth, predicted = decoded(out)
    expected = last(decode(
        model, model.encode(truth).mu, max_attempts=2, tolerance=0, restart_sigmas=(float("inf"), 2), batch_size=64,
        steps=3,
    )).crystals  # fmt: skip
    assert torch.equal(predicted.frac_coords, expected.frac_coords)
    assert cli.main([*common, "--out", str(out), "--restart-sigmas", "inf", "1"]) == 2
    assert "another restart_sigmas" in capsys.readouterr().err
    for given in (["0"], ["inf", "-1"]):
        assert cli.main([*common, "--out", str(tmp_path / "no.csv"), "--restart-sigmas", *given]) == 2
    assert "noise levels above 0" in capsys.readouterr().err
    assert cli.main([*common, "--max-attempts", "1", "--out", str(out), "--restart-sigmas", "inf"]) == 2
    assert "--max-attempts of at least 2" in capsys.readouterr().err


def own_table(folder: Path) -> Path:
    """Write a table of two crystals without a column split."""
    texts = [assets.asset_path(f"examples/{name}.cif").read_text(encoding="utf-8") for name in ("SrTiO3", "KTaO3")]
    path = folder / "mine.csv"
    pandas.DataFrame({"cif": texts}).to_csv(path, index=False)
    return path


def test_a_split_that_the_data_lack_is_refused(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = own_table(tmp_path)
    out = tmp_path / "out"
    for command in (
        ["reconstruct", "perov_5", str(table), "--split", "val", "--steps", "2", "--out", f"{out}.csv"],
        ["train", str(table), "--split", "train", "--steps", "1", "--out", f"{out}.safetensors"],
        ["train", str(table), "--validate-on", "val", "--steps", "1", "--out", f"{out}.safetensors"],
        ["optimize", "perov_5", str(table), "--split", "test", "--search-steps", "20", "--out", str(out)],
    ):
        assert cli.main(command) == 2
        assert "mine.csv: has no column split" in capsys.readouterr().err
    assert cli.main(["reconstruct", "perov_5", str(table), "--steps", "2", "--out", f"{out}.csv"]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_crystals_that_do_not_encode_back_can_be_rejected(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["reconstruct", str(state), *FIVE, "--refine", "2"]
    names = ("all", "some", "none")
    all_of_them, some, none = (tmp_path / f"{name}.csv" for name in names)
    assert cli.main([*common, "--out", str(all_of_them)]) == 0
    assert "refined by 2 steps" in capsys.readouterr().out

    model = checkpoints.load(state)
    truth, predicted = decoded(all_of_them)
    distance = latent_distance(model, predicted, model.encode(truth).mu)
    limit = float(distance.sort().values[1:3].mean())
    assert cli.main([*common, "--out", str(some), "--reject-above", str(limit)]) == 0
    kept = torch.isfinite(decoded(some)[1].frac_coords).all(-1).all(-1)
    assert torch.equal(kept, distance <= limit)
    assert [row.split(",")[3] for row in some.read_text().splitlines()[1:]] == [str(bool(k)) for k in kept]
    capsys.readouterr()
    assert cli.main([*common, "--out", str(none), "--reject-above", "0"]) == 0
    assert "those above 0 rejected" in capsys.readouterr().out
    assert {row.split(",")[5] for row in none.read_text().splitlines()[1:]} == {"False"}
    assert cli.main([*common, "--out", str(none), "--reject-above", "1"]) == 2
    assert cli.main([*common, "--out", str(none), "--reject-above", "-1"]) == 2


def test_a_search_is_decoded_along_the_way(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "search"
    command = ["optimize", str(state), "synthetic_perovskites", "--split", "val", "--limit", "3", "--out", str(out)]
    command += ["--search-steps", "20", "--decodings", "4", "--lr", "0.05", "--steps", "3", "--batch-size", "2"]
    assert cli.main(command) == 0
    files = sorted(out.glob("decoded_*.npz"))
    assert [file.name for file in files] == [f"decoded_{i:03d}.npz" for i in range(4)]
    assert "step 18: predicted" in capsys.readouterr().err
    model = checkpoints.load(state)
    stops = load_steps(out / "steps.safetensors", model)
    assert [stop.step for stop in stops] == [0, 9, 18, 20]
    assert (stops[-1].prediction < stops[0].prediction).all()
    for file, stop in zip(files, stops, strict=True):
        decoded = last(denoise(model, z=stop.z, steps=3)).crystals.trim()
        assert torch.equal(Crystals.load_npz(file).trim().atomic_numbers, decoded.atomic_numbers)

    files[1].unlink()
    kept = files[0].stat().st_mtime_ns
    assert cli.main(command) == 0
    assert files[1].is_file()
    assert files[0].stat().st_mtime_ns == kept
    assert cli.main([*command, "--prior-weight", "0.5"]) == 2
    assert "another prior_weight" in capsys.readouterr().err
    assert cli.main([*command[:-2], "--decodings", "1"]) == 2
    nowhere = [*command, "--target", "low"]
    nowhere[nowhere.index(str(out))] = str(tmp_path / "nowhere")
    assert cli.main(nowhere) == 2
    assert not (tmp_path / "nowhere").exists()
    judged = ["evaluate", "optimization", "--crystals", str(out), "--starts", "3", "--reference", "perov_5"]
    assert cli.main([*judged, "--predictor", str(state), "--out", str(tmp_path / "report")]) == 0
    assert "SR5" in capsys.readouterr().out


def test_a_guided_search_is_decoded_after_each_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "search"
    command = ["optimize", "perov_5", "synthetic_perovskites", "--split", "val", "--limit", "2", "--out", str(out)]
    command += ["--steps", "2", "--guidance", "5", "--rounds", "2"]
    assert cli.main(command) == 0
    files = sorted(out.glob("decoded_*.npz"))
    assert [file.name for file in files] == [f"decoded_{i:03d}.npz" for i in range(3)]
    assert "step 40: predicted" in capsys.readouterr().err
    model = checkpoints.load("perov_5")
    start = latents_of(model, datasets.load("synthetic_perovskites", "val")[:2].crystals, allow_unseen=True)
    z = last(optimize_guided(model, start, guidance=5, rounds=2)).z
    decoded = last(denoise(model, z=z, steps=2)).crystals.trim()
    assert torch.equal(Crystals.load_npz(files[2]).trim().atomic_numbers, decoded.atomic_numbers)

    before = files[1].read_bytes()
    files[1].unlink()
    assert cli.main(command) == 0
    assert files[1].read_bytes() == before
    capsys.readouterr()
    assert cli.main([*command, "--noise-level", "1"]) == 2
    assert "another noise_level" in capsys.readouterr().err
    assert cli.main([*command, "--lr", "0.1"]) == 2
    assert "--lr does nothing with --guidance" in capsys.readouterr().err
    elsewhere = [*command[:8], str(tmp_path / "b")]
    for flags, message in (
        (["--rounds", "3"], "--rounds belongs to guided diffusion: give --guidance too"),
        (["--guidance", "5", "--prior", "normal"], "needs a learned prior"),
        (["--guidance", "-5"], "guidance must be 0 or more"),
    ):
        assert cli.main([*elsewhere, *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_the_paper_decodes_eleven_times() -> None:
    assert sorted(decoded_at(5000, 11)) == [*range(0, 4996, 555), 5000]
    assert sorted(decoded_at(5, 6)) == [0, 1, 2, 3, 4, 5]
    assert sorted(decoded_at(7, 2)) == [0, 7]


def test_a_prior_is_learned_and_drawn_from(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "with_prior.safetensors"
    fitting = ["prior", str(state), *DATA, "--out", str(out), "--steps", "5", "--batch-size", "8", "--hidden-dim", "8"]
    assert cli.main(fitting) == 0
    model = checkpoints.load(out)
    assert model.prior is not None
    assert model.prior.config.hidden_dim == 8
    assert checkpoints.fingerprint(model) == checkpoints.fingerprint(checkpoints.load(state))
    assert cli.main(fitting) == 2
    assert "exists; " in capsys.readouterr().err

    generate = ["generate", "-n", "2", "--steps", "3", "--format", "npz"]
    assert cli.main([*generate, str(out), "--out", str(tmp_path / "learned")]) == 0
    assert cli.main([*generate, str(out), "--out", str(tmp_path / "normal"), "--prior", "normal"]) == 0
    learned, normal = (Crystals.load_npz(next((tmp_path / name).glob("*.npz"))) for name in ("learned", "normal"))
    assert not torch.equal(learned.lattice, normal.lattice)
    assert cli.main([*generate, str(out), "--out", str(tmp_path / "learned"), "--prior", "normal"]) == 2
    assert "another prior" in capsys.readouterr().err
    assert cli.main([*generate, str(state), "--out", str(tmp_path / "none"), "--prior", "learned"]) == 2
    assert "has no learned prior" in capsys.readouterr().err


def test_a_prior_of_compositions_is_learned(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "with_prior.safetensors"
    fitting = ["prior", str(state), *DATA, "--out", str(out), "--steps", "5", "--batch-size", "8", "--hidden-dim", "8"]
    assert cli.main([*fitting, "--composition-steps", "-1"]) == 2
    assert cli.main([*fitting, "--composition-steps", "4"]) == 0
    assert "nats each" in capsys.readouterr().err
    prior = checkpoints.load(out).prior
    assert prior is not None
    assert prior.composition_model is not None
    generate = ["generate", str(out), "-n", "2", "--steps", "3", "--format", "npz", "--out"]
    assert cli.main([*generate, str(tmp_path / "all")]) == 0
    symbol = Element.from_Z(prior.composition_model.config.elements[0]).symbol
    assert cli.main([*generate, str(tmp_path / "one"), "--formula", symbol]) == 0
    assert cli.main([*generate, str(tmp_path / "cold"), "--temperature", "0.001"]) == 0
    assert cli.main([*generate, str(tmp_path / "all"), "--temperature", "0.001"]) == 2
    for wrong in (["0"], ["0.5", "--prior", "normal"], ["0.5", "--formula", symbol]):
        assert cli.main([*generate, str(tmp_path / "none"), "--temperature", *wrong]) == 2
    every, one = (Crystals.load_npz(next((tmp_path / name).glob("*.npz"))) for name in ("all", "one"))
    assert not torch.equal(every.lattice, one.lattice)
    capsys.readouterr()
    for wrong in (["Og"], ["SrTi?"], [symbol, "--prior", "normal"]):
        assert cli.main([*generate, str(tmp_path / "none"), "--formula", *wrong]) == 2
    assert cli.main([*generate, str(tmp_path / "one"), "--formula", f"{symbol}2"]) == 2
    assert "another prior" in capsys.readouterr().err


def test_crystals_are_of_the_composition_that_was_drawn(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "with_prior.safetensors"
    fitting = ["prior", str(state), *DATA, "--out", str(out), "--steps", "3", "--batch-size", "8", "--hidden-dim", "8"]
    assert cli.main([*fitting, "--composition-steps", "3"]) == 0
    model = checkpoints.load(out)
    assert model.prior is not None
    assert model.prior.composition_model is not None
    said = dict(lines(model))["prior"]
    assert said.startswith("learned, ")
    assert said.endswith("the composition is drawn first")
    assert dict(lines(checkpoints.load(state)))["prior"] == "N(0, I)"
    drawn = element_counts(atoms_from_counts(model.prior.composition_model.sample(7, torch.arange(4))))
    for name, more in (("once", []), ("twice", ["--max-attempts", "2", "--tolerance", "0"])):
        generate = ["generate", str(out), "-n", "4", "--seed", "7", "--steps", "3", "--batch-size", "2", *more]
        assert cli.main([*generate, "--format", "npz", "--out", str(tmp_path / name)]) == 0
        crystals = read_source(tmp_path / name).crystals
        assert torch.equal(element_counts(crystals.atomic_numbers), drawn)
    once, twice = (read_source(tmp_path / name).crystals for name in ("once", "twice"))
    z = model.prior.sample(7, torch.arange(4))
    distances = [latent_distance(model, c.to("cpu", torch.float32), z) for c in (once, twice)]
    assert (distances[1] <= distances[0] + 1e-3).all()
    assert (
        cli.main([*generate, "--types", "argmax", "--format", "npz", "--out", str(tmp_path / "twice")]) == 2
    )  # other settings


def test_a_property_model_is_trained_and_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--hidden-dim", "8", "--blocks", "1", "--batch-size", "16", "--warm-up", "2", "--device", "cpu"]
    train = ["property", *DATA, *tiny, "--lr", "1e-2"]
    out = tmp_path / "predictor.safetensors"
    assert cli.main([*train, "--steps", "40", "--out", str(out)]) == 0
    assert not state_of(out).exists()
    model = load_property_model(out)
    data = datasets.load("synthetic_perovskites", "val", limit=64)
    wrong = float((model(data.crystals) - data.labels).abs().mean())
    assert f"mean absolute error {wrong:.4f}" in capsys.readouterr().err
    assert model.metadata["validation"] == {"mean_absolute_error": pytest.approx(wrong, rel=1e-5), "labels": 64}
    assert wrong < float((data.labels - model.property_mean).abs().mean())  # than a prediction of the mean
    assert cli.main([*train, "--steps", "40", "--out", str(out)]) == 2
    assert "exists; " in capsys.readouterr().err

    # Interrupted, refused where the state would be lost, and resumed to the end.
    again = tmp_path / "again.safetensors"
    assert stopped_after_a_step([*train, "--steps", "1000000", "--out", str(again), "--checkpoint-every", "0"]) == 130
    assert "--resume resumes" in capsys.readouterr().err
    assert not again.exists()
    done = read_training_state(state_of(again)).step
    assert cli.main([*train, "--steps", "5", "--out", str(again)]) == 2
    assert "resume it with --resume" in capsys.readouterr().err
    assert cli.main(["property", *DATA, "--hidden-dim", "4", "--resume", "--out", str(again)]) == 2
    assert "leave out --hidden-dim" in capsys.readouterr().err
    resumed = ["property", *DATA, "--resume", "--out", str(again)]
    assert cli.main([*resumed, "--steps", str(done)]) == 2
    assert "all of its steps are done" in capsys.readouterr().err
    assert cli.main([*resumed, "--steps", str(done + 3)]) == 0
    assert load_property_model(again).config == model.config
    assert not state_of(again).exists()


def stopped_after_a_step(command: list[str]) -> int:
    """Return the exit code of a command that is interrupted once its state exists."""
    path = state_of(Path(command[command.index("--out") + 1]))

    def interrupt() -> None:
        while not path.is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = cli.main(command)
    thread.join()
    return code


def test_training_needs_no_pymatgen_where_the_data_are_parsed(tmp_path: Path, known_crystals: Crystals) -> None:
    """A GPU machine with little more than torch trains and decodes; another one compares."""
    table, cache = tmp_path / "data.csv", tmp_path / "cache"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cif", "energy"])
        for path in known_crystals.write_cif(tmp_path / "cif"):
            writer.writerow([path.read_text(), 1.5])
    datasets.load(table, cache=cache, label="energy", progress=False)
    absent = "pymatgen ase spglib smact joblib torch_geometric plotly nglview IPython ipywidgets PIL"
    block = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.split('.')[0] in {absent.split()!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from cdvae_lab.cli import main\n"
    )
    model, store = str(tmp_path / "m.safetensors"), str(tmp_path / "decoded.safetensors")
    common = ["--cache", str(cache), "--label", "energy", "--device", "cpu"]
    train = ["train", str(table), "--steps", "2", "--out", model, *TINY[2:], *common]
    decode = ["reconstruct", model, str(table), "--steps", "3", "--decode-only", store, *common]
    code = f"{block}sys.exit(main({train!r}) or main({decode!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert cli.main(["reconstruct", "--score", store, "--jobs", "1"]) == 0
    assert Path(store).with_suffix(".csv").read_text().count("\n") == 4


# Generation


def test_generated_files_equal_denoise_and_are_not_generated_again(state: Path, tmp_path: Path) -> None:
    from pymatgen.core import Structure

    out = tmp_path / "out"
    command = ["generate", str(state), "--out", str(out), "--steps", "6", "--seed", "3", "--batch-size", "2"]
    assert cli.main([*command, "-n", "3"]) == 0
    files = sorted(out.glob("*.cif"))
    assert [file.name for file in files] == ["crystal_00000.cif", "crystal_00001.cif", "crystal_00002.cif"]
    model = checkpoints.load(state)
    expected = last(denoise(model, n=3, seed=3, steps=6)).crystals.to_structures()
    for file, structure in zip(files, expected, strict=True):
        assert Structure.from_file(file).composition == structure.composition
        assert Structure.from_file(file).volume == pytest.approx(structure.volume, rel=1e-4)

    again, times = Structure.from_file(files[1]), files[0].stat().st_mtime_ns
    files[1].unlink()
    assert cli.main([*command, "-n", "4"]) == 0
    assert files[0].stat().st_mtime_ns == times
    assert Structure.from_file(files[1]).matches(again)  # in another batch, so not to the last digit
    assert len(list(out.glob("*.cif"))) == 4


@pytest.mark.parametrize(("fmt", "suffix"), [("poscar", ".vasp"), ("extxyz", ".xyz")])
def test_other_formats_are_read_back(state: Path, tmp_path: Path, fmt: str, suffix: str) -> None:
    command = ["generate", str(state), "-n", "2", "--format", fmt, "--steps", "4", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    from cdvae_lab.io import convert

    for number in range(2):
        assert len(convert.read(tmp_path / f"crystal_{number:05d}{suffix}")) == 1


def test_npz_holds_a_batch_a_file_and_is_resumed(state: Path, tmp_path: Path) -> None:
    command = ["generate", str(state), "--steps", "4", "--format", "npz", "--batch-size", "2", "--device", "cpu"]
    assert cli.main([*command, "-n", "3", "--out", str(tmp_path / "o")]) == 0
    assert sorted(p.name for p in (tmp_path / "o").glob("*.npz")) == [
        "crystals_00000_00001.npz", "crystals_00002_00002.npz",
    ]  # fmt: skip
    assert cli.main([*command, "-n", "6", "--out", str(tmp_path / "o")]) == 0
    model = checkpoints.load(state)
    expected = last(denoise(model, n=6, steps=4)).crystals
    crystals = read_source(tmp_path / "o").crystals
    assert torch.equal(crystals.atomic_numbers, expected.atomic_numbers)
    torch.testing.assert_close(crystals.frac_coords.float(), expected.frac_coords, rtol=0, atol=1e-4)


def test_a_named_setting_and_types_are_those_of_denoise(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoints.load(state)
    command = ["generate", str(state), "-n", "2", "--sampler", "preview", "--types", "argmax", "--format", "npz"]
    assert cli.main([*command, "--out", str(tmp_path / "named")]) == 0
    [file] = (tmp_path / "named").glob("*.npz")
    made, expected = read_source(file).crystals, last(denoise(model, n=2, sampler="preview", types="argmax")).crystals
    assert torch.equal(made.atomic_numbers, expected.atomic_numbers)
    torch.testing.assert_close(made.frac_coords.float(), expected.frac_coords)
    settings = json.loads((tmp_path / "named" / "settings.json").read_text())["sampler"]
    assert (settings["name"], settings["calls"]) == ("renoising", 50)
    assert "keep_composition" not in settings  # it is written only where it is true
    # A named setting and its settings in full give the same crystals, so the same folder.
    in_full = ["generate", str(state), "-n", "2", "--steps", "50", "--types", "argmax", "--format", "npz"]
    assert cli.main([*in_full, "--out", str(tmp_path / "named")]) == 0
    assert "2 crystals existed, 0 are new" in capsys.readouterr().err
    assert cli.main([*in_full[:-4], "--format", "npz", "--out", str(tmp_path / "named")]) == 2
    assert "another sampler" in capsys.readouterr().err


def test_crystals_of_different_runs_are_not_mixed(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(state), "-n", "1", "--steps", "4", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert cli.main([*command, "--seed", "1"]) == 2
    assert "another seed; choose another --out" in capsys.readouterr().err


def test_consecutive() -> None:
    assert [list(r) for r in consecutive([0, 1, 2, 5, 6, 9], 2)] == [[0, 1], [2], [5, 6], [9]]
    assert list(consecutive([], 2)) == []


# Reconstruction


def test_reconstruction_is_scored_like_the_metric(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "val.csv"
    command = ["reconstruct", str(state), "synthetic_perovskites", "--limit", "5", "--steps", "6", "--batch-size", "2"]
    assert cli.main([*command, "--out", str(out), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    model, truth = checkpoints.load(state), datasets.load("synthetic_perovskites", "val", limit=5)
    predicted = last(reconstruct(model, truth.crystals, steps=6, allow_unseen=True)).crystals
    assert reconstruction(truth.crystals, predicted, jobs=1).table() in printed
    assert "5 crystals from the posterior mean, renoising sampler, 6 calls" in printed
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == list(truth.ids)
    assert {row["matched"] for row in table} <= {"True", "False"}
    distance = latent_distance(model, predicted, latents_of(model, truth.crystals, allow_unseen=True))
    assert [float(row["latent_distance"]) for row in table] == pytest.approx(distance.tolist(), rel=1e-3, abs=1e-4)
    assert {row["match_probability"] for row in table} == {""}  # this model has no curve


def test_what_is_far_from_the_model_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fluoride = Structure(Lattice.cubic(4.05), ["K", "Zn", *"FFF"], [[0] * 3, [0.5] * 3, *(1 - np.eye(3)) / 2])
    fluoride.to(filename=str(tmp_path / "fluoride.cif"))
    files = [str(tmp_path / "fluoride.cif"), str(assets.asset_path("examples/SrTiO3.cif"))]
    out = tmp_path / "table.csv"
    for extra in ([], ["--refine", "1"], ["--sampled"]):
        command = ["reconstruct", "perov_5", *files, "--steps", "50", "--batch-size", "1", *extra]
        assert cli.main([*command, "--out", str(out), "--jobs", "1"]) == 0
        table = list(csv.DictReader(out.read_text().splitlines()))
        far = "far from what the model knows, so that a match is unlikely (match_probability below 0.5): fluoride.cif"
        assert (far in capsys.readouterr().err) == (not extra)
        expected = [row["match_probability"] for row in table]
        assert all(row["latent_distance"] for row in table)
        if extra:  # perov_5 has no curve for refined crystals, and there is none for samples
            assert expected == ["", ""]
        else:
            assert [float(one) > 0.9 for one in expected] == [False, True]
            assert float(expected[0]) == 0  # another composition
            known = float(table[1]["latent_distance"])
            assert float(expected[1]) == pytest.approx(
                lab.match_probability("perov_5", torch.tensor([known])).item(), abs=1e-4
            )
        out.with_suffix(".safetensors").unlink()


def test_decoding_resumes_where_it_was_interrupted(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cdvae_lab.io import reconstructions

    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    command = ["reconstruct", str(state), "synthetic_perovskites", "--limit", "5", "--steps", "4", "--batch-size", "2"]
    assert cli.main([*command, "--decode-only", str(whole)]) == 0

    write = reconstructions.write_tensors

    def write_then_stop(*args, **kwargs):
        write(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(reconstructions, "write_tensors", write_then_stop)
    assert cli.main([*command, "--decode-only", str(cut)]) == 130
    assert "the same command resumes" in capsys.readouterr().err
    monkeypatch.undo()
    assert len(reconstructions.read_store(cut)[1]) == 2
    assert cli.main([*command, "--decode-only", str(cut)]) == 0
    assert torch.equal(reconstructions.read_store(cut)[1].frac_coords, reconstructions.read_store(whole)[1].frac_coords)
    distances = [reconstructions.read_store(path)[2]["latent_distance"] for path in (cut, whole)]
    assert distances[0] == distances[1]
    assert len(distances[0]) == 5
    assert cli.main([*command, "--decode-only", str(cut), "--seed", "5"]) == 2
    assert "another seed" in capsys.readouterr().err


def test_files_and_the_paper_s_way_are_reconstructed(
    state: Path, tmp_path: Path, srtio3: Crystals, capsys: pytest.CaptureFixture[str]
) -> None:
    zirconate = srtio3.replace(atomic_numbers=torch.tensor([[38, 40, 8, 8, 8]]))  # the tiny set has no titanium
    [file] = zirconate.write_cif(tmp_path, ["SrZrO3"])
    paper = ["--sampler", "langevin", "--steps-per-level", "1", "--sampled", "--without-last"]
    out = tmp_path / "out.csv"
    assert cli.main(["reconstruct", str(state), str(file), *paper, "--out", str(out), "--jobs", "1"]) == 0
    assert "1 crystals from the sampled z, langevin sampler, 50 calls" in capsys.readouterr().out
    assert out.read_text().splitlines()[1].startswith("SrZrO3.cif,SrZrO3,")


# Models


def test_export_and_info(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    notes = ["--score", "match rate 12 % on val", "--note", "commit=1a2b3c"]
    assert cli.main(["export", str(state), "--out", str(out), "--half", *notes]) == 0
    assert out.stat().st_size < state.stat().st_size / 4
    released, trained = checkpoints.load(out), checkpoints.load(state)
    assert isinstance(released, CDVAE)
    for name, p in released.named_parameters():
        torch.testing.assert_close(p, trained.get_parameter(name), rtol=1e-3, atol=1e-3)
    assert released.metadata["steps"] == 12
    assert cli.main(["info", str(out)]) == 0
    text = capsys.readouterr().out
    for part in ("synthetic_perovskites (train), 64 crystals", "12 steps of 16 crystals", "match rate 12 % on val"):
        assert part in text
    assert "1a2b3c" in text
    assert "MIT (cdvae_lab)" in text
    assert cli.main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["latent_dim"] == 8


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["info", "no_such_model"], "no_such_model"),
        (["info", "{tmp}/none.safetensors"], "none.safetensors"),
        (["info", "{tmp}/broken.safetensors"], "broken.safetensors: truncated"),
        (["export", "{tmp}/broken.safetensors", "--out", "{tmp}/x.safetensors"], "truncated"),
        (["export", "{state}", "--out", "{tmp}/x.safetensors", "--note", "commit"], "KEY=TEXT"),
        (["generate", "{state}", "-n", "0", "--out", "{tmp}/o"], "-n must be at least 1"),
        (["generate", "{state}", "--seed", "-1", "--out", "{tmp}/o"], "--seed 0 or more"),
        (["generate", "{state}", "--steps", "1", "--out", "{tmp}/o"], "steps must be at least 2"),
        (
            ["generate", "{state}", "--steps-per-level", "2", "--out", "{tmp}/o"],
            "renoising sampler takes levels, steps",
        ),
        (
            ["generate", "{state}", "--sampler", "paper", "--steps", "9", "--out", "{tmp}/o"],
            "'paper' is a named setting",
        ),
        (["generate", "{state}", "--out", "{tmp}/broken.safetensors/o"], "cannot write"),
        (["generate", "{state}", "--device", "cuda:99", "--out", "{tmp}/o"], "GPUs"),
        (["generate", "{state}", "--device", "abacus", "--out", "{tmp}/o"], "no such kind of device"),
        (["train", *DATA, "--out", "{state}", "--steps", "5"], "--resume"),
        (["train", *DATA, "--out", "{tmp}/o.safetensors"], "either --steps or --epochs"),
        (["train", *DATA, "--out", "{tmp}/o.safetensors", "--steps", "5", "--lr", "-1"], "final_lr <= lr"),
        (["train", *DATA, "--out", "{tmp}/o.safetensors", "--steps", "5", "--hidden-dim", "0"], "hidden_dim"),
        (["train", *DATA, "--out", "{state}", "--resume", "--hidden-dim", "8"], "leave out --hidden-dim"),
        (["train", *DATA[:2], "63", "--out", "{state}", "--resume"], "give the same data again"),
        (["train", "no_such_data", "--out", "{tmp}/o.safetensors", "--steps", "5"], "no such data set or path"),
        (
            ["train", "perov_5", "--folder", "{tmp}", "--out", "{tmp}/o.safetensors", "--steps", "5"],
            "perov_5/train.csv",
        ),
        (["property", *DATA, "--out", "{tmp}/o.safetensors"], "either --steps or --epochs"),
        (["property", *DATA, "--out", "{tmp}/o.safetensors", "--steps", "5", "--blocks", "0"], "blocks >= 1"),
        (["reconstruct"], "give a MODEL"),
        (["reconstruct", "{state}", "{tmp}/none.cif"], "no such file"),
        (["reconstruct", "{state}", "{tmp}/empty.cif"], "empty"),
        (["reconstruct", "--score", "{state}"], "holds a training state, but a reconstruction"),
        (["reconstruct", "{state}", "x", "--score", "{state}"], "give no MODEL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_input(
    command: list[str], message: str, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(state.read_bytes()[:1000])
    (tmp_path / "empty.cif").write_text("")
    before = state.read_bytes()
    assert cli.main([part.format(tmp=tmp_path, state=state) for part in command]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"cdvae-lab {command[0]}: ")
    assert message in error
    assert "Traceback" not in error
    assert state.read_bytes() == before


@pytest.mark.parametrize(
    "command", ["train", "prior", "property", "generate", "reconstruct", "optimize", "evaluate", "info", "export"]
)
def test_help_shows_units_and_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "default" in text or command == "info"
    if command in ("generate", "reconstruct"):
        assert "preview is renoising with steps 50" in text
        assert "the composition predicted from z" in text
    if command == "train":
        assert "of the neighbor graph, Å (default 7.0)" in text
        assert "(default 0.001)" in text


def test_every_setting_has_a_flag_with_a_text() -> None:
    from cdvae_lab.cli.flags import property_model, train
    from cdvae_lab.models.configs import CDVAEConfig, PropertyModelConfig
    from cdvae_lab.training.settings import FitSettings

    assert set(train.MODEL) == set(CDVAEConfig.__dataclass_fields__)
    assert set(property_model.NETWORK) == set(PropertyModelConfig.__dataclass_fields__)
    assert {*train.FIT, *train.AUGMENTATION} == set(FitSettings.__dataclass_fields__)


def test_the_module_runs_where_nothing_is_installed() -> None:
    done = subprocess.run([sys.executable, "-m", "cdvae_lab", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("cdvae-lab ")


def test_kept_types_and_compositions_are_part_of_the_schedule() -> None:
    numbers = torch.ones(2, dtype=torch.float64)
    plain, kept = Schedule("x", numbers, numbers, numbers), Schedule("x", numbers, numbers, numbers, False, True)
    assert coefficients(kept) == coefficients(plain) | {"keep_composition": True}
    assert json.loads(json.dumps(coefficients(kept))) == coefficients(kept)


def test_tables_are_printed_as_json(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "r.csv"), "--limit", "4", "--jobs", "1", "--json", "--steps", "3", "--device", "cpu"]
    assert cli.main(["reconstruct", str(state), DATA[0], *out]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["structure"]["crystals"] == 4
    assert found["structure"]["match_rate"] == found["structure"]["matched"] / 4
    assert found["settings"]["sampler"]["calls"] == 3
    batch = datasets.load(DATA[0], "val", limit=3).crystals.save_npz(tmp_path / "c.npz")
    assert cli.main(["evaluate", "validity", "--crystals", str(batch), "--json", "--out", str(tmp_path / "card")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "card" / "report.json").read_text("utf-8"))
