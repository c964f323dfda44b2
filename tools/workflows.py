"""The example workflows: described once here, written in ComfyUI's API format and in the format that its editor opens.

`tools/workflows.py` writes workflows/*.json; the host's own schemas say what is a widget and what a socket.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfyui_host
from comfyui_server import Server

FOLDER = Path(__file__).absolute().parents[1] / "workflows"
MODEL = "starter.safetensors"
PHOTO = "photograph.png"
COLUMN, ROW = 380, 420

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def perceiving(task: str) -> Graph:
    """What every example begins with: a model, a photograph, and what the one sees in the other."""
    return {
        "1": node("DiffusionPerceptionLoadModel", model=MODEL, family="auto", task=task, overrides=""),
        "2": node("LoadImage", image=PHOTO),
        "3": node("DiffusionPerceptionPerceive", perception=["1", 0], image=["2", 0], resolution=-1, batch_size=1),
    }


def depth() -> Graph:
    """A photograph -> its depth, near white, as a depth ControlNet wants it."""
    return perceiving("depth") | {
        "4": node(
            "DiffusionPerceptionDepthToImage", map=["3", 0], convention="near is white", mode="controlnet",
            scope="per image", low_percentile=2.0, high_percentile=98.0, invert=False, colormap="none",
        ),
        "5": node("SaveImage", images=["4", 0], filename_prefix="perception/depth"),
        "6": node(
            "DiffusionPerceptionSaveMap", map=["3", 0], filename_prefix="perception/depth", format="exr32",
            convention="values 0..1",
        ),
    }  # fmt: skip


def normal() -> Graph:
    """A photograph -> its normals in the colours of the normalbae ControlNet: red is left."""
    return perceiving("normal") | {
        "4": node(
            "DiffusionPerceptionNormalToImage", map=["3", 0], convention="controlnet_bae", axes="controlnet_bae",
            renormalise=True,
        ),
        "5": node("SaveImage", images=["4", 0], filename_prefix="perception/normal"),
    }  # fmt: skip


def cutout() -> Graph:
    """A photograph -> its subject without the background, with clean colours at the edge."""
    return perceiving("mask") | {
        "4": node(
            "DiffusionPerceptionMatteCutout", image=["2", 0], map=["3", 0], mode="soft", estimate_foreground=True
        ),
        "5": node("SaveImage", images=["4", 0], filename_prefix="perception/cutout"),
    }  # fmt: skip


WORKFLOWS = {"depth for ControlNet": depth, "normals": normal, "cut-out": cutout}


def editor_format(graph: Graph, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """A graph in API format as the editor saves it: nodes with places, links with numbers, widgets in order."""
    links: list[list[Any]] = []
    nodes = [editor_node(name, graph, schemas, links) for name in graph]
    for entry in nodes:
        for slot, output in enumerate(entry["outputs"]):
            output["links"] = [link[0] for link in links if link[1] == entry["id"] and link[2] == slot]
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def editor_node(name: str, graph: Graph, schemas: Mapping[str, Any], links: list[list[Any]]) -> dict[str, Any]:
    """One node; what it is wired to is added to `links`."""
    class_type, values = graph[name]["class_type"], graph[name]["inputs"]
    schema = schemas[class_type]
    sockets, widgets = [], []
    for key, (kind, *options) in declared(schema):
        if is_widget(kind):
            widgets.append(values.get(key, (options or [{}])[0].get("default")))
            widgets += ["image"] if (options or [{}])[0].get("image_upload") else []
            continue
        link = None
        if key in values:
            source, slot = values[key]
            output = schemas[graph[source]["class_type"]]["output"][slot]
            link = len(links) + 1
            links.append([link, int(source), slot, int(name), len(sockets), output])
        sockets.append({"name": key, "type": kind, "link": link})
    outputs = [
        {"name": label, "type": kind, "links": []} for label, kind in zip(schema["output_name"], schema["output"])
    ]
    return {
        "id": int(name), "type": class_type, "pos": place(int(name)), "size": [320, 220], "flags": {},
        "order": int(name) - 1, "mode": 0, "inputs": sockets, "outputs": outputs, "widgets_values": widgets,
        "properties": {"Node name for S&R": class_type},
    }  # fmt: skip


def declared(schema: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """The inputs of a node in the order in which the editor shows them."""
    return [item for group in ("required", "optional") for item in schema["input"].get(group, {}).items()]


def is_widget(kind: Any) -> bool:
    """Values that are typed or chosen; everything else is wired."""
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def place(number: int) -> list[int]:
    """Left to right, two to a column."""
    return [40 + (number - 1) // 2 * COLUMN, 60 + (number - 1) % 2 * ROW]


def write(folder: Path, schemas: Mapping[str, Any]) -> None:
    """<name>.json for the editor, and api/<name>.json for programs."""
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for name, make in WORKFLOWS.items():
        graph = make()
        dump(folder / f"{name}.json", editor_format(graph, schemas))
        dump(folder / "api" / f"{name}.json", graph)


def dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Write the workflows as the nodes are now."""
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        write(FOLDER, server.object_info())
    return 0


if __name__ == "__main__":
    sys.exit(main())
