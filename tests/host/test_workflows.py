"""The example workflows run as they lie in the repository and draw what they drew; their files say the same."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any

import blueprint_graphs
import blueprints
import example_runs
import model_links
import numpy as np
import pytest
from comfyui_host import COMFYUI_VERSION
from comfyui_server import Server
from example_runs import workflow
from PIL import Image

import workflows

TITLES = list(workflows.BY_TITLE)
BOXES = [row.title for row in blueprints.BLUEPRINTS]
GENERATION = "Depth of a Generation for ControlNet"


@pytest.fixture(scope="module")
def furnished(comfyui):
    """A server with the models that the workflows name."""
    example_runs.furnish(comfyui)
    return comfyui


def check_drawn(server: Server, title: str, graph: dict[str, Any]) -> None:
    """What a graph draws is what it drew, but for what processors differ in."""
    drawn = example_runs.strip(example_runs.run(server, graph)).astype(int)
    with Image.open(example_runs.reference(title)) as opened:
        kept = np.asarray(opened).astype(int)
    assert drawn.shape == kept.shape
    assert kept.std() > 8
    differences = np.abs(drawn - kept)
    assert differences.mean() <= 1
    assert np.quantile(differences, 0.99) <= 8


@pytest.mark.parametrize("title", TITLES)
def test_a_workflow_draws_what_it_drew(furnished, title):
    check_drawn(furnished, title, workflow(title))


@pytest.mark.parametrize("title", BOXES)
def test_a_blueprint_taken_apart_draws_what_it_drew(furnished, title):
    check_drawn(furnished, title, example_runs.blueprint(title, furnished.object_info()))


def pictures(server: Server, graph: dict[str, Any]) -> dict[str, np.ndarray]:
    """{last part of a SaveImage's prefix: the picture that it saved}"""
    result = server.submit(graph)
    saves = {name: entry["inputs"] for name, entry in graph.items() if entry["class_type"] == "SaveImage"}
    return {
        inputs["filename_prefix"].rpartition("/")[2]: np.asarray(Image.open(result.files(name)[0]))
        for name, inputs in saves.items()
        if name in result.outputs
    }


def only(graph: dict[str, Any], class_type: str, **inputs: Any) -> dict[str, Any]:
    """The inputs of the first node of a kind, or of the first that has these."""
    return next(
        node["inputs"]
        for node in graph.values()
        if node["class_type"] == class_type and inputs.items() <= node["inputs"].items()
    )


def test_the_depth_of_a_generation_guides_the_next_one_and_the_unet_is_loaded_once(furnished):
    furnished.free()
    loads = furnished.log.count("Requested to load BaseModel")
    graph = workflow(GENERATION)
    seen = pictures(furnished, graph)
    assert {name: picture.shape for name, picture in seen.items()} == dict.fromkeys(seen, (48, 64, 3))
    assert all(picture.std() > 1 for picture in seen.values())
    assert np.ptp(seen["depth"], axis=-1).max() == 0
    assert furnished.log.count("Requested to load BaseModel") == loads + 1
    only(graph, "ControlNetApplyAdvanced")["strength"] = 0.0
    unguided = pictures(furnished, graph)
    assert np.abs(unguided["second"].astype(int) - seen["second"]).max() > 8
    # to have perceived in between changed nothing: the same seed gives the same picture once more
    only(graph, "KSampler")["seed"] += 1
    pictures(furnished, graph)
    again = pictures(furnished, workflow(GENERATION))
    assert all(np.array_equal(again[name], picture) for name, picture in seen.items())
    assert furnished.log.count("Requested to load BaseModel") == loads + 1


@pytest.fixture(scope="module")
def written(comfyui, tmp_path_factory) -> Path:
    """A folder with what the command writes."""
    root = tmp_path_factory.mktemp("written")
    workflows.write(root, comfyui.object_info())
    return root


FILES = [f"workflows/{folder}{title}.json" for title in TITLES for folder in ("", "api/")]


@pytest.mark.parametrize("file", [*FILES, *(f"subgraphs/{title}.json" for title in BOXES)])
def test_the_files_of_a_workflow_are_what_the_command_writes(comfyui, written, file):
    # other hosts' own nodes have other sockets, and so the boxes other places
    pinned = comfyui.get("/system_stats")["system"]["comfyui_version"] == COMFYUI_VERSION
    made, kept = (read(root / file) if pinned else own_nodes(read(root / file)) for root in (written, workflows.ROOT))
    assert made == kept, "run tools/workflows.py"


def test_no_file_is_left_of_a_workflow_that_is_gone():
    kept = {str(file.relative_to(workflows.ROOT)) for file in workflows.FOLDER.glob("**/*.json")}
    assert kept == set(FILES)
    assert {file.stem for file in (workflows.ROOT / "subgraphs").iterdir()} == set(BOXES)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def own_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The pack's nodes of a file of any kind, without their places."""
    inside = [node for part in workflow.get("definitions", {}).get("subgraphs", []) for node in part["nodes"]]
    nodes = inside or (workflow["nodes"] if "nodes" in workflow else workflow.values())
    own = [node for node in nodes if (node.get("type") or node["class_type"]).startswith("DiffusionPerception")]
    return [{key: value for key, value in node.items() if key != "pos"} for node in own]


@pytest.mark.parametrize("title", TITLES)
def test_the_editors_file_says_what_the_programs_file_says(comfyui, title):
    """The editor keeps widgets by their order alone, and wires by numbers."""
    schemas, told = comfyui.object_info(), read(workflows.FOLDER / "api" / f"{title}.json")
    pinned = comfyui.get("/system_stats")["system"]["comfyui_version"] == COMFYUI_VERSION
    shown = read(workflows.FOLDER / f"{title}.json")
    wires = {number: [str(source), slot] for number, source, slot, *_ in shown["links"]}
    for node in shown["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        if not pinned and not node["type"].startswith("DiffusionPerception"):
            # other hosts' own nodes have other widgets
            told.pop(str(node["id"]))
            continue
        values = [value for value in node["widgets_values"] if value != "fixed"]  # what follows a seed
        said = dict(zip(blueprint_graphs.widget_names(schemas[node["type"]]), values))
        said |= {slot["name"]: wires[slot["link"]] for slot in node["inputs"] if slot["link"]}
        assert told.pop(str(node["id"])) == {"inputs": said, "class_type": node["type"]}
    assert told == {}


def test_what_the_editor_offers_to_get_goes_into_folders_that_the_host_has(furnished):
    """The editor's own rule: one of the host's folders, and none inside it; a file that a widget of the node names."""
    folders = {folder["name"] for folder in furnished.get("/experiment/models")}
    assert {folder for folder, _ in model_links.LINKS.values()} <= folders
    linked = []
    for title in TITLES:
        for node in read(workflows.FOLDER / f"{title}.json")["nodes"]:
            models = node["properties"].get("models", [])
            files = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
            assert [model["name"] for model in models] == [file for file in files if file != model_links.STARTER]
            linked += models
    assert linked
    for model in linked:
        assert model["directory"] in folders
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith(f"/{model['name']}")
        assert "/resolve/main/" in model["url"]


def test_comfyui_offers_the_workflows_as_templates(furnished):
    assert set(furnished.get("/workflow_templates")["diffusion-perception"]) == set(TITLES)


def test_comfyui_offers_the_blueprints(furnished):
    try:
        offered = furnished.get("/global_subgraphs")
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI is older than packs' blueprints, which came with 0.3.67")
    own = {key: entry for key, entry in offered.items() if entry["info"]["node_pack"].endswith("diffusion-perception")}
    assert {entry["name"] for entry in own.values()} == set(BOXES)
    for key, entry in own.items():
        data = furnished.get(f"/global_subgraphs/{key}")["data"]
        assert json.loads(data) == blueprint_graphs.read(entry["name"])
