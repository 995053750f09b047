"""The report card as one page that needs nothing else and no network: `report.html`."""

from __future__ import annotations

import html
from pathlib import Path

from cdvae_lab.evaluation.card import ReportCard, written
from cdvae_lab.evaluation.scores import published_scores
from cdvae_lab.figures.evaluation import evaluation_figures
from cdvae_lab.io.storage import atomic_path


def write_evaluation(card: ReportCard, folder: str | Path) -> Path:
    """Write `report.html` beside what `ReportCard.write` writes, which is written too; returns the page's path.

    Raises:
        LabError: if a file cannot be written.
    """
    path = card.write(folder) / "report.html"
    with atomic_path(path, "the report") as temporary:
        temporary.write_text(_page(card), encoding="utf-8")
    return path


def _page(card: ReportCard) -> str:
    from plotly.offline import get_plotlyjs

    light, dark = (evaluation_figures(card, theme) for theme in ("light", "dark"))
    sections, specs = [], []
    for number, caption in enumerate(light):
        sections.append(f'<figure><div id="f{number}"></div><figcaption>{html.escape(caption)}.</figcaption></figure>')
        # "</" would end the script that the numbers stand in.
        both = ",".join((figure.to_json() or "").replace("</", "<\\/") for figure in (light[caption], dark[caption]))
        specs.append(f"[{both}]")
    title = html.escape(card.title)
    unfinished = "" if card.finished else f'<p class="note">Not finished: {card.step:,} of {card.num_steps:,}.</p>'
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in card.notes)
    settings = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(_text(value))}</dd>"
        for name, value in card.settings.items()
    )
    script = f"<script>{get_plotlyjs()}</script><script>const S=[{','.join(specs)}];{_DRAW}</script>" if specs else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<main><h1>{title}</h1>{unfinished}{_published(card)}<h2>Every number</h2>{_scores(card)}"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}{''.join(sections)}"
        f'<h2>How they were made</h2><dl class="made">{settings}</dl></main>{script}</body></html>\n'
    )


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _published(card: ReportCard) -> str:
    if not card.columns:
        return ""
    head = "".join(
        f"<th>{html.escape(s.name)}{f'<br><small>{html.escape(s.unit)}</small>' if s.unit else ''}</th>"
        for s in card.columns
    )
    ours: dict = {"system": "these crystals"} | {score.key: score.value for score in card.columns}
    lines = []
    for number, row in enumerate((ours, *card.published, *card.bundled)):
        cells = "".join(
            f"<td>{written(row.get(s.key), s.unit).removesuffix(s.unit).strip()}</td>" for s in card.columns
        )
        lines.append(f"<tr{' class=ours' if number == 0 else ''}><th>{html.escape(row['system'])}</th>{cells}</tr>")
    source = html.escape(published_scores()["source"])
    return (
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        '<p class="note">The rows of cdvae_lab are of its bundled models; '
        f"the others are published numbers: {source}.</p>"
    )


def _scores(card: ReportCard) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(s.name)}</th><td>{html.escape(s.text)}</td><td>{html.escape(s.counted)}</td>"
        f'<td class="what">{html.escape(s.definition)}</td></tr>'
        for s in card.scores
    )
    return f'<div class="wide"><table class="scores"><tbody>{rows}</tbody></table></div>'


# The figures follow the theme, also when it changes while the page is open.
_DRAW = """
const q=matchMedia("(prefers-color-scheme: dark)");
const draw=()=>S.forEach((s,i)=>{const f=s[q.matches?1:0];
Plotly.react("f"+i,f.data,{...f.layout,autosize:true},{responsive:true,displaylogo:false})});
draw();q.addEventListener("change",draw);
"""

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--line:#dfe3e8;--text:#1f2328;--muted:#566174;--ours:#eef5fb}
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--line:#2b3140;--text:#e6edf3;--muted:#9aa7ba;--ours:#152435}}
*{box-sizing:border-box;margin:0}
body{background:var(--page);color:var(--text);font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:26px;line-height:1.25;font-weight:650;margin-bottom:20px}
h2{font-size:18px;font-weight:650;margin:36px 0 12px}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th,td:first-child{white-space:nowrap}
th:first-child{text-align:left;white-space:nowrap;font-weight:600}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom}
.ours{background:var(--ours)}.ours td{font-weight:650}
.scores td{white-space:nowrap}.scores .what{white-space:normal;text-align:left;color:var(--muted);min-width:300px}
figure{margin:36px 0 0}figcaption,.note,.notes{color:var(--muted);font-size:13px;margin-top:8px}
.notes{padding-left:18px}
.made{display:grid;grid-template-columns:auto 1fr;gap:4px 20px;font-size:14px}
dt{color:var(--muted);white-space:nowrap}
"""
