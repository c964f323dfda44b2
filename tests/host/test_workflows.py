"""The example workflows run as they lie in the repository, and the editor's files say the same as the programs'."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from comfyui_server import Server
from networks import (
    narrow_sd1,
    random_vae,
    save_half,
    write_narrow_controlnet,
    write_narrow_lotus,
    write_narrow_sd1,
)
from PIL import Image
from tiny_adapters import KINDS, random_adapter, saved, spelled

import workflows

NAMES = tuple(workflows.WORKFLOWS)
GENERATION = "depth of a generation for ControlNet"
SMALLER: dict[str, dict[str, Any]] = {
    GENERATION: {"EmptyLatentImage": {"width": 64, "height": 48}, "KSampler": {"steps": 2}},
    "depth by Lotus": {"DiffusionPerceptionPerceive": {"resolution": 96}},
}
"""Workflow -> node -> what a test changes of it, so that a processor is done with it in seconds."""


@pytest.fixture(scope="module")
def furnished(comfyui):
    """A server with the models and the photograph that the workflows name."""
    perception = comfyui.models / "perception"
    perception.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).save(comfyui.input / workflows.PHOTO)
    write_narrow_sd1(comfyui.models / "checkpoints" / workflows.CHECKPOINT)
    write_narrow_controlnet(comfyui.models / "controlnet" / workflows.CONTROLNET)
    write_narrow_lotus(perception / workflows.LOTUS)
    save_half(comfyui.models / "vae" / workflows.VAE, random_vae())
    adapter = spelled(random_adapter(narrow_sd1(), KINDS["attention"], rank=4), "diffusers processors")
    saved(perception / workflows.ADAPTER / "pytorch_lora_weights.safetensors", adapter)
    return comfyui


def workflow(name: str) -> workflows.Graph:
    graph = json.loads((workflows.FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for entry in graph.values():
        entry["inputs"] |= SMALLER.get(name, {}).get(entry["class_type"], {})
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs(furnished, name):
    result = furnished.submit(workflow(name))
    assert result.outputs
    assert all(file.stat().st_size > 0 for node in result.outputs for file in result.files(node))


def pictures(server: Server, graph: workflows.Graph) -> dict[str, np.ndarray]:
    """{last part of a SaveImage's prefix: the picture that it saved}"""
    result = server.submit(graph)
    saves = {name: entry["inputs"] for name, entry in graph.items() if entry["class_type"] == "SaveImage"}
    return {
        inputs["filename_prefix"].rpartition("/")[2]: np.asarray(Image.open(result.files(name)[0]))
        for name, inputs in saves.items()
        if name in result.outputs
    }


def test_the_depth_of_a_generation_guides_the_next_one_and_the_unet_is_loaded_once(furnished):
    furnished.free()
    loads = furnished.log.count("Requested to load BaseModel")
    graph = workflow(GENERATION)
    seen = pictures(furnished, graph)
    assert {name: picture.shape for name, picture in seen.items()} == dict.fromkeys(seen, (48, 64, 3))
    assert all(picture.std() > 1 for picture in seen.values())
    assert np.ptp(seen["depth"], axis=-1).max() == 0
    assert furnished.log.count("Requested to load BaseModel") == loads + 1
    graph["10"]["inputs"]["strength"] = 0.0
    unguided = pictures(furnished, graph)
    assert np.abs(unguided["second"].astype(int) - seen["second"]).max() > 8
    # to have perceived in between changed nothing: the same seed gives the same picture once more
    graph["5"]["inputs"]["seed"] += 1
    pictures(furnished, graph)
    again = pictures(furnished, workflow(GENERATION))
    assert all(np.array_equal(again[name], picture) for name, picture in seen.items())
    assert furnished.log.count("Requested to load BaseModel") == loads + 1


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_workflow_are_what_the_command_writes(furnished, name, tmp_path):
    known = furnished.object_info()
    workflows.write(tmp_path, known)
    # hosts whose SaveImage hands its pictures on draw the host's own nodes with sockets that the files do not have
    compared = own_nodes if known["SaveImage"]["output"] else whole
    for file in (f"{name}.json", f"api/{name}.json"):
        written, kept = (json.loads((folder / file).read_text("utf-8")) for folder in (tmp_path, workflows.FOLDER))
        assert compared(written) == compared(kept), "run tools/workflows.py"


def whole(workflow: dict[str, Any]) -> dict[str, Any]:
    return workflow


def own_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The pack's nodes of a workflow, in the editor's format or the programs'."""
    nodes = workflow["nodes"] if "nodes" in workflow else workflow.values()
    return [node for node in nodes if (node.get("type") or node["class_type"]).startswith("DiffusionPerception")]


def test_what_the_editor_offers_to_get_goes_into_folders_that_the_host_has(furnished):
    """The editor's own rule: one of the host's folders, and none inside it; a file that a widget of the node names."""
    folders = {folder["name"] for folder in furnished.get("/experiment/models")}
    assert {folder for folder, _ in workflows.LINKS.values()} <= folders
    linked = []
    for name in NAMES:
        whole = json.loads((workflows.FOLDER / f"{name}.json").read_text("utf-8"))
        for node in whole["nodes"]:
            models = node["properties"].get("models", [])
            files = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
            assert [model["name"] for model in models] == [file for file in files if file != workflows.MODEL]
            linked += models
    assert linked
    for model in linked:
        assert model["directory"] in folders
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith(f"/resolve/main/{model['name']}")


def test_comfyui_offers_the_workflows_as_templates(furnished):
    assert set(NAMES) <= set(furnished.get("/workflow_templates")["diffusion-perception"])
