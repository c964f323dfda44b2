"""A browser that shows the editor of a real ComfyUI with the pack in it, in a folder as after an install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from comfyui_host import Host
from comfyui_server import Server
from editor import SETTINGS, Editor

HERE = Path(__file__).parent
# Containers give Chromium neither its sandbox nor a shared memory of a useful size; the canvas is drawn without a GPU.
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"]
WIDTH, HEIGHT = 1600, 1000
"""Of the page, in pictures for the README."""
SMALLER = 0.7
"""The page and all on it otherwise: without a GPU every pixel is the processor's work."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make screenshots` keeps what is seen on the way for the README."""
    parser.addoption("--screenshots", type=Path, help="a folder for pictures of the editor")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("browser")


@pytest.fixture(scope="module")
def first_editor(
    host: Host, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Editor]:
    """One server, one browser and one page for all tests of a file; longer, an editor that draws would hold a core."""
    from playwright.sync_api import sync_playwright

    path = chromium.find()
    if path is None:
        pytest.skip(chromium.ABSENT)
    with Server(host, tmp_path_factory.mktemp("browser")) as server, sync_playwright() as driver:
        for name, value in SETTINGS.items():
            server.post(f"/settings/{name}", value)
        browser = driver.chromium.launch(executable_path=path, args=OPTIONS)
        zoom = 1.0 if request.config.getoption("--screenshots", None) else SMALLER
        page = browser.new_page(viewport={"width": int(WIDTH * zoom), "height": int(HEIGHT * zoom)}, locale="en-US")
        page.set_default_timeout(60_000)
        # ComfyUI's own templates are a hundred pictures, which would be drawn anew for each of the pack's
        page.route("**/templates/index*.json", lambda route: route.fulfill(json=[]))
        yield Editor(page, server, zoom)
        browser.close()


@pytest.fixture
def editor(first_editor: Editor, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Editor]:
    """The editor with an empty canvas; a test that fails leaves a picture of what there was to see."""
    first_editor.clear()
    first_editor.screenshots = request.config.getoption("--screenshots", None)
    failed = request.session.testsfailed
    yield first_editor
    if request.session.testsfailed > failed:
        first_editor.page.screenshot(path=tmp_path / "editor.png")
        sys.stderr.write(f"The page as the test left it: {tmp_path / 'editor.png'}\n")
