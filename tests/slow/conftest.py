"""Fixtures of the tests in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    import visiting

    if visiting.BROWSER is None:
        pytest.skip(f"needs one of {', '.join(visiting.BROWSERS)}")
    # Not the five seconds that a busy machine may take to answer.
    visiting.api.expect.set_options(timeout=visiting.PATIENCE)
    with visiting.api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=visiting.BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of the page, with a tiny random model."""
    import visiting

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GRADIO_TEMP_DIR", "")  # which `mount_page` sets: afterwards it is as it was
        server = visiting.serve(tiny_model, tmp_path_factory.mktemp("page"))
        yield server
        server.stop()


@pytest.fixture
def visitors(browser: Any, page_server: Any) -> Iterator[Any]:
    """Opens visits; all are closed at the end, also of a test that failed, or the server would wait for them."""
    import visiting

    opened = []

    def visit(width: int = 1280, height: int = 720, **more: Any) -> Any:
        opened.append(visiting.Visit(browser, page_server.port, width, height, **more))
        return opened[-1]

    yield visit
    for one in opened:
        one.context.close()
    assert not [complaint for one in opened for complaint in one.complaints]


@pytest.fixture
def visit(visitors: Any) -> Any:
    """One visit, at 1280 × 720 pixels."""
    return visitors()
