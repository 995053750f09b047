"""Figures: their traces, units and ranges, in both themes; they are not rendered."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdvae_lab import figures
from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.explore.latent_map import LatentMap, load_map
from cdvae_lab.figures import GRID, POINTS, THEMES, strips
from cdvae_lab.figures.maps import WITHOUT
from cdvae_lab.metrics.course import Course, course
from cdvae_lab.metrics.validity import composition_validity, structure_validity
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.sampling.trajectory import Trajectory
from cdvae_lab.training.losses import TERMS

SMALL = {"hidden_dim": 16, "encoder_blocks": 1, "decoder_blocks": 1, "head_dim": 32, "latent_dim": 12}


@pytest.fixture(scope="module")
def bundled() -> LatentMap:
    return load_map("perov_5")


@pytest.fixture(scope="module")
def small_map(bundled) -> LatentMap:
    """Fifty points of the bundled map, ten of them without a label."""
    return dataclasses.replace(
        bundled,
        xy=bundled.xy[:50],
        latents=bundled.latents[:50],
        labels=torch.where(torch.arange(50) < 10, torch.nan, bundled.labels[:50]),
        num_atoms=bundled.num_atoms[:50],
        density=bundled.density[:50],
        ids=bundled.ids[:50],
        formulas=bundled.formulas[:50],
    )


@pytest.fixture
def measured() -> dict:
    """Times and scores as `python -m benchmarks.speed_quality --score` has them; the numbers are made up."""
    of = [
        ("renoising", {"steps": 50}, 50, 0.25, 0.9, 0.02),
        ("renoising", {"steps": 25}, 25, 0.125, 0.5, 0.04),
        ("renoising", {"steps": 50, "types": "argmax"}, 50, 0.5, 0.95, 0.01),
        ("langevin", {"steps_per_level": 1, "types": "argmax"}, 51, 0.3, 0.0, None),
        ("langevin", {"steps_per_level": 100, "types": "argmax"}, 5001, 30.0, 1.0, 0.005),
    ]
    keys = ("sampler", "settings", "calls", "seconds", "match_rate", "rmse")
    rows = [dict(zip(keys, one, strict=True)) for one in of]
    for row in rows:
        row |= {"match_rate_error": 0.01, "rmse_error": row["rmse"] and 0.001}
    return {"rows": rows, "about": {"crystals": 1000, "data": "perov_5 (val)", "batch_size": 1024, "device": "X1"}}


@pytest.fixture
def run(random_dataset) -> Trajectory:
    model = CDVAE.for_dataset(random_dataset, **SMALL).eval()
    return Trajectory.of(denoise(model, n=3, seed=1, sampler="ancestral", steps=12))


def trace(figure, name):
    [found] = [t for t in figure.data if t.name == name]
    return found


def luminance(color: str) -> float:
    """WCAG 2's relative luminance of "#rrggbb"."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_can_be_read_on_their_paper(theme):
    palette = THEMES[theme]
    assert contrast(palette.ink, palette.paper) > 7
    assert contrast(palette.muted, palette.paper) > 4.5
    assert min(contrast(color, palette.paper) for color in palette.series[:3]) > 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_takes_its_themes_colors(theme, small_map, run, measured):
    made = [
        figures.latent_map(small_map, theme=theme),
        figures.along_path([1.0, 2.0], "energy", theme=theme),
        figures.trajectory_strips(run, theme=theme),
        figures.training_curve([], theme=theme),
        figures.speed_quality(measured, theme),
    ]
    for figure in made:
        assert figure.layout.paper_bgcolor == THEMES[theme].paper
        assert figure.layout.font.color == THEMES[theme].ink
        text = figure.to_json()
        json.loads(text)
        assert not re.search(r'"#[0-9a-fA-F]{8}"', text), "plotly 6 refuses colors of eight digits"


# The latent map


def test_points_of_a_map_name_their_crystals(small_map):
    figure = figures.latent_map(small_map)
    points, without = trace(figure, POINTS), trace(figure, WITHOUT)
    assert points.type == without.type == "scattergl"
    assert [*points.customdata, *without.customdata] == [*range(10, 50), *range(10)]
    np.testing.assert_array_equal(np.stack([points.x, points.y], 1), small_map.xy[10:].numpy())
    np.testing.assert_allclose(points.marker.color, small_map.labels[10:].numpy())
    text = points.text[0].replace("<sub>", "").replace("</sub>", "")
    assert f"<b>{small_map.formulas[10]}</b>" in text
    assert f"heat_ref: {small_map.labels[10].item():.3g} eV/atom" in text
    assert f"5 atoms, {small_map.density[10].item():.2f} g/cm³" in text
    assert small_map.ids[10] in text
    assert "heat_ref: none" in without.text[0]
    assert points.marker.colorbar.title.text == "heat_ref (eV/atom)"
    caption = " ".join(a.text for a in figure.layout.annotations)
    assert "estimated" in caption
    assert "no meaning" in caption
    assert "perov_5, train: 50 crystals" in figure.layout.title.text


