"""Graphs that people saved with older commits run as they were saved, and the editor's files fit today's nodes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ARCHIVES = sorted((Path(__file__).parents[1] / "contracts" / "files").glob("*.tar.xz"))
NAMES = ("cut-out", "depth for ControlNet", "normals")
"""Those that need the starter alone."""
PHOTO = "photograph.png"
"""What they name."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@pytest.fixture(scope="module", params=ARCHIVES, ids=[archive.name.partition(".")[0] for archive in ARCHIVES])
def old(request, comfyui, tmp_path_factory) -> Path:
    """The graphs of one commit; the server has the photograph that they name."""
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).save(comfyui.input / PHOTO)
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(request.param) as tar:
        tar.extractall(folder, filter="data")
    return folder / "workflows"


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_an_old_graph_runs_as_it_was_saved(comfyui, old, name):
    result = comfyui.submit(read(old / "api" / f"{name}.json"))
    assert result.outputs
    assert all(file.stat().st_size > 0 for node in result.outputs for file in result.files(node))


def test_widgets_of_the_editors_old_files_are_todays_in_their_order(comfyui, old):
    known = comfyui.object_info()
    for file in old.glob("*.json"):
        told = read(old / "api" / file.name)
        for node in read(file)["nodes"]:
            if not node["type"].startswith("DiffusionPerception"):
                continue
            # the editor keeps values by their widgets' order alone; widgets that came later stand behind
            values = dict(zip(widgets(known[node["type"]]), node["widgets_values"]))
            assert len(values) == len(node["widgets_values"]), (file.name, node["type"])
            inputs = told[str(node["id"])]["inputs"]
            said = {key: value for key, value in inputs.items() if not isinstance(value, list)}
            assert said.items() <= values.items(), (file.name, node["type"])


def widgets(schema: dict[str, Any]) -> list[str]:
    """A node's inputs that are no sockets."""
    inputs = {key: kind for group in schema["input"].values() for key, (kind, *_) in group.items()}
    return [key for key, kind in inputs.items() if isinstance(kind, list) or kind in WIDGETS]
