"""The whole laboratory on one page: five views as tabs that share a model, a map and the selected crystal."""

from __future__ import annotations

from cdvae_lab.widgets.app.view import App, app

__all__ = ["App", "app"]