def test_the_caption_of_a_map_fits_on_half_a_page():
    figure = figures.latent_map(load_map("perov_5"))
    lines = figure.layout.annotations[0].text.split("<br>")
    assert max(map(len, lines)) <= 62  # some 350 pixels
    assert len(lines) > 3
    assert figure.layout.margin.b >= 14 * len(lines)


def test_the_map_has_the_requested_colors(small_map):
    def bar(color):
        points = trace(figures.latent_map(small_map, color), POINTS)
        return points.marker.colorbar.title.text, np.asarray(points.marker.color), points

    title, values, _ = bar("density")
    assert title == "density (g/cm³)"
    np.testing.assert_allclose(values, small_map.density.numpy())
    title, values, points = bar("num_atoms")
    assert title == "atoms in the cell"
    assert (values == 5).all()
    assert points.marker.cmin < 5 < points.marker.cmax
    element = small_map.elements[0]
    title, values, points = bar(element)
    assert title == f"{element} (% of the atoms)"
    assert set(values) <= {20.0, 40.0, 60.0, 80.0, 100.0}
    assert {element in small_map.formulas[i] for i in points.customdata} == {True}
    assert f"{element}: " in points.text[0]
    title, values, points = bar(("band gap", "eV", torch.arange(50.0)))
    assert title == "band gap (eV)"
    assert points.marker.cmin < 1
    assert points.marker.cmax > 48
    assert "band gap: 3 eV" in points.text[3]
    for wrong in ("Xx", ("short", "", torch.zeros(3))):
        with pytest.raises(SettingError, match="color"):
            figures.latent_map(small_map, wrong)


def test_a_map_without_any_value_is_all_gray(small_map):
    unlabeled = dataclasses.replace(small_map, labels=torch.full((50,), math.nan), metadata={})
    figure = figures.latent_map(unlabeled)
    assert len(trace(figure, WITHOUT).x) == 50
    assert not trace(figure, POINTS).visible


def test_the_grid_under_the_map_receives_clicks_everywhere(bundled):
    figure = figures.latent_map(bundled)
    net = trace(figure, GRID)
    assert figure.data[0] is net, "it lies beneath"
    assert net.marker.opacity == net.selected.marker.opacity == net.unselected.marker.opacity == 0
    assert net.hoverinfo == "none", "skip would take its clicks, too"
    places = torch.from_numpy(np.stack([net.x, net.y], 1)).float()
    x, y = figure.layout.xaxis.range, figure.layout.yaxis.range
    low, high = torch.tensor([x[0], y[0]]), torch.tensor([x[1], y[1]])
    assert (bundled.xy > low).all()
    assert (bundled.xy < high).all()
    # From anywhere in the picture the nearest grid point or crystal is within about a hundredth of its width: half a
    # diagonal of a grid cell to a grid point, and where that is left out, half a cell more to the crystal there ...
    cell = float(np.diff(np.unique(net.x)).min())
    assert cell < 0.0126 * (high - low).max()
    anywhere = low + torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * (high - low)
    nearest = torch.cdist(anywhere, torch.cat([places, bundled.xy])).amin(1)
    assert nearest.max() < (0.5**0.5 + 0.5) * cell
    # ... and no grid point is so near to a crystal that it receives its clicks.
    assert torch.cdist(places, bundled.xy).amin() > 0.005 * (high - low).max()


def test_layers_and_paths_lie_on_the_map(small_map):
    plain = figures.latent_map(small_map)
    assert not plain.layout.showlegend
    figure = figures.latent_map(
        small_map,
        layers=[("generated", torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ["O3SrTi", "BaO3Ti"]), ("own", [[0.0, 0.0]])],
        paths=[("to BaTiO3", np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]))],
    )
    assert len(figure.data) == len(plain.data) + 3
    assert figure.layout.showlegend
    generated, own, path = (trace(figure, name) for name in ("generated", "own", "to BaTiO3"))
    assert list(generated.x) == [1, 3]
    assert list(generated.y) == [2, 4]
    assert "O3SrTi" in generated.text[0]
    assert generated.mode == own.mode == "markers"
    assert path.mode == "lines+markers"
    assert path.text[1].endswith("2 of 3")
    looks = {(t.marker.symbol, t.marker.color) for t in (generated, own, path)}
    assert len({symbol for symbol, _ in looks}) == len({color for _, color in looks}) == 3


