"""Score tables: their marks against numbers computed here; documentation and report cards from one file."""

from __future__ import annotations

import json
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest

import cdvae_lab as lab
from cdvae_lab.errors import SettingError
from cdvae_lab.evaluation.card import ReportCard, Score
from cdvae_lab.evaluation.score_tables import BEST, DATA, METRICS, ScoreTable, compare, score_table
from cdvae_lab.evaluation.scores import mean_of, our_scores, published_scores
from cdvae_lab.io import assets
from cdvae_lab.pages import write_evaluation
from tools import collect_scores, tables

TASKS = list(METRICS)
PUBLISHED = {
    "mp_20": [
        {"system": "Other", "match_rate": 80.0, "rmse": 0.2},
        {"system": "CDVAE", "match_rate": 45.43, "rmse": 0.0356},
    ]
}


def our_row(system: str = "ours", **scores: object) -> dict:
    return {"system": system, "model": "mp_20", "seeds": [0], "crystals": [9046], "note": "A note."} | scores


def texts(table: ScoreTable, system: str, data: str = "MP-20", bold: str = "**{}**") -> list[str | None]:
    row = next(row for row in table.rows if (row.data, row.system) == (data, system))
    return [cell and cell.marked(bold) for cell in row.cells]


def report(task: str, data: str, split: str = "test", finished: bool = True, **values: float) -> ReportCard:
    scores = tuple(Score(key, key, value, "%", "") for key, value in values.items())
    return ReportCard(int(finished), 1, "", task, data, split, 9046, scores=scores)


class Cells(HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th") or (self.inside and tag == "strong")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    ("match_rate", "rmse", "expected"),
    [
        (45.42, 0.0357, ["45.42", "0.0357"]),
        (45.43, 0.0356, ["**45.43**", "**0.0356** †"]),
        (79.99, 0.03564, ["**79.99**", "**0.0356** †"]),  # as printed: the papers round too
        (80.0, 0.01, ["**80.00** †", "**0.0100** †"]),
    ],
)
def test_marks_are_where_ours_reaches(match_rate: float, rmse: float, expected: list[str]) -> None:
    row = our_row(match_rate=match_rate, rmse=rmse, match_rate_structure=90.0)
    table = compare("reconstruction", PUBLISHED, {"mp_20": [row]})
    assert texts(table, "ours") == [*expected, "90.00"]
    assert texts(table, BEST) == ["80.00 (Other)", "0.0356 (CDVAE)", None]
    assert table.made == ("MP-20: ours, 9,046 crystals, one seed. A note.",)


def test_several_seeds_are_a_mean_with_a_deviation_and_the_mean_decides() -> None:
    values = {"mean": 79.0, "std": 1.234, "values": [80.0, 77.6, 79.4]}
    row = our_row(match_rate=values, rmse=0.5) | {"seeds": [0, 1, 2], "crystals": [10, 12, 11]}
    table = compare("reconstruction", PUBLISHED, {"mp_20": [row]})
    assert texts(table, "ours") == ["**79.00 ± 1.23**", "0.5000", None]
    assert table.made == ("MP-20: ours, 10 to 12 crystals, each of 3 seeds. A note.",)


def test_equal_systems_are_all_named_and_unpublished_numbers_are_blank() -> None:
    table = score_table("generation")
    assert texts(table, BEST, "Perov-5")[:2] == ["100.00 (CDVAE, DiffCSP)", "99.13 (P-G-SchNet)"]
    assert texts(table, BEST)[4:] == ["0.0880 (UniMat)", "0.1247 (DiffCSP)", "0.0560 (UniMat)"]
    ours = our_scores()["generation"]["carbon_24"][0]
    assert "composition_valid" in ours
    assert texts(table, ours["system"], "Carbon-24")[1] is None  # all are carbon: no paper has it
    assert texts(table, "CDVAE")[6] == "1.432"
    assert texts(score_table("optimization"), "DiffCSP") == ["0.82", "0.98", "1.00"]


