"""Editor: ComfyUI's editor in a page of a browser; what a person does in it, and what that person sees."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import looks
from comfyui_server import PACK_NAME, Server
from frontends import frontend
from playwright.sync_api import Locator, Page

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "LiteGraph.Canvas.MaximumFps": 10}
"""What a person has closed and put away after the first start; drawn without a GPU, the canvas else takes a core."""
SEARCH = "[role=search]"
BARS = 60
"""Pixels at the top where a canvas that is made smaller would lie under the editor's bars."""
Picture = dict[str, int]
"""width, height, and in how many shades: a flat one is none."""


class Editor:
    """One page, which all tests of a file use; each begins on an empty canvas."""

    def __init__(self, page: Page, server: Server, zoom: float) -> None:
        """zoom: of the canvas, whose places are told as if it were 1."""
        self.page = page
        self.server = server
        self.zoom = zoom
        self.screenshots: Path | None = None
        """Where keep() keeps, if anywhere."""
        self.load()
        self.frontend = frontend(page.evaluate("() => __COMFYUI_FRONTEND_VERSION__"))

    def load(self) -> None:
        """Open the editor anew, and wait until its canvas is there to be clicked."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(looks.READY)

    def clear(self) -> None:
        """Close what is open and empty the canvas."""
        # where files are dropped faster than people drop them, editor 1.32 leaves its waiting screen over everything
        if self.page.locator(".p-blockui-mask, .p-dialog-mask").count() and not self.until(self._put_away, 5.0):
            self.load()
        if self.page.locator(".p-blockui-mask").count():
            self.load()
        if not self.until(self._put_away, 10.0):
            self.load()
        if self.help().count():
            self.page.locator(self.frontend.shut_help).first.click()
        self.until(self._resting)
        self.page.evaluate(looks.CLEAR, self.zoom)

    def _resting(self) -> bool:
        """Whether the canvas has come to where it was sent: one that is still gliding goes on where it is emptied."""
        before = self.page.evaluate(looks.VIEW)
        self.page.wait_for_timeout(150)
        return self.page.evaluate(looks.VIEW) == before

    def _put_away(self) -> bool:
        """Whether nothing is open; what is, gets one push."""
        dismiss = self.page.locator(self.frontend.dismiss).filter(visible=True)
        if dismiss.count():
            dismiss.first.click()
            return False
        opened = self.page.locator(f"{SEARCH}, {self.frontend.complaints}").filter(visible=True).count()
        if opened:
            self.page.keyboard.press("Escape")
        return not opened

    def until(self, look: Callable[[], Any], timeout: float = 30.0) -> Any:
        """Look until there is something to see; what there was last, when the time is over."""
        for _ in range(int(timeout * 20)):
            seen = look()
            if seen:
                return seen
            self.page.wait_for_timeout(50)
        return look()

    # What there is to see

    def nodes(self) -> list[dict[str, Any]]:
        """id, type, title, widgets {name: value}, and whether it is red, of each node."""
        return self.page.evaluate(looks.NODES)

    def wires(self) -> int:
        return self.page.evaluate(looks.WIRES)

    def red(self) -> list[str]:
        """The nodes that are marked as wrong, or that this ComfyUI does not know."""
        return [node["title"] for node in self.nodes() if node["red"]]

    def complaints(self) -> list[str]:
        """The words of all that opened because something is wrong."""
        shown = self.page.locator(self.frontend.complaints).filter(visible=True)
        return [text for text in shown.all_inner_texts() if text.strip()]

    def missing(self) -> str:
        """What the editor says of files that a graph needs and the host lacks."""
        named = self.page.locator(self.frontend.missing).first
        # what a test before this one opened may be open still
        if self.frontend.details and not self.until(named.is_visible, 2.0):
            self.page.locator(self.frontend.details).click()
        return named.inner_text()

    def films(self) -> int:
        """How many videos stand on nodes."""
        return self.page.locator("video").count()

    def pictures(self) -> dict[str, list[Picture]]:
        """{node: the pictures on it}"""
        return self.page.evaluate(looks.PICTURES)

    def said(self) -> str:
        """All the lines that stand on nodes."""
        return "\n".join(self.page.locator(".dom-widget").all_inner_texts())

    def help(self) -> Locator:
        """The heading of the page of help that is open."""
        return self.page.locator(".node-help-content h1")

    def results(self) -> list[str]:
        """What the search lists, best first."""
        return self.page.locator(self.frontend.results).all_inner_texts()

    def keep(self, name: str) -> None:
        """A picture of the page as it is, for the README, if such are wanted."""
        if self.screenshots:
            self.page.screenshot(path=self.screenshots / f"{name}.jpg", quality=80)

    # What a person does

    def run(self, timeout: float = 120.0) -> dict[str, Any]:
        """Press Run, and wait until ComfyUI has done it or the editor complains; what output nodes gave."""
        before = self.server.get("/history")
        self.page.locator(self.frontend.run).first.click()
        self.until(lambda: self.server.get("/history").keys() != before.keys() or self.complaints(), timeout)
        history = self.server.get("/history")
        return next((run["outputs"] for name, run in history.items() if name not in before), {})

    def drop(self, file: Path) -> None:
        """Drop a file onto the canvas. No page can be dragged to from outside, so that the event alone is made."""
        content = base64.b64encode(file.read_bytes()).decode()
        self.page.evaluate(looks.DROP, [file.name, mimetypes.guess_type(file.name)[0], content])

    def open_templates(self) -> None:
        """The template browser, at those of this pack."""
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.get_by_role("dialog").get_by_text(PACK_NAME).click()

    def open_template(self, title: str) -> None:
        """By a click on its picture."""
        self.open_templates()
        card = self.page.get_by_test_id(f"template-workflow-{title}")
        for _ in range(3):  # pictures that come in move a card away under a click
            card.click()
            if self.until(lambda: not card.count(), 5.0):
                return

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the page."""
        return x * self.zoom, y * self.zoom + BARS

    def search(self, x: float = 700, y: float = 400) -> Locator:
        """Open the node search by a double click on the canvas; the field to type into."""
        field = self.page.locator(f"{SEARCH} input").first
        for _ in range(5):  # a canvas that is just being drawn may miss the first
            self.page.mouse.dblclick(*self.place(x, y))
            if self.until(lambda: field.count() and field.is_visible(), 3.0):
                return field
        raise LookupError(f"No search opens at {x}, {y}: {self.complaints()}")

    def add(self, title: str, x: float, y: float) -> str:
        """Find a node by its name, take the first and put it there; its id."""
        before = {node["id"] for node in self.nodes()}
        added: list[str] = []
        for _ in range(3):  # a row that is being drawn anew may miss the click
            self.choose_first(self.search(x, y), title)
            added = self.until(lambda: [node["id"] for node in self.nodes() if node["id"] not in before], 5.0)
            if added:
                break
        self.page.locator(SEARCH).first.wait_for(state="hidden")
        # newer editors let a new node hang on the pointer until a click
        self.page.mouse.move(*self.place(x + 5, y + 5))
        self.page.mouse.click(*self.place(x + 5, y + 5))
        (node,) = added
        return node

    def choose_first(self, field: Locator, title: str) -> None:
        """Search for a node by its name, and take the first that is found."""
        field.fill(title)
        if not self.until(lambda: [row for row in self.results()[:1] if row.startswith(title)]):
            raise LookupError(f"The search for {title!r} gave {self.results()}")
        self.page.locator(self.frontend.results).first.click()

    def wire(self, source: str, output: str, target: str, socket: str) -> None:
        """Drag a wire from an output to an input; a drag that a busy canvas misses is made up for by its graph."""
        before = self.wires()
        start = self.page.evaluate(looks.SLOT, [source, "outputs", output])
        end = self.page.evaluate(looks.SLOT, [target, "inputs", socket])
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=6)
        self.page.mouse.up()
        if not self.until(lambda: self.wires() > before, 2.0):
            self.page.evaluate(looks.CONNECT, [source, output, target, socket])

    def fit(self) -> None:
        """See the whole graph: a node takes its pictures when it is drawn."""
        self.page.keyboard.press(".")

    def choose(self, node: str, **values: Any) -> None:
        """Set widgets as their menus do."""
        self.page.evaluate(looks.CHOOSE, [node, values])

    def open_help(self, node: str) -> None:
        """Select a node, and press the i above it."""
        self.page.mouse.click(*self.page.evaluate(looks.TITLE, node))
        self.page.get_by_test_id("info-button").click()

    def speak(self, language: str) -> None:
        """Choose a language; nodes are named in it when the editor is opened next."""
        self.server.post("/settings/Comfy.Locale", language)
        self.load()
        self.clear()  # of what was open before