# Along a path


def test_a_path_shows_every_prediction_and_the_target():
    figure = figures.along_path(
        {"model": [1.0, 2.0, 3.0], "independent": torch.tensor([1.5, math.nan, 2.5])},
        "heat_ref",
        "eV/atom",
        texts=["O3SrTi", "O3Ti", "BaO3Ti"],
        valid=[True, False, True],
        reference={"target": -4.0},
        current=1,
    )
    model, other = trace(figure, "model"), trace(figure, "independent")
    assert list(model.y) == [1, 2, 3]
    assert list(model.x) == [0, 1, 2]
    assert math.isnan(other.y[1])
    assert list(model.marker.symbol) == ["circle", "circle-open", "circle"]
    assert (model.line.color, model.line.dash) != (other.line.color, other.line.dash)
    assert "O3Ti" in model.text[1]
    assert "not valid" in model.text[1]
    assert "eV/atom" in model.hovertemplate
    assert figure.layout.yaxis.title.text == "heat_ref (eV/atom)"
    assert figure.layout.yaxis.range[0] < -4 < 3 < figure.layout.yaxis.range[1]
    assert {(shape.x0, shape.y0) for shape in figure.layout.shapes} == {(0, -4.0), (1, 0)}
    assert [a.text for a in figure.layout.annotations] == ["target"]


def test_a_path_of_one_line_at_places_of_its_own():
    figure = figures.along_path([5.0, 5.0], "energy", at=[0.0, 10.0], at_name="step")
    [line] = figure.data
    assert list(line.x) == [0, 10]
    assert figure.layout.xaxis.title.text == "step"
    assert figure.layout.yaxis.title.text == "energy"
    assert figure.layout.yaxis.range[0] < 5 < figure.layout.yaxis.range[1]


@pytest.mark.parametrize(
    "wrong", [{"values": []}, {"values": [1.0], "at": [1.0, 2.0]}, {"values": {"a": [1.0], "b": [1.0, 2.0]}}]
)
def test_a_path_of_uneven_lengths_is_refused(wrong):
    with pytest.raises(SettingError, match="one length"):
        figures.along_path(name="energy", **wrong)


# Along a run


def test_a_course_describes_the_frames(run):
    for crystal in range(3):
        found = course(run, crystal)
        assert found.steps.tolist() == run.steps.tolist()
        np.testing.assert_allclose(found.sigmas, run.sigmas)
        kinds = run.atomic_numbers[:, crystal].tolist()
        changed = [sum(a != b for a, b in zip(one, two, strict=True)) for one, two in itertools.pairwise(kinds)]
        assert found.changed_species.tolist() == [0, *changed]
        assert found.structure_valid.tolist() == [bool(structure_validity(f.crystals[crystal])) for f in run]
        for frame, distance in zip(run, found.closest_distance.tolist(), strict=True):
            [structure] = frame.crystals[crystal].to_structures()
            neighbors = structure.get_all_neighbors(min(structure.lattice.abc) + 1e-3)  # own images too
            assert distance == pytest.approx(min(n.nn_distance for some in neighbors for n in some), abs=1e-4)
    with pytest.raises(SettingError, match="crystal: 3"):
        course(run, 3)
    with pytest.raises(SettingError, match="at least one"):
        course([])


def test_the_strips_of_a_run(run):
    figure = figures.trajectory_strips(run, crystal=1, current=5)
    known = course(run, 1)
    assert [t.name for t in figure.data] == [strips.SIGMA, strips.DISTANCE, strips.CHANGED, strips.VALID]
    sigma, distance, changed, valid = figure.data
    np.testing.assert_allclose(sigma.y, run.sigmas)
    np.testing.assert_allclose(distance.y, known.closest_distance)
    assert list(changed.y) == known.changed_species.tolist()
    assert [bool(v) for v in valid.z[0]] == known.structure_valid.tolist()
    assert all(list(t.x) == run.steps.tolist() for t in figure.data)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.title.text == "σ (Å)"
    assert "Å" in figure.layout.yaxis2.title.text
    assert figure.layout.yaxis3.range == (0, known.num_atoms)
    assert figure.layout.xaxis4.title.text == "step"
    [marker] = [shape for shape in figure.layout.shapes if shape.name == strips.CURRENT]
    assert (marker.x0, marker.x1, marker.yref) == (5, 5, "paper")
    assert any(shape.y0 == shape.y1 == 0.5 for shape in figure.layout.shapes), "the limit of validity"


