"""Write a row of assets/our_scores.json from the report cards of its seeds; no number is typed by hand.

    python -m tools.collect_scores --task generation --data mp_20 --model mp_20 --system "ours" \\
      --report seed0/ seed1/ seed2/ --seeds 0 1 2 --seconds 300 --hardware "one H200" --command "cdvae-lab generate ..."

A report is a folder that `cdvae-lab evaluate ... --out` wrote, or its report.json. A row of the same system is
replaced.
Then `python -m tools.tables` writes the tables of README.md and docs/results/tables.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.evaluation.score_tables import DATA, METRICS
from cdvae_lab.io import assets
from cdvae_lab.io.storage import atomic_path

NAME = "our_scores.json"


def read_report(path: Path, task: str, data: str) -> dict[str, Any]:
    """Read a finished report of a task on a data set's test file.

    Raises:
        SettingError: for any other file.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        about = report["task"], report["data"], report["split"], report["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{file}: no report of `cdvae-lab evaluate` can be read here ({error!r})") from error
    # Optimization compares with percentiles, not with crystals, so its reports name no split.
    split = "" if task == "optimization" else "test"
    if about != (task, data, split, True):
        raise SettingError(
            f"{file}: is of {about[0]} on {about[1]}, split {about[2] or 'none'}, "
            f"{'' if about[3] else 'not '}finished; "
            f"it must be a finished report of {task} on {data}, split {split or 'none'}"
        )
    return report


def collect(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the numbers of one report, or mean, standard deviation and values of several.

    Raises:
        SettingError: if a report lacks a number that another has.
    """
    numbers = [{s["key"]: s["value"] for s in report["scores"] if s["value"] is not None} for report in reports]
    if len({frozenset(found) for found in numbers}) > 1:
        different = set.union(*map(set, numbers)) - set.intersection(*map(set, numbers))
        raise SettingError(f"not every report has {', '.join(sorted(different))}; evaluate all seeds alike")
    if len(numbers) == 1:
        return numbers[0]
    rows = {key: [found[key] for found in numbers] for key in numbers[0]}
    return {
        key: {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
        for key, values in rows.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.collect_scores", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--task", required=True, choices=list(METRICS))
    parser.add_argument("--data", required=True, choices=list(DATA))
    parser.add_argument("--model", required=True, metavar="NAME", help="the bundled model")
    parser.add_argument(
        "--system", default="ours", help='the row\'s name, such as "ours, decoded once" (default %(default)s)'
    )
    parser.add_argument("--report", required=True, type=Path, nargs="+", metavar="FOLDER", help="one for each seed")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="of the reports (default: 0, 1, ...)")
    parser.add_argument("--seconds", type=float, metavar="S", help="to make the crystals of one seed")
    parser.add_argument("--hardware", default="", metavar="TEXT", help='such as "one H100"')
    parser.add_argument("--note", default="", metavar="TEXT", help="what a reader must know, a sentence")
    parser.add_argument("--unlike", default="", metavar="TEXT", help=(
        "how it was made otherwise than the published rows; such a row is not compared with them"
    ))  # fmt: skip
    parser.add_argument("--command", default="", metavar="TEXT", help="that makes the crystals")
    parser.add_argument("--file", type=Path, help=f"another file than assets/{NAME}")
    options = parser.parse_args(argv)
    try:
        file = options.file or assets.asset_path(NAME)
        reports = [read_report(path, options.task, options.data) for path in options.report]
        seeds = list(range(len(reports))) if options.seeds is None else options.seeds
        if len(seeds) != len(reports) or len(set(seeds)) != len(seeds):
            raise SettingError(f"--seeds: {seeds} for {len(reports)} reports; give another number for each")
        row = {"system": options.system, "model": options.model, "seeds": seeds}
        row |= {"crystals": [report["crystals"] for report in reports]} | collect(reports)
        row |= {"seconds": options.seconds, "hardware": options.hardware}
        row |= {"command": options.command, "note": options.note}
        if options.unlike:
            row["unlike"] = options.unlike
        scores = json.loads(file.read_text(encoding="utf-8"))
        rows = scores.setdefault(options.task, {}).setdefault(options.data, [])
        places = [i for i, other in enumerate(rows) if other["system"] == options.system]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        with atomic_path(file, "the scores") as temporary:
            temporary.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
