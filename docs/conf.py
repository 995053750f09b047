"""Configuration of the documentation. `make docs` builds it into docs/_build/html without a network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent / "_ext"), str(Path(__file__).resolve().parent.parent)]

import cdvae_lab  # noqa: E402

project = "cdvae_lab"
author = "cdvae_lab authors"
project_copyright = "cdvae_lab authors"
version = release = cdvae_lab.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "public_names",
]
exclude_patterns = ["_build", "_ext"]
default_role = "code"  # docstrings set names in single backticks

# Pages and notebooks. `tools.tutorials` executes the notebooks and takes from them what would ask for the network.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist", "substitution"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "ref.python"]  # attributes of several classes share a name

# The reference is written by autosummary from the docstrings.
autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Keys", "params_style")]
napoleon_use_ivar = True
napoleon_attr_annotations = False
toc_object_entries_show_parents = "hide"
nitpicky = True
# Annotations name types of other libraries, whose documentation is elsewhere, and helpers that are not public.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "pydata_sphinx_theme"
html_title = "cdvae_lab"
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_js_files = ["figures.js"]
html_show_sourcelink = False
html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "cdvae_lab"},
    "navbar_align": "left",
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "header_links_before_dropdown": 8,
    "show_nav_level": 1,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "back_to_top_button": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}
copybutton_exclude = ".linenos, .gp, .go"

# `make linkcheck` is the one target that asks the network.
linkcheck_anchors = False
linkcheck_timeout = 20
