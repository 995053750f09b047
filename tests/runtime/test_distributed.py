"""Two processes give the steps and crystals of one, and end together after any error."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cdvae_lab import cli
from cdvae_lab.cli.generate import batch_size
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.io.reconstructions import read_store
from cdvae_lab.io.storage import read_tensors
from cdvae_lab.models.checkpoints import read_checkpoint
from cdvae_lab.runtime.distributed import Processes, launched

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DATA = ["synthetic_perovskites", "--limit", "64"]
TINY = [
    "--batch-size", "16", "--hidden-dim", "16", "--latent-dim", "8", "--head-dim", "16", "--encoder-blocks", "1",
    "--decoder-blocks", "1", "--num-neighbors", "8", "--warm-up", "2", "--log-every", "1", "--validate-every", "0",
]  # fmt: skip
# Every process of this program trains in float64, as its own rank of two, and process 0 writes what came out.
PROGRAM = """
import sys
import torch
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.runtime.distributed import launched
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.io.storage import write_tensors
from cdvae_lab.training.loop import fit
from tests.small_model import SMALL

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(3)
sizes = [1 + i % 6 for i in range(24)]
crystals = Crystals.from_lists(
    [torch.rand(n, 3, generator=generator) for n in sizes],
    [torch.tensor([6, 8, 22])[torch.randint(3, (n,), generator=generator)] for n in sizes],
    torch.eye(3) * torch.tensor([(15.0 * n) ** (1 / 3) for n in sizes])[:, None, None],
).to(dtype=torch.float64)
labels = torch.randn(24, generator=generator, dtype=torch.float64)
labels[::3] = torch.nan  # so that no two shares of a batch have to have as many
labels[12:18] = torch.nan
data = Dataset("random", "all", crystals, tuple(map(str, range(24))), labels, "energy", "eV", "random", "none")
settings = {"steps": 20, "batch_size": 8, "warm_up": 2, "ema_decay": 0.9, "seed": 1, "compile": False}
device = torch.device(sys.argv[3])
with launched(device, int(sys.argv[2]), 1) as processes:
    tensors = {}
    model = CDVAE.for_dataset(data, num_neighbors=0, **SMALL).double()
    judge = PropertyModel.for_dataset(data, hidden_dim=8, blocks=1).double()
    torch.manual_seed(processes.rank)  # with what process 0 has all begin
    prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=16, blocks=1)).double()
    for name, trained, encoder in (("cdvae", model, None), ("property", judge, None), ("prior", prior, model)):
        steps = list(fit(trained, data, encoder=encoder, device=device, fabric=processes.fabric, **settings))
        tensors[f"{name}.losses"] = torch.stack([step.losses for step in steps])
        tensors |= {f"{name}.{k}": v for k, v in steps[-1].averaged().state_dict().items()}
    if processes.first:
        write_tensors(sys.argv[1], "result", 1, tensors, {"processes": processes.size})
"""


def shell(arguments: list[str], code: int = 0, seconds: float = 120) -> str:
    """Run a command that must end in time with this exit code, and return its output."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def lab(*arguments: str, code: int = 0) -> str:
    """Run a command on several devices and return its output; on one device, run it in this process."""
    if "--devices" not in arguments:
        assert cli.main([*arguments, "--device", "cpu"]) == code
        return ""
    return shell(["-m", "cdvae_lab", *arguments, "--device", "cpu"], code)


def rows(state: Path) -> list[dict]:
    return [json.loads(line) for line in state.with_suffix(".jsonl").read_text().splitlines()]


def state_tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path, "training state")[1]


# Training


