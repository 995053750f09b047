"""The crystals in a lasso, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdvae_lab.explore.latent_map import LatentMap

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 200  # that are shown; all are exported


def lasso_table(map: LatentMap, rows: Sequence[int]) -> pd.DataFrame:
    """A table of some crystals of a map: id, formula, label, number of atoms, and density in g/cm³.

    Args:
        rows: their numbers on the map, which become the index.
    """
    import pandas as pd

    rows = list(rows)
    unit = f" ({map.label_unit})" if map.label_unit else ""
    columns = {
        "id": [map.ids[i] for i in rows],
        "formula": [map.formulas[i] for i in rows],
        f"{map.label_name or 'label'}{unit}": [round(map.labels[i].item(), 4) for i in rows],
        "atoms": map.num_atoms[rows].tolist(),
        "density (g/cm³)": [round(map.density[i].item(), 3) for i in rows],
    }
    return pd.DataFrame(columns, index=pd.Index(rows, name="number"))


def lasso_html(map: LatentMap, rows: Sequence[int]) -> str:
    """The first `MAX_ROWS` rows of the table as HTML."""
    if not rows:
        return "<i>no crystals selected: choose “lasso” and draw around some</i>"
    more = f"<div>the first {MAX_ROWS} of {len(rows):,}</div>" if len(rows) > MAX_ROWS else ""
    shown = lasso_table(map, list(rows)[:MAX_ROWS])
    return f"{more}{shown.to_html(border=0, na_rep='none', index_names=False)}"
