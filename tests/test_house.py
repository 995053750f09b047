"""Rules of the code: layers, generators, notebooks, light imports, and that nothing loaded can run code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from IPython.core.inputtransformer2 import TransformerManager

import cdvae_lab
from cdvae_lab.errors import SettingError
from cdvae_lab.io import assets

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "cdvae_lab").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Modules and functions that run code found in a file, or in a string.
RUNS_CODE = {"pickle", "cloudpickle", "dill", "marshal", "shelve"} | {"eval", "exec", "__import__"}
RUNS_CODE |= {f"{module}.load" for module in ("torch", "torch.jit", "torch.package", "joblib", "yaml")}
RUNS_CODE |= {"torch.save", "pandas.read_pickle", "pd.read_pickle", "joblib.dump"}
MACHINE_PATH = re.compile(r"(?<![\w.)}])(/(?:home|root|Users|opt|work|mnt|tmp)/\w|[A-Z]:\\\\?Users)")


def python(code: str) -> str:
    """Return the output of a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def yields_inside_with(tree: ast.AST) -> Iterator[int]:
    """Lines of the `yield`s that stand in a `with` block of their own function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[int]:
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            # A context manager written as a generator is meant to hold its block open.
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            if any(d.endswith("contextmanager") for d in decorators):
                return
            inside = False
        if isinstance(node, ast.Yield | ast.YieldFrom) and inside:
            yield node.lineno
        inside = inside or isinstance(node, ast.With | ast.AsyncWith)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(tree, False)


def code_runners(tree: ast.AST) -> Iterator[str]:
    """Names of modules and functions that are imported or called and could run what was loaded."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute | ast.Name):
            names = [ast.unparse(node)]
        else:
            continue
        yield from (name for name in names if name in RUNS_CODE)


def definitions(notebook: dict) -> Iterator[str]:
    """Names of the functions and classes that a notebook's cells define."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = TransformerManager().transform_cell("".join(cell["source"]))
            yield from (n.name for n in ast.walk(ast.parse(source)) if isinstance(n, (*FUNCTIONS, ast.ClassDef)))


def remains(notebook: dict) -> int:
    """Count the cells that hold an output or an execution number."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return sum(bool(cell["outputs"]) or cell["execution_count"] is not None for cell in code)