def assert_two_take_the_steps_of_one(tmp_path: Path, device: str) -> None:
    """All three kinds of model, partly unlabeled crystals, in float64: losses, weights and their average."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        shell([str(program), str(out), str(processes), device])
        _, tensors, about = read_tensors(out, {"result": [1]})
        assert about["processes"] == processes
        results.append(tensors)
    one, two = results
    assert one.keys() == two.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-8, atol=1e-10, msg=name)
    # Bit for bit the same it would be only if nothing had been shared out.
    assert any(not torch.equal(two[name], expected) for name, expected in one.items())


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    assert_two_take_the_steps_of_one(tmp_path, "cpu")


def test_a_run_of_two_processes_resumes_on_two_or_on_one(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole.safetensors", tmp_path / "halves.safetensors"
    train = ["train", *DATA, *TINY, "--out"]
    lab(*train, str(whole), "--steps", "6")
    said = lab(*train, str(halves), "--steps", "6", "--devices", "2", "--time-limit", "0")  # stops after one step
    assert said.count("1 of 6 steps are saved") == 1
    assert [row["step"] for row in rows(halves)] == [1]
    resume = ["train", *DATA, "--out", str(halves), "--resume", "--validate-every", "0", "--log-every", "1"]
    assert lab(*resume, "--devices", "2", "--steps", "4").count("done: 4 of 4") == 1
    lab(*resume, "--steps", "6")
    assert [row["step"] for row in rows(halves)] == [1, 2, 3, 4, 5, 6]
    # The end of the schedule was moved, so only the first step, with the same weights, is comparable with the whole.
    assert rows(halves)[0]["loss"] == pytest.approx(rows(whole)[0]["loss"], rel=1e-4)
    assert int(state_tensors(halves)["adam.step.to_mu.weight"]) == 6
    assert all(math.isfinite(row["loss"]) for row in rows(halves))


def ends(group: int, within: float) -> bool:
    """Wait until no process of a group is left; multiprocessing's own helpers end a moment after the run."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_and_sigterm_end_both_processes_at_the_same_step(tmp_path: Path) -> None:
    for number, whom in (
        (signal.SIGINT, os.killpg),
        (signal.SIGTERM, os.kill),
    ):  # a terminal's to all, one to the first
        out = tmp_path / f"{number}.safetensors"
        command = ["-m", "cdvae_lab", "train", *DATA, *TINY, "--steps", "1000000", "--devices", "2"]
        started = subprocess.Popen(
            [sys.executable, *command, "--device", "cpu", "--out", str(out)],
            cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        log = out.with_suffix(".jsonl")
        while not (log.is_file() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        whom(started.pid, number)
        _, said = started.communicate(timeout=60)
        assert started.returncode == 130, said
        assert said.count("--resume resumes") == 1, said
        assert int(state_tensors(out)["adam.step.to_mu.weight"]) == rows(out)[-1]["step"] > 0
        assert ends(started.pid, within=20), "a process of the run is left"


def test_settings_that_cannot_be_distributed_are_refused_once_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    settings = ["train", *DATA, *TINY, "--steps", "3", "--out", str(out), "--devices", "2", "--batch-size", "15"]
    said = lab(*settings, code=2)
    assert said.count("a batch of 15 crystals cannot be shared out evenly among 2 processes") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", "0"], "must be at least 1"),
        (["--devices", "2"], "in a shell"),
    ],
)
def test_missing_devices_are_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", *DATA, *TINY, "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "a.safetensors"), *flags]
    assert cli.main(train) == 2
    assert message in capsys.readouterr().err


def test_a_single_device_is_refused_for_several() -> None:
    with pytest.raises(SettingError, match="is a single one"), launched(torch.device("cpu", 0), 2, 1):
        pass


def test_one_failing_process_ends_all(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\n"
        "from cdvae_lab.runtime.distributed import launched\n"
        "with launched(torch.device('cpu'), 2, 1) as processes:\n"
        "    if processes.rank == int(sys.argv[1]):\n"
        "        raise ValueError('as it was meant')\n"
        "    processes.total()\n"
    )
    for rank in ("0", "1"):
        command = [sys.executable, str(program), rank]
        done = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert "as it was meant" in done.stderr


