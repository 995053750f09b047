"""On a machine without chromium nothing here is collected, and so nothing is counted as passed or skipped."""

from __future__ import annotations

import pytest

try:
    from tests.browser import harness
except ModuleNotFoundError as error:  # playwright comes with the `test` extra; CI has it
    if error.name != "playwright":
        raise
    harness = None

collect_ignore_glob = ["test_*.py"] if harness is None or harness.CHROMIUM is None else []


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory):
    with harness.LabServer(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    with harness.Browser() as one:
        yield one


@pytest.fixture(scope="module", autouse=True)
def pages_closed(browser):
    """Close the pages of a file: they would keep drawing and take time from those of the next."""
    yield
    browser.close_pages()