@pytest.mark.parametrize("task", TASKS)
def test_the_best_of_a_column_is_in_its_direction(task: str) -> None:
    """The best of each column is at least as good as every published number, by an independent list of directions."""
    lower = {"rmse", "wasserstein_density", "wasserstein_property", "wasserstein_elements"}
    numbers = score_table(task).dataframe()
    for data, name in DATA.items():
        for metric in METRICS[task]:
            values = [row[metric.key] * metric.scale for row in published_scores()[task][data] if metric.key in row]
            best = numbers.loc[(name, BEST), metric.name]
            if not values:
                assert best != best
            else:
                assert best == (min if metric.key in lower else max)(values)


@pytest.mark.parametrize("task", TASKS)
def test_the_ways_to_show_a_table_agree(task: str) -> None:
    table = lab.score_table(task)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.markdown().splitlines()]
    shown = Cells(table._repr_html_()).rows
    assert shown == [[cell.replace("**", "") for cell in line] for line in (lines[0], *lines[2:])]
    numbers = table.dataframe()
    assert list(numbers.index) == [(row.data, row.system) for row in table.rows]
    for line, (_, values) in zip(lines[2:], numbers.iterrows(), strict=True):
        for text, value, metric in zip(line[2:], values, table.metrics, strict=True):
            assert (text == "") == (value != value)
            assert text == "" or float(text.replace("*", "").split()[0]) == pytest.approx(float(metric.text(value)))


def test_names_are_escaped_in_html() -> None:
    row = our_row("ours <b>", match_rate=1.0)
    page = compare("reconstruction", PUBLISHED, {"mp_20": [row]})._repr_html_()
    assert "ours &lt;b&gt;" in page
    assert "<b>" not in page


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(SettingError, match="give one of reconstruction"):
        score_table("beauty")