def test_the_strip_of_validity_names_the_test_it_shows(run, srtio3):
    """Structure alone: Sr2O3 has its atoms apart, and no oxidation states that balance."""
    unbalanced = srtio3.replace(atomic_numbers=torch.tensor([[38, 38, 8, 8, 8]]))
    frame = replace(run[0], crystals=unbalanced)
    valid = figures.trajectory_strips([frame]).data[3]
    assert (valid.name, valid.text[0][0], valid.z[0][0]) == ("structure valid", "structure valid", 1)
    assert not composition_validity(unbalanced).item()


def test_strips_of_frames_of_a_course_and_of_a_recording_are_the_same(run):
    ways = [run, list(run), iter(run), course(run)]
    assert isinstance(ways[-1], Course)
    pictures = {json.dumps(json.loads(figures.trajectory_strips(way).to_json()), sort_keys=True) for way in ways}
    assert len(pictures) == 1


def test_strips_of_the_first_frame_alone(run):
    figure = figures.trajectory_strips([run[0]], current=0)
    low, high = figure.layout.xaxis.range
    assert low < 0 < high


# Speed and quality


def test_speed_at_quality_shows_the_measured_numbers(measured):
    figure = figures.speed_quality(measured)
    left, right = ([t for t in figure.data if t.xaxis == axis] for axis in ("x", "x2"))
    names = ["langevin, types argmax", "renoising, types argmax", "renoising", "a named setting"]
    assert [t.name for t in left] == [t.name for t in right] == names
    assert list(left[2].x) == list(right[2].x) == [0.125, 0.25]  # in the order of their calls
    assert list(left[2].y) == [50, 90]
    assert list(right[2].y) == [0.04, 0.02]
    assert list(left[2].error_y.array) == [1, 1]
    assert list(right[2].error_y.array) == [0.001, 0.001]
    assert list(left[2].text) == ["25", "<b>preview</b><br>50"]
    assert list(left[1].text) == ["50"]  # its types are not the named setting's
    assert list(left[0].text) == ["51", "<b>paper</b><br>5,001"]
    assert math.isnan(right[0].y[0])
    assert list(left[3].x) == [0.25, 30]
    assert list(left[3].text) == ["preview", "paper"]
    assert len({t.marker.symbol for t in left[:3]}) == 3
    assert left[3].marker.size > 2 * left[0].marker.size
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == figure.layout.yaxis2.type == "log"
    for axis in (figure.layout.xaxis, figure.layout.xaxis2):
        assert axis.title.text == "time (s per 1,000 crystals)"
        assert axis.range[0] < math.log10(0.125) < math.log10(30) < axis.range[1]
    assert figure.layout.yaxis.title.text == "match rate, structure valid (%)"
    assert figure.layout.yaxis2.title.text == "RMSE ((volume / atom)<sup>1/3</sup>)"
    caption = figure.layout.annotations[-1].text.replace("<br>", " ")
    assert "1,000 crystals of perov_5 (val)" in caption
    assert "batches of 1,024 on X1" in caption
    assert "standard error" in caption


def test_speed_at_quality_of_one_setting_without_a_match(measured):
    figure = figures.speed_quality(measured | {"rows": measured["rows"][3:4]})
    assert [t.name for t in figure.data if t.showlegend is not False] == ["langevin, types argmax"]
    assert figure.layout.xaxis.range[0] < math.log10(0.3) < figure.layout.xaxis.range[1]


# Training


def test_a_training_curve_has_three_traces_a_term_and_a_log_is_read_back(tmp_path):
    records = [{"step": i, **dict.fromkeys(TERMS, 1.0 / (i + 1))} for i in range(3)]
    records += [{"step": 2, **{f"val_{term}": 0.5 for term in TERMS}}]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + '\n{"step": 3, "coord')
    assert figures.read_log(path) == records
    figure = figures.training_curve(figures.read_log(path))
    assert len(figure.data) == 3 * len(TERMS)
    for training, validation in zip(figure.data[::3], figure.data[2::3], strict=True):
        assert list(training.y) == [1, 1 / 2, 1 / 3]
        assert list(validation.y) == [0.5]
    assert {axis.type for axis in figure.select_yaxes()} == {"log"}
    path.write_text('{"step": 1}\nno json\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match="line 2"):
        figures.read_log(path)


def test_the_outlines_of_a_path_of_many_points_do_not_cover_its_line() -> None:
    for points, outlined in ((9, 9), (150, 1)):
        xy = np.stack([np.arange(points), np.zeros(points)], 1)
        trace = figures.layer_trace(("the search", xy), True, 1)
        assert np.count_nonzero(trace.marker.line.width) == outlined
        assert trace.marker.line.width[-1] > 0
