"""The path on a latent map: on one that is shown with it, or on that of another view."""

from __future__ import annotations

from collections.abc import Sequence

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.interpolation import LatentPath
from cdvae_lab.widgets.parts.map_figure import MapFigure
from cdvae_lab.widgets.parts.maps import PathCanvas

PATH = "path"  # name of the line on the map


class PathMap:
    """Draws one path at a time.

    Args:
        map: that is shown with the path; None without one.
        canvas: a view that draws the path instead.

    Attributes:
        path: that is drawn; None before the first.
    """

    def __init__(self, map: MapFigure | None, canvas: PathCanvas | None) -> None:
        self._map, self._canvas = map, canvas
        self.path: LatentPath | None = None

    def draw(self, path: LatentPath, texts: Sequence[str] = (), crystals: Crystals | None = None) -> None:
        """Draw a path in the place of the one before.

        Args:
            texts: of the stops, for the hover.
            crystals: of the stops, once they are decoded.
        """
        self.path = path
        texts = list(texts) or [""] * len(path)
        if self._canvas is not None:
            self._canvas.set_path(PATH, path.z, texts, crystals=crystals)
        elif self._map is not None:
            self._map.put(PATH, True, self._map.map.place(path.z.cpu().float()), texts)

    def mark(self, stop: int) -> None:
        """Mark a stop of the path, if there is one, on the map that is shown with it."""
        if self._map is not None and self.path is not None:
            x, y = self._map.map.place(self.path.z[[stop]].cpu().float())[0].tolist()
            self._map.mark((x, y))
