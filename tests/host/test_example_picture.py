"""The pictures that come with the pack come out as they lie there, whatever else the user has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_server import NodeFailed
from graph import Graph
from PIL import Image

PICTURES = Path(__file__).parents[2] / "workflows" / "pictures"
NAMES = {"living room": "living-room", "bedroom": "bedroom", "person in a room": "person-in-a-room"}


def example(graph: Graph, picture: str):
    return graph.add("DiffusionPerceptionExamplePicture", picture=picture)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_picture_is_its_file(comfyui, name):
    graph = Graph()
    saved = graph.save_map(example(graph, name), f"example/{NAMES[name]}").name
    (file,) = comfyui.submit(graph).files(saved)
    with Image.open(PICTURES / f"{NAMES[name]}.jpg") as picture:
        expected = np.asarray(picture.convert("RGB"), np.float32) / 255
    values = np.load(file)
    assert values.dtype == np.float32
    assert values.shape == (576, 768, 3)
    assert np.array_equal(values, expected)


def test_the_first_picture_is_what_a_new_node_shows(comfyui):
    kind, *rest = comfyui.object_info()["DiffusionPerceptionExamplePicture"]["input"]["required"]["picture"]
    assert rest[0]["default"] == "living room"
    assert (kind if isinstance(kind, list) else rest[0]["options"]) == [*NAMES]


def test_a_picture_that_there_is_not_is_refused_with_those_that_there_are(comfyui):
    graph = Graph()
    graph.add("PreviewImage", images=example(graph, "garden"))
    with pytest.raises(NodeFailed, match="There is no picture 'garden': choose one of living room, bedroom"):
        comfyui.submit(graph)


def test_the_pictures_are_small_enough_to_come_with_a_pack():
    sizes = [file.stat().st_size for file in PICTURES.glob("*.jpg")]
    assert max(sizes) < 2**20
    assert sum(sizes) < 5 * 2**20