@pytest.mark.parametrize("file", [tables.README, tables.PAGE], ids=["README", "tables"])
def test_the_documentation_equals_the_files_of_scores(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert tables.replaced(text, file) == text, "run `python -m tools.tables`"


def test_tables_go_between_markers_of_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin, end = "<!-- reconstruction: begin -->", "<!-- reconstruction: end -->"
    file = tmp_path / "page.md"
    file.write_text(f"before\n{begin}\nold\n{end}\nafter <!-- headline: begin --><!-- headline: end -->\n")
    assert tables.main([str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n\n")
    assert "old" not in text
    assert score_table("reconstruction").markdown() in text
    headline = text[text.index("<!-- headline: begin -->") :]
    assert headline.count("\n| [") == 3  # a row for each data set
    for cell in ("98.15 % / 0.0049 (97.52 / 0.0156)", "55.75 % / 0.0805 (45.43 / 0.0356)", "91.74 (83.08)"):
        assert f"| {cell} |" in headline
    for bad in ("no marker", f"{end}\n{begin}", f"{begin}{end}" * 2, begin):
        file.write_text(bad)
        assert tables.main([str(file)]) == 2
        assert "page.md" in capsys.readouterr().err
        assert file.read_text() == bad


def test_rows_of_another_protocol_are_not_compared() -> None:
    row = our_row(match_rate=99.0, rmse=0.001, unlike="decoded many times")
    table = compare("reconstruction", PUBLISHED, {"mp_20": [row]})
    assert texts(table, "ours") == ["99.00", "0.0010", None]
    assert table.made == ("MP-20: ours, 9,046 crystals, one seed (not compared: decoded many times). A note.",)


def test_numbers_known_to_fewer_digits_are_printed_so() -> None:
    row = our_row(match_rate=54.7, rmse=0.094, decimals={"match_rate": 1, "rmse": 3})
    assert texts(compare("reconstruction", PUBLISHED, {"mp_20": [row]}), "ours") == ["**54.7**", "0.094", None]


def test_our_rows_are_complete_and_of_bundled_models() -> None:
    assert set(our_scores()) == set(TASKS)
    for task, sets in our_scores().items():
        keys = {metric.key for metric in METRICS[task] if metric.higher is not None}
        for data, rows in sets.items():
            published = {key for row in published_scores()[task][data] for key in row} & keys
            assert len({row["system"] for row in rows}) == len(rows)
            for row in rows:
                assert published <= row.keys(), f"{task}, {data}, {row['system']}"
                assert f"{row['model']}.safetensors" in assets.names("*.safetensors")
                assert len(row["seeds"]) == len(row["crystals"])
                assert row["command"].startswith("cdvae-lab ")
                for key in published:
                    values = [row[key]] if len(row["seeds"]) == 1 else row[key]["values"]
                    assert len(values) == len(row["seeds"])
                    assert mean_of(row[key]) == pytest.approx(statistics.fmean(values))


def test_report_cards_show_the_same_numbers(tmp_path: Path) -> None:
    card = report("optimization", "carbon_24", "", sr5=1.0, sr10=1.0, sr15=1.0)
    rows, keys = our_scores()["optimization"]["carbon_24"], ("sr5", "sr10", "sr15")
    names = [f"cdvae_lab{row['system'].removeprefix('ours')}" for row in rows]
    expected = [{key: mean_of(row[key]) for key in keys} for row in rows]
    assert card.bundled == [{"system": name} | row for name, row in zip(names, expected, strict=True)]
    name = names[0]
    line = next(line for line in card.table().splitlines() if line.startswith(name))
    assert line.removeprefix(name).split() == [f"{expected[0][key]:.2f}" for key in keys]
    assert name in write_evaluation(card, tmp_path).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_text())["bundled"] == card.bundled
    assert report("generation", "mine").bundled == []


def test_collected_rows_are_those_of_the_cards(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"optimization": {"mp_20": [our_row("other", sr5=1.0)]}}))
    for seed, success in enumerate((70.0, 75.0, 83.0)):
        report("optimization", "mp_20", "", sr5=success, sr10=float("nan")).write(tmp_path / str(seed))
    common = ["--task", "optimization", "--data", "mp_20", "--model", "mp_20", "--file", str(file)]
    folders = [str(tmp_path / str(seed)) for seed in range(3)]
    assert collect_scores.main([*common, "--report", folders[0], "--command", "cdvae-lab optimize"]) == 0
    first = json.loads(file.read_text())["optimization"]["mp_20"]
    assert [row["system"] for row in first] == ["other", "ours"]
    assert (first[1]["sr5"], first[1]["seeds"], first[1]["crystals"]) == (70.0, [0], [9046])
    assert "sr10" not in first[1]  # the card has none
    more = ["--report", *folders, "--seeds", "3", "5", "7", "--seconds", "12", "--note", "So."]
    assert collect_scores.main([*common, *more]) == 0
    other, ours = json.loads(file.read_text())["optimization"]["mp_20"]
    assert other == first[0]
    assert ours["sr5"] == {"mean": 76.0, "std": pytest.approx(43**0.5), "values": [70.0, 75.0, 83.0]}
    assert (ours["seeds"], ours["seconds"], ours["note"], ours["command"]) == ([3, 5, 7], 12, "So.", "")
    table = compare("optimization", {}, {"mp_20": [ours]})
    assert table.made == ("MP-20: ours, 9,046 crystals, each of 3 seeds, 12 s. So.",)


@pytest.mark.parametrize(
    ("card", "extra", "message"),
    [
        (report("optimization", "mp_20", "", sr5=1.0), [], "is of optimization on mp_20"),
        (report("generation", "perov_5", valid=1.0), [], "on perov_5"),
        (report("generation", "mp_20", "val", valid=1.0), [], "split val"),
        (report("generation", "mp_20", finished=False, valid=1.0), [], "not finished"),
        (report("generation", "mp_20", valid=1.0), ["--seeds", "1", "2"], "for 1 reports"),
        (None, [], "no report of"),
    ],
)
def test_other_reports_are_refused_and_nothing_is_written(
    card: ReportCard | None, extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.json"
    file.write_text("{}")
    if card is not None:
        card.write(tmp_path / "report")
    common = ["--task", "generation", "--data", "mp_20", "--model", "mp_20", "--file", str(file)]
    assert collect_scores.main([*common, "--report", str(tmp_path / "report"), *extra]) == 2
    assert message in capsys.readouterr().err
    assert file.read_text() == "{}"


def test_seeds_with_other_scores_are_refused(tmp_path: Path) -> None:
    cards = [report("generation", "mp_20", valid=1.0), report("generation", "mp_20", valid=1.0, novel=2.0)]
    with pytest.raises(SettingError, match="not every report has novel"):
        collect_scores.collect([card.as_dict() for card in cards])