def test_imports_point_down_the_floors() -> None:
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", PACKAGE, ids=lambda f: str(f.relative_to(ROOT)))
def test_package_file_keeps_the_rules(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert list(yields_inside_with(tree)) == [], "a `with` around a `yield` reaches into the caller's code"
    assert list(code_runners(tree)) == [], "nothing that is loaded may run code"


def test_yields_inside_with_are_found() -> None:
    bad = "def f():\n  with a:\n    for i in b:\n      yield i\n  with a:\n    x = yield from c"
    good = (
        "def f():\n  with a: pass\n  yield 1\n"
        "@contextlib.contextmanager\ndef g():\n  with a:\n    yield\n"
        "with a:\n  def h():\n    yield 1"
    )
    assert list(yields_inside_with(ast.parse(bad))) == [4, 6]
    assert list(yields_inside_with(ast.parse(good))) == []


@pytest.mark.parametrize(
    "bad", ["import pickle", "from torch import load", "torch.load(x)", "eval(x)", "from pickle import loads"]
)
def test_code_runners_are_found(bad: str) -> None:
    assert list(code_runners(ast.parse(bad)))
    assert not list(code_runners(ast.parse("model.eval(); torch.compile(f); json.load(f)")))


def test_notebooks_define_no_functions_and_hold_no_outputs() -> None:
    assert NOTEBOOKS
    for file in NOTEBOOKS:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        assert list(definitions(notebook)) == [], f"{file.name}: what a notebook needs belongs in the package"
        assert remains(notebook) == 0, f"{file.name}: clear its outputs (jupyter nbconvert --clear-output --inplace)"


def test_definitions_and_remains_are_found() -> None:
    def cell(source: str, **rest: object) -> dict:
        return {"cell_type": "code", "source": [source], "outputs": [], "execution_count": None} | rest

    notebook = {"cells": [cell("%time 1\nif x:\n  def f(): pass"), cell("f = lambda x: x"), cell("1", outputs=[1])]}
    assert list(definitions(notebook)) == ["f"]
    assert remains(notebook) == 1


def test_no_file_names_a_path_of_a_machine() -> None:
    kinds = {".py", ".ipynb", ".md", ".toml", ".yml", ".txt", ".html", ".json", ""}
    folders = [ROOT / name for name in ("cdvae_lab", "notebooks", "assets", "tests", ".ci")]
    files = [*ROOT.glob("*"), *(file for folder in folders for file in folder.rglob("*"))]
    texts = {f: f.read_text(encoding="utf-8") for f in files if f.is_file() and f.suffix in kinds and f.name != ".git"}
    assert {f.relative_to(ROOT): found[0] for f, text in texts.items() if (found := MACHINE_PATH.search(text))} == {}


@pytest.mark.parametrize("bad", ["/{}/me", "open('/{}/x.cif')"])
def test_machine_paths_are_found(bad: str) -> None:
    assert all(MACHINE_PATH.search(bad.format(top)) for top in ("home", "Users", "opt"))
    assert not MACHINE_PATH.search("https://example.org/home/page and src/work/file")


def test_import_is_light() -> None:
    heavy = "{'torch', 'numpy', 'pymatgen', 'pandas', 'plotly', 'nglview', 'IPython'}"
    assert python(f"import sys, cdvae_lab; print({heavy} & set(sys.modules))").strip() == "set()"


def test_writing_a_cif_does_not_import_what_other_formats_need(tmp_path: Path) -> None:
    """The import of pymatgen's VASP takes more than a second, in which a kernel does not answer for tenths of it."""
    write = f"lab.read(lab.asset_path('examples/NaCl.cif')).write_cif({str(tmp_path)!r})"
    assert python(f"import sys, cdvae_lab as lab; {write}; print('pymatgen.io.vasp' in sys.modules)") == "False\n"


def test_public_names() -> None:
    """Every name that the package offers is there, at once, and the same for a person, dir() and a type checker."""
    first_use = "import cdvae_lab as lab; print(*(type(getattr(lab, n)).__name__ for n in lab.__all__))"
    assert len(python(first_use).split()) == len(cdvae_lab.__all__)
    assert set(cdvae_lab.__all__) <= set(dir(cdvae_lab))
    assert not hasattr(cdvae_lab, "no_such_name")
    tree = ast.parse((ROOT / "cdvae_lab" / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names]
    assert sorted(names) == sorted(cdvae_lab.__all__)


def test_a_submodule_is_there_after_the_plain_import() -> None:
    assert "import_is_enough" in python("import cdvae_lab as lab; lab.datasets.load; print('import_is_enough')")


def test_assets_are_found_listed_and_shipped() -> None:
    names = assets.names()
    assert names
    assert assets.asset_path(names[0]).is_file()
    with pytest.raises(SettingError, match=re.escape(names[0])):
        assets.asset_path("no such file")
    with pytest.raises(SettingError, match="pyproject"):
        assets.asset_path("../pyproject.toml")
    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"cdvae_lab/_assets/{name}" for name in names} <= shipped
    assert {"cdvae_lab/__init__.py", "cdvae_lab/py.typed"} <= shipped


def test_assets_keep_to_their_budget() -> None:
    megabytes = {name: assets.asset_path(name).stat().st_size / 1e6 for name in assets.names()}
    assert sum(megabytes.values()) <= 90
    limits = {name: 12 if "perov_5" in name else 25 for name in megabytes}
    assert [name for name, size in megabytes.items() if size > limits[name]] == []
