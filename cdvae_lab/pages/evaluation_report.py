"""Report card as one HTML page with figures: `report.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cdvae_lab.evaluation.card import ReportCard, written
from cdvae_lab.evaluation.scores import published_scores
from cdvae_lab.figures.evaluation import evaluation_figures
from cdvae_lab.pages.shell import Markup, definitions, element, escape_json, page, script, write_page


def write_evaluation(card: ReportCard, folder: str | Path) -> Path:
    """Write `report.html` and the files of `ReportCard.write`; returns the path of the page.

    Raises:
        LabError: if a file cannot be written.
    """
    return write_page(card.write(folder) / "report.html", _page(card), "the report")


def _page(card: ReportCard) -> str:
    from plotly.offline import get_plotlyjs

    light, dark = (evaluation_figures(card, theme) for theme in ("light", "dark"))
    sections, specs = [], []
    for number, caption in enumerate(light):
        sections.append(element("figure", element("div", id=f"f{number}"), element("figcaption", f"{caption}.")))
        both = ",".join(escape_json(figure.to_json() or "") for figure in (light[caption], dark[caption]))
        specs.append(f"[{both}]")
    drawing = [script(get_plotlyjs()), script(f"const S=[{','.join(specs)}];{_DRAW}")] if specs else []
    unfinished = element("p", f"Not finished: {card.step:,} of {card.num_steps:,}.", class_="note")
    return page(
        card.title,
        element("h1", card.title),
        None if card.finished else unfinished,
        _published(card),
        element("h2", "All numbers"),
        _scores(card),
        element("ul", [element("li", note) for note in card.notes], class_="notes") if card.notes else None,
        sections,
        element("h2", "How they were computed"),
        definitions(((name, _text(value)) for name, value in card.settings.items()), class_="made"),
        drawing,
    )


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _published(card: ReportCard) -> list[Markup] | None:
    if not card.columns:
        return None
    head = [element("th", s.name, [element("br"), element("small", s.unit)] if s.unit else None) for s in card.columns]
    ours: dict = {"system": "these crystals"} | {score.key: score.value for score in card.columns}
    lines = []
    for number, row in enumerate((ours, *card.published, *card.bundled)):
        cells = [element("td", written(row.get(s.key), s.unit).removesuffix(s.unit).strip()) for s in card.columns]
        lines.append(element("tr", element("th", row["system"]), cells, class_=None if number else "ours"))
    table = element("table", element("thead", element("tr", element("th"), head)), element("tbody", lines))
    note = (
        "Rows of cdvae_lab are its bundled models, each by the protocol that it names; the others are published "
        f"numbers: {published_scores()['source']}."
    )
    return [element("div", table, class_="wide"), element("p", note, class_="note")]


def _scores(card: ReportCard) -> Markup:
    rows = [
        element(
            "tr",
            element("th", s.name),
            element("td", s.text),
            element("td", s.counted),
            element("td", s.definition, class_="what"),
        )
        for s in card.scores
    ]
    return element("div", element("table", element("tbody", rows), class_="scores"), class_="wide")


# The figures follow the theme, also when it changes while the page is open.
_DRAW = """
const q=matchMedia("(prefers-color-scheme: dark)");
const draw=()=>S.forEach((s,i)=>{const f=s[q.matches?1:0];
Plotly.react("f"+i,f.data,{...f.layout,autosize:true},{responsive:true,displaylogo:false})});
draw();q.addEventListener("change",draw);
"""
