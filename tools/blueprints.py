"""Blueprints: whole graphs that the editor offers as one box, image in, picture out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api_graph import ApiGraph, Node
from comfyui_host import COMFYUI_VERSION
from editor_format import Boxes, Schemas, completed, height
from example_graphs import Example
from layout import GAP, SLOT, WIDGET, WIDTH, arrange
from model_links import POSE

SPACE = uuid.UUID("0f1c1c1e-6b0c-4f0e-9d38-3a6d3a2f6c11")
"""In which titles become the numbers that the editor tells boxes apart by."""
INPUT, OUTPUT = -10, -20
"""What the editor calls the two ends of a box's inside."""
EDGE = 160
"""Width of such an end."""
Picture = tuple[str, str]
"""What enters a box: (node, input)."""


class Inside(Example):
    """The graph inside a box: what enters, what leaves, what stands on the box."""

    def __init__(self) -> None:
        super().__init__()
        self.entering: list[Picture] = []
        """Where the image goes."""
        self.leaving: dict[str, list[Any]] = {}
        """{output of the box: (node, output)}"""
        self.shown: list[tuple[str, str]] = []
        """(node, widget)"""

    def takes_image(self, node: Node, key: str = "image") -> Node:
        self.entering.append((node.name, key))
        return node

    def shows(self, node: Node, *widgets: str) -> Node:
        self.shown += [(node.name, widget) for widget in widgets]
        return node

    def seen(self, task: str) -> Node:
        """The image, perceived by a model that is chosen on the box."""
        model = self.shows(self.model(task), "model")
        node = self.add("DiffusionPerceptionPerceive", perception=model)
        return self.shows(self.takes_image(node), "resolution")


@dataclass(frozen=True)
class Blueprint:
    """A row: one box."""

    title: str
    make: Callable[[Inside], None]
    description: str
    category: str
    """Below the editor's Subgraph Blueprints; older ones have no such."""
    aliases: tuple[str, ...]
    """What else it is searched by, in newer editors."""
    needs: tuple[str, ...] = ()
    """What it runs on besides the pack."""

    def graph(self) -> Inside:
        graph = Inside()
        self.make(graph)
        return graph


def _image_to_depth(g: Inside) -> None:
    picture = g.shows(g.depth(g.seen("depth")), "mode", "colormap")
    g.leaving |= {"image": picture[0]}


def _image_to_normal(g: Inside) -> None:
    picture = g.add("DiffusionPerceptionNormalToImage", map=g.seen("normal"))
    g.leaving |= {"image": g.shows(picture, "axes")[0]}


def _image_cutout(g: Inside) -> None:
    cut = g.add("DiffusionPerceptionMatteCutout", map=g.seen("mask"))
    g.shows(g.takes_image(cut), "mode")
    g.leaving |= {"cutout": cut[0], "mask": cut[1]}


def _image_to_pose(g: Inside) -> None:
    model = g.shows(g.model("keypoints", POSE), "model")
    seen = g.takes_image(g.add("DiffusionPerceptionPerceivePose", perception=model))
    pose = g.shows(g.add("DiffusionPerceptionPoseFromMap", map=seen), "threshold")
    g.leaving |= {"image": pose[1], "pose_keypoint": pose[0]}


def _image_to_segmentation(g: Inside) -> None:
    picture = g.shows(g.add("DiffusionPerceptionSegmentationToImage", map=g.seen("segmentation")), "colours", "classes")
    g.leaving |= {"image": picture[0], "mask": picture[1], "legend": picture[4]}


BLUEPRINTS: tuple[Blueprint, ...] = (
    Blueprint(
        "Depth of Image", _image_to_depth, "A depth map of an image; near is white.", "Depth",
        ("depth map", "depth estimation", "depth preprocessor", "marigold", "lotus", "genpercept"),
    ),
    Blueprint(
        "Normals of Image", _image_to_normal, "Surface normals of an image, as the normalbae ControlNet reads them.",
        "Normal", ("normal map", "surface normals", "bae", "normalbae"),
    ),
    Blueprint(
        "Mask and Cut-out of Image", _image_cutout, "A subject without its background: RGBA and its mask.",
        "Background Removal", ("remove background", "background removal", "matting", "cutout", "alpha"),
    ),
    Blueprint(
        "Pose of Image", _image_to_pose, "The skeleton of a person, for an openpose ControlNet, and POSE_KEYPOINT.",
        "Pose", ("openpose", "keypoints", "skeleton", "sdpose"), (POSE,),
    ),
    Blueprint(
        "Segmentation of Image", _image_to_segmentation,
        "An image in the colours of its classes, and a mask of those that are named.", "Segmentation",
        ("semantic segmentation", "ade20k", "class mask"),
    ),
)  # fmt: skip


