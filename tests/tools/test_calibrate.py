"""Fitting the curves from latent distance to the probability of a match."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tools import calibrate


def test_the_coefficients_of_drawn_data_are_found() -> None:
    random = np.random.default_rng(0)
    distance = np.exp(random.normal(0.5, 1.2, 40_000))
    matched = random.random(40_000) < 1 / (1 + np.exp(-(2.5 - 1.8 * np.log(distance))))
    assert calibrate.fit(distance, matched) == pytest.approx((2.5, -1.8), abs=0.06)


def test_a_curve_is_written_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, file = tmp_path / "table.csv", tmp_path / "curves.json"
    with table.open("w", newline="") as out:
        rows = [("True", 0.5), ("True", 1.0), ("False", 1.5), ("True", 2.0), ("False", 4.0), ("False", "")]
        csv.writer(out).writerows([("matched", "latent_distance"), *rows])
    file.write_text(json.dumps({"mp_20": {"fingerprint": "other"}}))
    monkeypatch.setattr(calibrate, "FILE", file)
    for extra in ([], ["--refined"]):
        monkeypatch.setattr("sys.argv", ["calibrate", "perov_5", str(table), "--data", "five crystals", *extra])
        calibrate.main()
    found = json.loads(file.read_text())
    assert found["mp_20"] == {"fingerprint": "other"}
    assert found["perov_5"]["decoded"] == found["perov_5"]["refined"]
    assert found["perov_5"]["decoded"]["crystals"] == 5  # the one without a finite distance is left out
    assert found["perov_5"]["decoded"]["matched"] == 3
