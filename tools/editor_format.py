"""A graph in API format as ComfyUI's editor saves it: nodes with places, links with numbers, widgets in order."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomllib
from api_graph import ApiGraph
from comfyui_host import COMFYUI_VERSION
from layout import GAP, WIDTH, Layout, Wire, arrange, height_of, wires_of
from model_links import models_of

Schemas = Mapping[str, Any]
"""{node: what the host says of it}"""
PACK = "diffusion-perception"
PYPROJECT = Path(__file__).absolute().parents[1] / "pyproject.toml"
VERSION = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["version"]
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
NOTE_WIDTH = 340
"""Of the note left of the graph."""
MARGINS = 90, 190
"""Left and above: what the editor's own bars cover."""
SCALE = 1.0
"""Of the canvas as a workflow opens: text can be read at it."""
LETTER, LINE, PARAGRAPH = 4.8, 14, 10
"""Of a note's text: the width of a letter, the height of a line, and of the space between two paragraphs."""


def _note_height(text: str) -> int:
    """Of a note as the editor sets it, links without their addresses."""
    shown = (LINK.sub(r"\1", line).replace("*", "") for line in text.splitlines())
    lines = [LINE * math.ceil(len(line) * LETTER / (NOTE_WIDTH - 40)) for line in shown]
    return 60 + sum(line or PARAGRAPH for line in lines)


def completed(graph: ApiGraph, schemas: Schemas) -> ApiGraph:
    """The graph with the defaults of all widgets that it does not name, as the editor would submit it."""
    whole = ApiGraph()
    for name, entry in graph.items():
        known = {key: options.get("default") for key, options in _widgets_of(schemas[entry["class_type"]]).items()}
        whole[name] = {**entry, "inputs": known | entry["inputs"]}
    return whole


def _declared(schema: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """{input: (its kind, its options)} of a node, in the order in which the editor shows them."""
    groups = (schema["input"].get(group, {}) for group in ("required", "optional"))
    return {key: (kind, (options or [{}])[0]) for group in groups for key, (kind, *options) in group.items()}


def _is_widget(kind: Any) -> bool:
    """Values that are typed or chosen; everything else is wired."""
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def _widgets_of(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: options for key, (kind, options) in _declared(schema).items() if _is_widget(kind)}


def _sockets_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: kind for key, (kind, _) in _declared(schema).items() if not _is_widget(kind)}


FURTHER_WIDGETS = {"image_upload": "image", "control_after_generate": "fixed"}
"""An input's option -> what the widget holds that the editor adds behind it."""


