"""The example workflows run as they lie in the repository, and the editor's files say the same as the programs'."""

from __future__ import annotations

import json

import numpy as np
import pytest
from demo import write_placeholder
from PIL import Image

import workflows

NAMES = tuple(workflows.WORKFLOWS)


@pytest.fixture(scope="module")
def furnished(comfyui):
    """A server with the model and the photograph that the workflows name."""
    (comfyui.models / "perception").mkdir(exist_ok=True)
    write_placeholder(comfyui.models / "perception" / workflows.MODEL)
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).save(comfyui.input / workflows.PHOTO)
    return comfyui


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs(furnished, name):
    graph = json.loads((workflows.FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    result = furnished.submit(graph)
    assert result.outputs
    assert all(file.stat().st_size > 0 for node in result.outputs for file in result.files(node))


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_workflow_are_what_the_command_writes(furnished, name, tmp_path):
    workflows.write(tmp_path, furnished.object_info())
    for file in (f"{name}.json", f"api/{name}.json"):
        written = json.loads((tmp_path / file).read_text(encoding="utf-8"))
        assert written == json.loads((workflows.FOLDER / file).read_text(encoding="utf-8")), "run tools/workflows.py"


def test_comfyui_offers_the_workflows_as_templates(furnished):
    assert set(NAMES) <= set(furnished.get("/workflow_templates")["diffusion-perception"])
