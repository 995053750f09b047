"""Self-contained HTML pages: run report, evaluation report, animation; one shell and one stylesheet for all."""

from __future__ import annotations

from cdvae_lab.pages.animation import packed, write_html
from cdvae_lab.pages.evaluation_report import write_evaluation

__all__ = ["packed", "write_evaluation", "write_html"]
