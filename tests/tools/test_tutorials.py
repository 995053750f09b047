"""The tutorials of the documentation: outputs shown without a kernel and without a network."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat import v4

from tools import tutorials

PNG = "iVBORw0KGgo="


def executed(*outputs: dict) -> nbformat.NotebookNode:
    """Return a notebook with one text and one code cell that has these outputs."""
    cells = [v4.new_markdown_cell("![four](../assets/pictures/four.png)"), v4.new_code_cell("1")]
    notebook = v4.new_notebook(cells=cells, metadata={"widgets": {"state": {"a": 1}}})
    notebook.cells[1].outputs = [v4.new_output("display_data", data=data) for data in outputs]
    tutorials.offline(notebook)
    return notebook


def test_a_widget_appears_as_its_picture_and_a_progress_bar_not_at_all() -> None:
    widget = {tutorials.WIDGET: {"model_id": "a"}, "text/plain": "Player()"}
    notebook = executed(widget, widget | {"image/png": PNG})
    assert [set(output.data) for output in notebook.cells[1].outputs] == [{"image/png", "text/plain"}]
    assert "widgets" not in notebook.metadata


def test_a_figure_brings_its_script_from_the_site() -> None:
    (output,) = executed({tutorials.PLOTLY: go.Figure().add_scatter(y=[1, 2]).to_plotly_json()}).cells[1].outputs
    assert tutorials.PLOTLY not in output.data
    html = output.data["text/html"]
    assert re.findall(r'src="([^"]+)"', html) == ["../_static/generated/plotly.min.js"]
    assert "Plotly.newPlot" in html


def test_pictures_are_found_from_where_the_tutorials_lie() -> None:
    assert executed().cells[0].source == "![four](../../assets/pictures/four.png)"


def test_without_execution_cells_are_shown_and_executed_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.ipynb", tmp_path / "made.ipynb"
    monkeypatch.setattr(tutorials, "WORK", tmp_path / "work")
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("print(6 * 7)")]), source)
    assert tutorials.build(source, target, execute_changed=False) == 0
    assert nbformat.read(target, 4).cells[0].outputs == []

    assert tutorials.build(source, target, execute_changed=True) > 0
    made = target.read_text(encoding="utf-8")
    assert nbformat.reads(made, 4).cells[0].outputs[0].text == "42\n"
    assert tutorials.build(source, target, execute_changed=True) == 0, "nothing changed"

    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("print(6 * 8)")]), source)
    assert tutorials.build(source, target, execute_changed=False) == 0
    assert target.read_text(encoding="utf-8") == made, "executed before, and kept"
    assert tutorials.build(source, target, execute_changed=True) > 0
    assert nbformat.read(target, 4).cells[0].outputs[0].text == "48\n"
