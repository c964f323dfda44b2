"""Render Segmentation says whose colours it gives, goes over into ADE20K's, and explains them in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_server import NodeFailed
from graph import Graph, Node
from PIL import Image

FLOOR, TEXTILE = 0x800000, 0xFF0080
"""In the colours of rooms."""
ADE20K_FLOOR = (0x50, 0x32, 0x32)
FOUND = "floor 75.0%, textile 25.0%"


def room(graph: Graph) -> Node:
    """Three pictures of floor and one of textile."""
    floor, textile = (
        graph.add("EmptyImage", width=16, height=8, batch_size=count, color=color)
        for count, color in ((3, FLOOR), (1, TEXTILE))
    )
    return graph.add("ImageBatch", image1=floor, image2=textile)


def rendered(graph: Graph, **widgets) -> Node:
    given = {"convention": "colours of rooms", "classes": "", **widgets}
    return graph.add("DiffusionPerceptionSegmentationToImage", map=room(graph), **given)


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_a_graph_of_the_first_version_gives_what_it_gave_and_the_node_says_whose_colours_these_are(comfyui):
    graph = Graph()
    shown = rendered(graph)
    kept = graph.add("SaveImage", images=shown, filename_prefix="segmentation/own").name
    words = graph.add("PreviewAny", source=shown[3]).name
    result = comfyui.submit(graph)
    assert [tuple(pixels(file)[0, 0]) for file in result.files(kept)] == [(128, 0, 0)] * 3 + [(255, 0, 128)]
    assert result.outputs[words]["text"] == [FOUND]
    lines = comfyui.said[shown.name].splitlines()
    assert lines[0] == FOUND
    assert lines[1].startswith("Colours of the palette rooms: no ControlNet reads these")
    assert result.outputs[shown.name]["text"] == ["\n".join(lines)]


def test_it_goes_over_into_ade20ks_colours_by_name_and_says_what_has_none(comfyui):
    graph = Graph()
    shown = rendered(graph, colours="ade20k, by name", classes="floor")
    kept = graph.add("SaveImage", images=shown, filename_prefix="segmentation/ade20k").name
    masks = graph.add("MaskToImage", mask=shown[1])
    picked = graph.add("SaveImage", images=masks, filename_prefix="segmentation/floor").name
    result = comfyui.submit(graph)
    assert [tuple(pixels(file)[0, 0]) for file in result.files(kept)] == [ADE20K_FLOOR] * 3 + [(0, 0, 0)]
    assert [pixels(file)[0, 0, 0] for file in result.files(picked)] == [255, 255, 255, 0]
    assert comfyui.said[shown.name].splitlines() == [
        FOUND,
        "Colours of the palette ade20k: segmentation ControlNets read these. Black, for it has no such class: textile.",
    ]


@pytest.mark.parametrize(
    ("colours", "swatches"),
    [("the map's palette", [(128, 0, 0), (255, 0, 128)]), ("ade20k, by name", [ADE20K_FLOOR, (0, 0, 0)])],
)
def test_the_legend_shows_the_colours_that_the_picture_has(comfyui, colours, swatches):
    graph = Graph()
    kept = graph.add(
        "SaveImage", images=rendered(graph, colours=colours)[4], filename_prefix="segmentation/legend"
    ).name
    (file,) = comfyui.submit(graph).files(kept)
    legend = pixels(file)
    assert [tuple(legend[22 + 28 * number, 18]) for number in range(2)] == swatches
    assert legend.shape[0] == 2 * 28 + 16
    assert legend[:, 40:].max() > 200  # words


def test_colours_that_there_are_not_are_refused(comfyui):
    graph = Graph()
    graph.add("PreviewImage", images=rendered(graph, colours="of the sky"))
    with pytest.raises(NodeFailed, match="There is no choice of colours 'of the sky': choose one of the map's"):
        comfyui.submit(graph)


@pytest.mark.parametrize("asked", ["blorb", ""])
def test_a_class_that_there_is_not_and_none_are_answered_with_those_that_there_are(comfyui, asked):
    graph = Graph()
    widgets = {"mode": "soft", "threshold": 0.5, "range_from": 0.0, "range_to": 0.5, "invert": False}
    picked = graph.add(
        "DiffusionPerceptionMaskFromMap", map=room(graph), convention="colours of rooms", classes=asked, **widgets
    )
    graph.add("PreviewImage", images=graph.add("MaskToImage", mask=picked))
    with pytest.raises(NodeFailed, match="unlabelled, wall, floor, ceiling, window, door, person, animal, chair"):
        comfyui.submit(graph)


def test_what_serves_one_kind_of_map_says_which(comfyui):
    schema = comfyui.object_info("DiffusionPerceptionMaskFromMap")["DiffusionPerceptionMaskFromMap"]["input"]
    told = {name: row[1]["tooltip"] for name, row in schema["required"].items()}
    for name in ("mode", "threshold"):
        assert told[name].startswith("For masks and mattes only")
    assert told["classes"].startswith("For segmentations only")
    for name in ("range_from", "range_to"):
        assert told[name].startswith("For depth and disparity only")