def test_processes_of_torchrun_need_the_device_settings(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cdvae_lab"]
    train = [*torchrun, "train", *DATA, *TINY, "--device", "cpu", "--steps", "2", "--out", str(out)]
    assert "torchrun started 2 processes" in shell(train, code=1)
    assert not out.exists()
    assert shell([*train, "--devices", "2"]).count("done: 2 of 2 steps") == 1


# Generation and reconstruction


def generated(folder: Path) -> Crystals:
    files = sorted(folder.glob("*.npz"))
    return Crystals.cat([Crystals.load_npz(file) for file in files])


def assert_alike(some: Crystals, others: Crystals) -> None:
    """Compare crystals up to rounding, which may change an atom's type in a few of them (at least 99 % are equal)."""
    assert len(some) == len(others)
    near = (some.frac_coords - others.frac_coords + 0.5).remainder(1) - 0.5
    same = ((near.abs() < 1e-4) | ~some.mask[..., None]).all((1, 2)) & (some.num_atoms == others.num_atoms)
    same &= (some.atomic_numbers == others.atomic_numbers).all(1)
    same &= ((some.lattice - others.lattice).abs() < 1e-3).all((1, 2))
    assert same.float().mean() >= 0.9, same


def test_two_processes_generate_the_crystals_of_one(tmp_path: Path) -> None:
    generate = ["generate", "perov_5", "--steps", "12", "--batch-size", "4", "--format", "npz", "--out"]
    lab(*generate, str(tmp_path / "one"), "-n", "11")
    said = lab(*generate, str(tmp_path / "two"), "-n", "5", "--devices", "2")
    assert "0 crystals existed, 5 are new" in said
    said = lab(*generate, str(tmp_path / "two"), "-n", "11", "--devices", "2")  # resumes
    assert said.count("5 crystals existed, 6 are new") == 1
    names = [file.stem for file in sorted((tmp_path / "two").glob("*.npz"))]
    assert names == ["crystals_00000_00002", "crystals_00003_00004", "crystals_00005_00007", "crystals_00008_00010"]
    assert (tmp_path / "one" / "settings.json").read_text() == (tmp_path / "two" / "settings.json").read_text()
    assert_alike(generated(tmp_path / "two"), generated(tmp_path / "one"))
    said = lab(*generate, str(tmp_path / "two"), "-n", "12", "--devices", "2", "--seed", "1", code=2)
    assert said.count("another seed") == 1


def test_two_processes_reconstruct_the_crystals_of_one(tmp_path: Path) -> None:
    decode = ["reconstruct", "perov_5", "synthetic_perovskites", "--steps", "12", "--batch-size", "2"]
    lab(*decode, "--limit", "5", "--decode-only", str(tmp_path / "one.safetensors"))
    lab(*decode, "--limit", "5", "--out", str(tmp_path / "two.csv"), "--jobs", "1", "--devices", "2")
    (truth, one, about), (_, two, other) = (read_store(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert len(one) == len(truth) == 5
    assert about["ids"] == other["ids"]
    assert_alike(two, one)
    assert other["latent_distance"] == pytest.approx(about["latent_distance"], rel=1e-2)
    with (tmp_path / "two.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == about["ids"]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("crystals", [1, 5, 64, 65, 1000])
def test_batches_are_balanced(crystals: int, processes: int) -> None:
    size = batch_size(crystals, 64, processes)
    assert 1 <= size <= 64
    counts = np.bincount(np.arange(math.ceil(crystals / size)) % processes, minlength=processes)
    assert counts.max() == math.ceil(crystals / (64 * processes))  # no more rounds than there have to be


def test_lightning_is_imported_only_where_several_devices_are_asked_for() -> None:
    shell(["-c", "import sys, cdvae_lab.cli; sys.exit('lightning_fabric' in sys.modules)"])


def test_a_single_process_needs_no_communication() -> None:
    alone = Processes()
    tensor = torch.ones(3)
    assert alone.first
    assert alone.average([tensor]) == [tensor]
    assert alone.total(2, 3) == [2, 3]
    assert alone.any(True)
    assert not alone.any(False)
    assert torch.equal(alone.gather(tensor)[0], tensor)
    with launched(torch.device("cpu"), 1, 1) as processes:
        assert processes.fabric is None


def test_two_processes_train_the_property_model_of_one(tmp_path: Path) -> None:
    out = tmp_path / "judge.safetensors"
    tiny = ["--hidden-dim", "8", "--blocks", "1", "--batch-size", "16", "--warm-up", "2"]
    said = lab("property", *DATA, *tiny, "--steps", "4", "--out", str(out), "--devices", "2")
    assert said.count("mean absolute error") == 1
    lab("property", *DATA, *tiny, "--steps", "4", "--out", str(tmp_path / "one.safetensors"))
    two, one = (read_checkpoint(tmp_path / f"{name}.safetensors", "property model")[1] for name in ("judge", "one"))
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-3, atol=1e-4, msg=name)
