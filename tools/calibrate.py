"""Fit the curves from latent distance to the probability of a match, and write them to assets/match_calibration.json.

    cdvae-lab reconstruct mp_20 mp_20 --split val --limit 600 --out once.csv
    cdvae-lab reconstruct mp_20 mp_20 --split val --limit 600 --max-attempts 8 --out eight.csv
    python -m tools.calibrate mp_20 once.csv eight.csv --data "600 crystals of MP-20's validation file"

With `--refined` for tables of refined crystals (`--refine 60`). The other curves in the file stay.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

import cdvae_lab as lab
from cdvae_lab.io import assets
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.sampling import calibration

FILE = assets.folder() / calibration.FILE


def fit(distance: np.ndarray, matched: np.ndarray) -> tuple[float, float]:
    """Fit intercept and slope of the log odds as a function of log(distance), with a weak penalty on the slope."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(np.log(distance)[:, None], matched)
    return float(found.intercept_[0]), float(found.coef_[0, 0])


def read(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read latent distances and matches from tables of `cdvae-lab reconstruct`."""
    rows = [row for path in paths for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
    matched = np.array([row["matched"] == "True" for row in rows])
    return np.array([float(row["latent_distance"] or "inf") for row in rows]), matched


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a bundled model")
    parser.add_argument("tables", nargs="+", type=Path, help="tables of `cdvae-lab reconstruct`")
    parser.add_argument("--data", required=True, help="what the crystals are")
    parser.add_argument("--refined", action="store_true", help="the crystals were refined")
    args = parser.parse_args()
    distance, matched = read(args.tables)
    there = np.isfinite(distance) & (distance > 0)
    intercept, slope = fit(distance[there], matched[there])
    curve = {
        "intercept": round(intercept, 4),
        "slope": round(slope, 4),
        "crystals": int(there.sum()),
        "matched": int(matched[there].sum()),
        "data": args.data,
    }
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    model = known.get(args.model, {}) | {"fingerprint": fingerprint(lab.load(args.model))}
    known[args.model] = model | {"refined" if args.refined else "decoded": curve}
    with atomic_path(FILE, "the curves") as temporary:
        temporary.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n", encoding="utf-8")
    print(f"{args.model}: {curve}")


if __name__ == "__main__":
    main()
