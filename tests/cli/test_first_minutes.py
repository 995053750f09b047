"""The commands of the first minutes: help, models, doctor, demo, lab, app, completion."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cdvae_lab import cli
from cdvae_lab.cli import app, demo, notebooks
from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.io import assets

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cdvae_lab import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'ase', 'pymatgen'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"    {name}" in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from cdvae_lab import cli\n"
        f"try: cli.main([{name!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'ase', 'pymatgen'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"usage: cdvae-lab {name}" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_has_the_first_line_of_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert cli.COMMANDS[name][1] in text
    assert hasattr(importlib.import_module(f"cdvae_lab.cli.{cli.COMMANDS[name][0]}"), "add")


def test_an_unknown_command_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["generat"])
    assert "generate" in capsys.readouterr().err


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    table = capsys.readouterr().out
    assert cli.main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == assets.models()
    assert all(row["name"] in table for row in rows)
    perovskites = next(row for row in rows if row["name"] == "perov_5")
    assert perovskites["atoms"] == "up to 5"
    assert perovskites["MB"] == pytest.approx(assets.asset_path("perov_5.safetensors").stat().st_size / 1e6, abs=0.05)


def test_a_mistyped_model_lists_models_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "perov5"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in assets.models())
    assert ".png" not in message
    assert "_map" not in message


def test_doctor_finds_this_installation_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["torch"]["status"] == checks["generation"]["status"] == checks["notebooks"]["status"] == "ok"


def test_doctor_names_a_problem_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cdvae_lab.cli import doctor

    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "_generation", lambda: doctor.Check("generation", "ok", "not run here"))
    assert cli.main(["doctor"]) == 1
    assert "no-such-package    not installed (pip install" in capsys.readouterr().out


def a_notebook(folder: Path, *cells: str) -> Path:
    """A notebook of these code cells under one heading."""
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# First\ntext\n## Sums"), *code])
    path = folder / "small.ipynb"
    nbformat.write(written, path)
    return path


def test_the_demo_prints_its_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    executed = demo.run_notebook(a_notebook(tmp_path, "x = 1 + 1", "print(x)"), tmp_path)
    assert nbformat.reads(executed, 4).cells[-1].outputs[0]["text"] == "2\n"
    printed = capfd.readouterr()
    assert "TCP" not in printed.err  # the kernel's warning about its transport does not apply
    lines = printed.out.splitlines()
    assert [line[:15] for line in lines] == ["   1 of 2  Sums", "   2 of 2  Sums"]


def test_a_demo_that_fails_names_the_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"small\.ipynb: a cell failed: ZeroDivisionError: division by zero"):
        demo.run_notebook(a_notebook(tmp_path, "1 / 0"), tmp_path)


def test_the_notebooks_are_copied_once_with_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(notebooks.subprocess, "call", lambda command: called.append(command) or 0)
    folder = tmp_path / "mine"
    assert cli.main(["lab", str(folder), "--no-browser", "--port", "8899"]) == 0
    assert {path.name for path in notebooks.notebooks().glob("*.ipynb")} == {p.name for p in folder.glob("*.ipynb")}
    pictures = [line for p in folder.glob("*.ipynb") for line in p.read_text("utf-8").split("](")[1:] if ".png" in line]
    assert pictures
    assert all((folder / picture.split(")")[0]).is_file() for picture in pictures)
    assert called[0][-1] == str(folder / "00_quickstart.ipynb")
    assert {"--no-browser", "--ServerApp.port=8899", "--ServerApp.ip=127.0.0.1"} < set(called[0])
    (folder / "00_quickstart.ipynb").write_text("edited", encoding="utf-8")
    assert cli.main(["lab", str(folder)]) == 0
    assert (folder / "00_quickstart.ipynb").read_text("utf-8") == "edited"


def test_the_app_is_served_to_this_machine_alone() -> None:
    command = app.voila_command("dark")
    assert {"--Voila.ip=127.0.0.1", "--theme=dark"} < set(command)
    assert Path(command[-1]).is_file()
    assert app.environment()["JUPYTER_PATH"].split(":")[0] == str(notebooks.notebooks())


def test_missing_packages_are_named_with_the_remedy() -> None:
    with pytest.raises(SettingError, match=r"no_such_module.*pip install 'cdvae_lab\[notebook\]'"):
        notebooks.require("no_such_module")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_has_commands_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "reconstruct" in script
    assert "--steps-per-level" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