def number(*parts: str) -> str:
    """The same for the same words, in every file of every run."""
    return str(uuid.uuid5(SPACE, "/".join(parts)))


def blueprint_format(row: Blueprint, schemas: Schemas) -> dict[str, Any]:
    """A file with one box, and its inside."""
    inside = row.graph()
    graph = completed(inside, schemas)
    box = {
        "id": len(graph) + 1, "type": number(row.title), "pos": [0, 0], "size": _box_size(inside), "flags": {},
        "order": 0, "mode": 0, "title": row.title,
        "inputs": [{"name": "image", "type": "IMAGE", "link": None}],
        "outputs": [
            {"name": name, "type": kind, "links": []}
            for name, kind in _leaving_kinds(inside, schemas).items()
        ],
        "properties": {
            "proxyWidgets": [list(widget) for widget in inside.shown], "cnr_id": "comfy-core", "ver": COMFYUI_VERSION,
        },
        # newer editors take these, older ones what the nodes inside have
        "widgets_values": [graph[node]["inputs"][widget] for node, widget in inside.shown],
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": box["id"], "last_link_id": 0, "nodes": [box], "links": [], "version": 0.4,
        "definitions": {"subgraphs": [_inside_format(row, inside, graph, schemas)]},
        "extra": {"BlueprintDescription": row.description, "BlueprintSearchAliases": list(row.aliases)},
    }  # fmt: skip


def _leaving_kinds(inside: Inside, schemas: Schemas) -> dict[str, str]:
    return {name: schemas[inside[node]["class_type"]]["output"][slot] for name, (node, slot) in inside.leaving.items()}


def _box_size(inside: Inside) -> list[int]:
    return [WIDTH, SLOT * len(inside.leaving) + WIDGET * len(inside.shown) + 14]


def _inside_format(row: Blueprint, inside: Inside, graph: ApiGraph, schemas: Schemas) -> dict[str, Any]:
    """What is in the box, as the editor keeps it."""
    heights = {name: height(schemas[entry["class_type"]]) for name, entry in graph.items()}
    boxes = Boxes(graph, schemas, arrange(graph, heights, inside.columns))
    nodes = {node["id"]: node for node in boxes.nodes()}
    links: list[dict[str, Any]] = [dict(zip(LINK, link)) for link in boxes.links()]
    entering = [_enter(links, nodes[int(name)], int(name), boxes.socket(name, key)) for name, key in inside.entering]
    kinds = _leaving_kinds(inside, schemas)
    outputs = [
        {
            "id": number(row.title, "out", name), "name": name, "type": kinds[name],
            "linkIds": [_leave(links, nodes[int(node)], slot, end, kinds[name])],
        }
        for end, (name, (node, slot)) in enumerate(inside.leaving.items())
    ]  # fmt: skip
    last = max(place[0] for place in boxes.layout.places.values()) + WIDTH + GAP
    return {
        "id": number(row.title), "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes) + 1, "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0, "config": {}, "name": row.title,
        "inputNode": {"id": INPUT, "bounding": [-EDGE - GAP, 0, EDGE, 60]},
        "outputNode": {"id": OUTPUT, "bounding": [last, 0, EDGE, 40 + 20 * len(outputs)]},
        "inputs": [{"id": number(row.title, "in", "image"), "name": "image", "type": "IMAGE", "linkIds": entering}],
        "outputs": outputs, "widgets": [], "nodes": list(nodes.values()), "groups": [], "links": links,
        "extra": boxes.reroutes(), "category": row.category, "description": row.description,
    }  # fmt: skip


LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
"""A link in a box's inside."""


def _enter(links: list[dict[str, Any]], node: dict[str, Any], name: int, slot: int) -> int:
    """A link from the box's image into one of its nodes."""
    links.append(dict(zip(LINK, (len(links) + 1, INPUT, 0, name, slot, "IMAGE"))))
    node["inputs"][slot]["link"] = len(links)
    return len(links)


def _leave(links: list[dict[str, Any]], node: dict[str, Any], slot: int, end: int, kind: str) -> int:
    """A link from one of its nodes to an output of the box."""
    links.append(dict(zip(LINK, (len(links) + 1, node["id"], slot, OUTPUT, end, kind))))
    node["outputs"][slot]["links"].append(len(links))
    return len(links)
