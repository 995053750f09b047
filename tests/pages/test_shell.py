"""The shell of the pages: text of a file or a user is escaped, never HTML or a script."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from cdvae_lab.evaluation.card import ReportCard, Score
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.pages import write_evaluation, write_html
from cdvae_lab.pages.run_report import write_report
from cdvae_lab.pages.shell import Markup, element, escape, page, script_data
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def harmless(self) -> bool:
        return not any("onerror" in attrs or attrs.get("src") == "x" for _, attrs in self.tags)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def small_model() -> CDVAE:
    torch.manual_seed(0)
    config = CDVAEConfig(
        max_atoms=4, hidden_dim=16, latent_dim=8, head_dim=16, encoder_blocks=1, decoder_blocks=1, num_neighbors=8
    )
    model = CDVAE(config).eval().requires_grad_(False)
    model.lattice_mean.copy_(torch.tensor([2.5, 2.5, 2.5, 90, 90, 90]))
    return model


@pytest.fixture
def frames() -> list[DenoisingFrame]:
    """A run whose sampler is named like an HTML tag."""
    run = list(denoise(small_model(), n=2, steps=3))
    return [replace(frame, schedule=replace(frame.schedule, name=EVIL)) for frame in run]


def test_elements_escape_text_and_attributes_and_keep_markup() -> None:
    assert element("p", EVIL).count("<") == 2
    assert element("a", "x", title='"><b>') == '<a title="&quot;&gt;&lt;b&gt;">x</a>'
    assert element("p", Markup("<b>1</b>"), None, ["<", 2]) == "<p><b>1</b>&lt;2</p>"
    assert element("input", id="i", selected=True, hidden=None) == '<input id="i" selected>'
    assert escape(escape("<")) == "&lt;"
    assert page(EVIL, EVIL).count("<script") == 0


def test_data_cannot_end_its_script() -> None:
    text = script_data({"name": EVIL})
    assert "<" not in text
    assert json.loads(text) == {"name": EVIL}


def test_an_evaluation_report_shows_names_and_units_as_text(tmp_path: Path) -> None:
    scores = (
        Score("wasserstein_property", EVIL, 1.0, EVIL, EVIL, EVIL),
        Score("cov_recall", "COV-R", 1.0, "%", "share"),
    )
    samples = {f"property {side}": np.arange(5.0) for side in ("generated", "reference")}
    card = ReportCard(
        0, 1, "x", "generation", "perov_5", EVIL, 5, scores=scores, settings={EVIL: EVIL}, notes=(EVIL,),
        rows={"reason": [EVIL, None]}, samples=samples,
    )  # fmt: skip
    found = Tags(write_evaluation(card, tmp_path))
    assert found.harmless
    assert found.count("script") == 2  # plotly and our own
    assert found.count("img") == 0
    assert EVIL in found.text


def test_a_run_report_shows_the_names_of_model_data_and_sampler_as_text(
    frames: list[DenoisingFrame], tmp_path: Path
) -> None:
    model: CDVAE = small_model()
    model.metadata["data"] = {"name": EVIL, "split": EVIL, "crystals": 2, "source": EVIL, "license": EVIL}
    model.metadata["scores"] = [EVIL]
    found = Tags(write_report(tmp_path, model, frames[-1], name=EVIL))
    assert found.harmless
    assert found.count("script") == 0
    assert found.count("img") == 2  # the two crystals
    assert found.text.count(EVIL) >= 5


def test_an_animation_shows_its_title_and_sampler_as_text(frames: list[DenoisingFrame], tmp_path: Path) -> None:
    found = Tags(write_html(frames, tmp_path / "run.html", title=EVIL))
    assert found.harmless
    assert found.count("script") == 1
    assert found.count("img") == 0
    assert EVIL in found.text  # the heading


@pytest.mark.parametrize("kind", ["evaluation", "run", "animation"])
def test_every_page_has_the_same_stylesheet_for_light_and_dark(
    kind: str, frames: list[DenoisingFrame], tmp_path: Path
) -> None:
    if kind == "evaluation":
        path = write_evaluation(ReportCard(1, 1, "done", "validity", "", "", 1), tmp_path)
    elif kind == "run":
        path = write_report(tmp_path, small_model(), frames[-1])
    else:
        path = write_html(frames, tmp_path / "run.html")
    text = path.read_text(encoding="utf-8")
    style = text[text.index("<style>") + len("<style>") : text.index("</style>")]
    assert style == (Path(__file__).resolve().parents[2] / "cdvae_lab" / "pages" / "page.css").read_text()
    assert "prefers-color-scheme:dark" in style
