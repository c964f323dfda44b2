"""Blueprints taken apart by the editor's rules: what it would submit of a box between a picture and previews."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "subgraphs"
INPUT, OUTPUT = -10, -20
"""What links in a box call its ends."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def read(title: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{title}.json").read_text("utf-8"))


def expanded(title: str, image: list[Any], schemas: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(the box's nodes in API format, {output of the box: [node, output]}), the image put into it."""
    (box,), (inside,) = (read(title)["nodes"], read(title)["definitions"]["subgraphs"])
    assert box["type"] == inside["id"]
    links = {link["id"]: link for link in inside["links"]}
    graph = {}
    for node in inside["nodes"]:
        names = widget_names(schemas[node["type"]])
        assert len(names) == len(node["widgets_values"])
        inputs = dict(zip(names, node["widgets_values"]))
        for slot in node["inputs"]:
            if slot["link"] is not None:
                link = links[slot["link"]]
                assert link["target_id"] == node["id"]
                from_box = link["origin_id"] == INPUT
                inputs[slot["name"]] = image if from_box else [str(link["origin_id"]), link["origin_slot"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    leaving = {}
    for slot, output in enumerate(inside["outputs"]):
        (link,) = (links[number] for number in output["linkIds"])
        assert (link["target_id"], link["target_slot"]) == (OUTPUT, slot)
        leaving[output["name"]] = [str(link["origin_id"]), link["origin_slot"]]
    return graph, leaving


def widget_names(schema: dict[str, Any]) -> list[str]:
    groups = (schema["input"].get(group, {}) for group in ("required", "optional"))
    inputs = {key: kind for group in groups for key, (kind, *_) in group.items()}
    return [key for key, kind in inputs.items() if isinstance(kind, list) or kind in WIDGETS]


PREVIEWS = {"IMAGE": ("PreviewImage",), "MASK": ("MaskToImage", "PreviewImage")}
"""What shows an output; the first input of each of these nodes is what the one before gives."""


def graph(title: str, schemas: dict[str, Any], picture: str = "person in a room") -> dict[str, Any]:
    """The box between the example picture and previews of its outputs."""
    source = {"class_type": "DiffusionPerceptionExamplePicture", "inputs": {"picture": picture}}
    inside, leaving = expanded(title, ["1000", 0], schemas)
    whole = {"1000": source, **inside}
    for output in read(title)["nodes"][0]["outputs"]:
        given = leaving[output["name"]]
        for class_type in PREVIEWS.get(output["type"], ()):
            name, socket = str(1000 + len(whole)), next(iter(schemas[class_type]["input"]["required"]))
            whole[name] = {"class_type": class_type, "inputs": {socket: given}}
            given = [name, 0]
    return whole
