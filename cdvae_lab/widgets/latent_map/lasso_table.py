"""The crystals in a lasso, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.io.storage import atomic_path

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 200  # that are shown; all are exported


class LassoTable(ipywidgets.HTML):
    """Some of a map's crystals; `rows` are their numbers."""

    def __init__(self, map: LatentMap) -> None:
        self._map = map
        self.rows: list[int] = []
        super().__init__(layout={"max_height": "260px", "overflow": "auto", "width": "100%"})
        self.show([])

    def show(self, rows: Sequence[int]) -> None:
        """Take these crystals instead."""
        self.rows = [int(row) for row in rows]
        if not self.rows:
            self.value = "<i>no crystals selected: choose “lasso” and draw around some</i>"
            return
        table = self.frame()
        more = f"<div>the first {MOST_ROWS} of {len(table):,}</div>" if len(table) > MOST_ROWS else ""
        self.value = f"{more}{table.head(MOST_ROWS).to_html(border=0, na_rep='none', index_names=False)}"

    def frame(self) -> pd.DataFrame:
        """Id, formula, property, number of atoms, density in g/cm³; indexed by number on the map."""
        import pandas as pd

        rows, known = self.rows, self._map
        unit = f" ({known.label_unit})" if known.label_unit else ""
        columns = {
            "id": [known.ids[i] for i in rows],
            "formula": [known.formulas[i] for i in rows],
            f"{known.label_name or 'label'}{unit}": [round(known.labels[i].item(), 4) for i in rows],
            "atoms": known.num_atoms[rows].tolist(),
            "density (g/cm³)": [round(known.density[i].item(), 3) for i in rows],
        }
        return pd.DataFrame(columns, index=pd.Index(rows, name="number"))

    def some(self) -> list[int]:
        """The numbers. Raises SettingError if there are none."""
        if not self.rows:
            raise SettingError("the table is empty; draw a lasso around some crystals, or call select([...])")
        return list(self.rows)

    def write(self, path: str | Path) -> Path:
        """Write a CSV file. Raises SettingError if the table is empty, LabError if it cannot be written."""
        self.some()
        with atomic_path(path, "the table") as temporary:
            self.frame().to_csv(temporary)
        return Path(path)
