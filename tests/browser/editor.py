"""Editor: ComfyUI's editor in a page of a browser; what a person does in it, and what that person sees."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfyui_server import PACK_NAME, Server
from frontends import frontend
from playwright.sync_api import Locator, Page

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Notification.ShowVersionUpdates": False,
}
"""What a person has closed and put away after the first start."""
READY = "() => !!(window.app?.graph && window.LiteGraph?.registered_node_types['DiffusionPerceptionPerceive'])"
DROP = """([name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), dropped = new DataTransfer()
    dropped.items.add(new File([bytes], name, {type}))
    const canvas = document.querySelector('#graph-canvas'), box = canvas.getBoundingClientRect()
    for (const kind of ['dragenter', 'dragover', 'drop'])
        canvas.dispatchEvent(new DragEvent(kind, {
            dataTransfer: dropped, bubbles: true, cancelable: true,
            clientX: box.left + box.width / 2, clientY: box.bottom - 60,
        }))
}"""
NODES = """() => app.graph._nodes.map(node => ({
    id: String(node.id), type: node.type, title: node.getTitle(), red: !!node.has_errors,
    widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value])),
}))"""
WIRES = "() => [...app.graph.links.values()].length"
ON_SCREEN = """([x, y]) => {
    const box = app.canvas.canvas.getBoundingClientRect(), {offset, scale} = app.canvas.ds
    return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale]
}"""
SLOT = """([id, side, name]) => {
    const node = app.graph._nodes.find(node => String(node.id) == id), slots = node[side + 's']
    const index = slots.findIndex(slot => slot.name == name)
    return [...node.getConnectionPos(side == 'input', index)]
}"""
CHOOSE = """([id, values]) => {
    const node = app.graph._nodes.find(node => String(node.id) == id)
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(widget => widget.name == name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
TITLE = "id => { const node = app.graph._nodes.find(node => String(node.id) == id); return [node.pos[0] + 70, node.pos[1] - 12] }"
PICTURES = """() => Object.fromEntries(app.graph._nodes.filter(node => node.imgs?.length).map(node => [
    String(node.id), node.imgs.map(picture => {
        const small = new OffscreenCanvas(64, 64).getContext('2d')
        small.drawImage(picture, 0, 0, 64, 64)
        return {
            width: picture.naturalWidth, height: picture.naturalHeight,
            shades: new Set(new Uint32Array(small.getImageData(0, 0, 64, 64).data.buffer)).size,
        }
    })
]))"""
LOADED = "() => app.graph._nodes.every(node => (node.imgs ?? []).every(picture => picture.complete))"
"""How many colours a small copy of each picture has tells one from a flat placeholder."""
CLEAR = "() => { app.graph.clear(); app.lastNodeErrors = null; app.canvas.ds.offset = [0, 0]; app.canvas.ds.scale = 1 }"


class Editor:
    """One page, which all tests of a file use; each begins on an empty canvas."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.load()
        self.frontend = frontend(page.evaluate("() => __COMFYUI_FRONTEND_VERSION__"))

    def load(self) -> None:
        """Open the editor anew."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY)

    def clear(self) -> None:
        """Close what is open and empty the canvas."""
        self.until(self._escaped)
        if self.help().count():
            self.page.locator(self.frontend.shut_help).first.click()
        self.page.evaluate(CLEAR)

    def _escaped(self) -> bool:
        opened = self.page.locator(f"[role=search], {self.frontend.complaints}").filter(visible=True).count()
        if opened:
            self.page.keyboard.press("Escape")
        return not opened

    # What is there

    def nodes(self) -> list[dict[str, Any]]:
        """id, type, title, widgets {name: value}, and whether it is red, of each node."""
        return self.page.evaluate(NODES)

    def wires(self) -> int:
        return self.page.evaluate(WIRES)

    def complaints(self) -> list[str]:
        """The words of all that opened because something is wrong."""
        return [text for text in self.page.locator(self.frontend.complaints).all_inner_texts() if text.strip()]

    def pictures(self) -> dict[str, list[dict[str, int]]]:
        """{node: width, height and the number of shades of each picture on it}."""
        self.page.wait_for_function(LOADED)
        return self.page.evaluate(PICTURES)

    def said(self) -> str:
        """All the lines that stand on nodes."""
        return "\n".join(self.page.locator(".dom-widget").all_inner_texts())

    def help(self) -> Locator:
        """The heading of the page of help that is open."""
        return self.page.locator(".node-help-content h1")

    # What a person does

    def run(self, timeout: float = 60.0) -> None:
        """Press Run, and wait until ComfyUI has done it or the editor complains."""
        before = self.server.get("/history")
        self.page.locator(self.frontend.run).first.click()
        self.until(lambda: self.server.get("/history").keys() != before.keys() or self.complaints(), timeout)

    def until(self, look: Callable[[], Any], timeout: float = 10.0) -> Any:
        """Look until there is something to see; what there was last, when the time is over."""
        for _ in range(int(timeout * 20)):
            seen = look()
            if seen:
                return seen
            self.page.wait_for_timeout(50)
        return look()

    def drop(self, file: Path, media_type: str) -> None:
        """Drop a file onto the canvas. No browser lets a test drag from outside, so that the event alone is made."""
        content = base64.b64encode(file.read_bytes()).decode()
        self.page.evaluate(DROP, [file.name, media_type, content])

    def open_templates(self) -> None:
        """The template browser, at this pack's."""
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.get_by_role("dialog").get_by_text(PACK_NAME).click()

    def template(self, name: str) -> Locator:
        """The card of a template."""
        return self.page.get_by_test_id(f"template-workflow-{name}")

    def search(self, x: float = 700, y: float = 400) -> Locator:
        """Open the node search by a double click on the canvas; the field to type into."""
        self.page.mouse.dblclick(x, y)
        return self.page.locator("[role=search] input").first

    def results(self) -> list[str]:
        """What the search lists, best first."""
        return self.page.locator(self.frontend.results).all_inner_texts()

    def add(self, title: str, x: float, y: float) -> str:
        """Find a node by its name, take the first and put it there; its id."""
        before = {node["id"] for node in self.nodes()}
        field = self.search(x, y)
        field.fill(title)
        self.until(lambda: any(title in row for row in self.results()[:1]))
        field.press("Enter")
        (added,) = self.until(lambda: [node["id"] for node in self.nodes() if node["id"] not in before])
        self.page.locator("[role=search]").first.wait_for(state="hidden")
        self.page.mouse.move(x + 5, y + 5)
        self.page.mouse.click(x + 5, y + 5)
        return added

    def wire(self, source: str, output: str, target: str, socket: str) -> None:
        """Drag a wire from an output to an input."""
        start = self.on_screen(SLOT, [source, "output", output])
        end = self.on_screen(SLOT, [target, "input", socket])
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=8)
        self.page.mouse.up()

    def choose(self, node: str, **values: Any) -> None:
        """Set widgets, as choosing from their menus does."""
        self.page.evaluate(CHOOSE, [node, values])

    def select(self, node: str) -> None:
        """Click on a node's title."""
        self.page.mouse.click(*self.on_screen(TITLE, node))

    def on_screen(self, place: str, argument: Any) -> list[float]:
        """Where a place of the graph is seen."""
        return self.page.evaluate(ON_SCREEN, self.page.evaluate(place, argument))