class Boxes:
    """A graph's nodes and links in the editor's numbers, which are those of the graph."""

    def __init__(self, graph: ApiGraph, schemas: Schemas, layout: Layout) -> None:
        self.graph, self.schemas, self.layout = graph, schemas, layout
        self.numbers: dict[Wire, int] = {wire: number for number, wire in enumerate(wires_of(graph), 1)}

    def schema(self, name: str) -> Mapping[str, Any]:
        return self.schemas[self.graph[name]["class_type"]]

    def nodes(self) -> list[dict[str, Any]]:
        return [self.node(name) for name in self.graph]

    def node(self, name: str) -> dict[str, Any]:
        schema, class_type = self.schema(name), self.graph[name]["class_type"]
        widgets = self.widgets(name)
        models = models_of(widgets)
        return {
            "id": int(name), "type": class_type, "pos": list(self.layout.places[name]),
            "size": [WIDTH, height(schema)], "flags": {}, "order": int(name) - 1, "mode": 0,
            "inputs": self.inputs(name), "outputs": self.outputs(name), "widgets_values": widgets,
            "properties": {
                **origin(schema), "Node name for S&R": class_type, **({"models": models} if models else {})
            },
        }  # fmt: skip

    def widgets(self, name: str) -> list[Any]:
        """What they hold; those that a wire leads into, their defaults."""
        wired = self.wired(name)
        values = {key: value for key, value in self.graph[name]["inputs"].items() if key not in wired}
        return [
            value
            for key, options in _widgets_of(self.schema(name)).items()
            for value in (
                values.get(key, options.get("default")),
                *(added for option, added in FURTHER_WIDGETS.items() if options.get(option)),
            )
        ]

    def wired(self, name: str) -> dict[str, int]:
        """{input: the number of its link}"""
        return {wire[3]: number for wire, number in self.numbers.items() if wire[2] == name}

    def sockets(self, name: str) -> dict[str, Any]:
        """{input: its kind} of all that wires may lead into, widgets last, of which only those that one does."""
        wired, schema = self.wired(name), self.schema(name)
        kinds = {key: kind for key, (kind, _) in _declared(schema).items() if key in wired and _is_widget(kind)}
        return _sockets_of(schema) | kinds

    def inputs(self, name: str) -> list[dict[str, Any]]:
        links, widgets = self.wired(name), _widgets_of(self.schema(name))
        return [
            {
                "name": key, "type": kind, "link": links.get(key),
                **({"widget": {"name": key}} if key in widgets else {}),
            }
            for key, kind in self.sockets(name).items()
        ]  # fmt: skip

    def outputs(self, name: str) -> list[dict[str, Any]]:
        schema = self.schema(name)
        return [
            {
                "name": label, "type": kind,
                "links": [number for wire, number in self.numbers.items() if wire[:2] == (name, slot)],
            }
            for slot, (label, kind) in enumerate(zip(schema["output_name"], schema["output"]))
        ]  # fmt: skip

    def links(self) -> list[list[Any]]:
        """[number, from node, from output, to node, to input, kind] of each."""
        return [
            [number, int(source), slot, int(target), self.socket(target, key), self.schema(source)["output"][slot]]
            for (source, slot, target, key), number in self.numbers.items()
        ]

    def socket(self, name: str, key: str) -> int:
        return list(self.sockets(name)).index(key)

    def reroutes(self) -> dict[str, Any]:
        """The points that wires are led through, as the editor keeps them."""
        points = [
            {
                "id": number, **({} if point.parent is None else {"parentId": point.parent + 1}),
                "pos": list(point.place), "linkIds": [self.numbers[wire] for wire in point.wires],
            }
            for number, point in enumerate(self.layout.reroutes, 1)
        ]  # fmt: skip
        through = [
            {"id": self.numbers[wire], "parentId": point + 1} for wire, point in sorted(self.layout.through.items())
        ]
        return {"reroutes": points, "linkExtensions": through} if points else {}


def height(schema: Mapping[str, Any]) -> int:
    """Of a node as the editor draws it."""
    widgets = _widgets_of(schema).values()
    texts = sum(bool(options.get("multiline")) for options in widgets)
    further = sum(option in options for options in widgets for option in FURTHER_WIDGETS)
    sockets = max(len(_sockets_of(schema)), len(schema["output"]))
    return height_of(sockets, len(widgets) - texts + further, texts, int(schema["output_node"]))


def origin(schema: Mapping[str, Any]) -> dict[str, str]:
    """Which pack a node is of, and which version of it, by their names in the registry of packs."""
    own = schema["python_module"].startswith("custom_nodes.")
    return {"cnr_id": PACK, "ver": VERSION} if own else {"cnr_id": "comfy-core", "ver": COMFYUI_VERSION}


def editor_format(
    graph: ApiGraph, schemas: Schemas, note: str, description: str, asked: Mapping[str, int]
) -> dict[str, Any]:
    """A completed graph as the editor saves it, a note left of it; asked: columns that it asks for."""
    heights = {name: height(schemas[entry["class_type"]]) for name, entry in graph.items()}
    boxes = Boxes(graph, schemas, arrange(graph, heights, asked))
    nodes = [*boxes.nodes(), _note_box(len(graph) + 1, note)]
    extra = {"description": description, **boxes.reroutes()}
    shift([*nodes, *extra.get("reroutes", [])])
    return {
        "last_node_id": len(nodes), "last_link_id": len(boxes.numbers), "nodes": nodes, "links": boxes.links(),
        "groups": [], "config": {}, "extra": {**extra, "ds": {"scale": SCALE, "offset": [0, 0]}}, "version": 0.4,
    }  # fmt: skip


def _note_box(number: int, text: str) -> dict[str, Any]:
    """A text left of the graph."""
    return {
        "id": number, "type": "MarkdownNote", "pos": [-NOTE_WIDTH - GAP, 0], "size": [NOTE_WIDTH, _note_height(text)],
        "flags": {}, "order": number - 1, "mode": 0, "inputs": [], "outputs": [], "widgets_values": [text],
        "properties": {},
    }  # fmt: skip


def shift(boxes: Sequence[dict[str, Any]]) -> None:
    """Bring all that has a place to the upper left of the canvas."""
    first = [min(box["pos"][axis] for box in boxes) for axis in (0, 1)]
    for box in boxes:
        box["pos"] = [place - least + margin for place, least, margin in zip(box["pos"], first, MARGINS)]
