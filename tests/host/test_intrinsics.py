"""Perceive Intrinsics gives every target of a network at once, each as Perceive gives it alone."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from comfyui_server import NodeFailed
from graph import Graph
from PIL import Image

from diffusion_perception.trainer.cli import main

MATERIAL = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "srgb"},
    "material": {"prediction_space": "stack", "sub_target_names": ["roughness", "metallicity", None]},
}
OUTPUTS = ("albedo", "shading", "residual", "roughness", "metallic")


@pytest.fixture(scope="module")
def folder(comfyui):
    """Marigold's layout around a network that predicts two latents."""
    place = tiny.write_intrinsics(comfyui.models / "perception" / "iid-tiny", MATERIAL, latents=2)
    pixels = np.random.default_rng(6).integers(0, 255, (75, 90, 3), np.uint8)
    Image.fromarray(pixels).save(comfyui.input / "iid.png")
    return place


def perceived(comfyui, task: str, outputs: tuple[str, ...], alone: bool = False) -> dict[str, np.ndarray]:
    """{output: raw values}, of all at once or of one task alone."""
    graph = Graph()
    perception, image = graph.load_model("iid-tiny", task, "steps=2 seed=3"), graph.load_image("iid.png")
    inputs = {"perception": perception, "image": image, "resolution": 64, "batch_size": 1}
    node = graph.add("DiffusionPerceptionPerceive" + ("" if alone else "Intrinsics"), **inputs)
    saved = {
        name: graph.save_map(node[0 if alone else OUTPUTS.index(name)], f"intrinsics/{task}/{name}") for name in outputs
    }
    result = comfyui.submit(graph)
    return {name: np.load(result.files(node.name)[0]) for name, node in saved.items()}


@pytest.mark.parametrize("task", ["as trained", "metallic"])
def test_each_target_is_what_perceive_gives_alone(comfyui, folder, task):
    held = ("albedo", "roughness", "metallic")
    together = perceived(comfyui, task, held)
    for name in held:
        (alone,) = perceived(comfyui, name, (name,), alone=True).values()
        np.testing.assert_array_equal(together[name], alone)
        assert alone.std() > 1e-3


def levels(file) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def test_each_target_has_the_picture_that_perceive_gives_and_the_node_shows_them(comfyui, folder):
    graph = Graph()
    image, overrides = graph.load_image("iid.png"), "steps=2 seed=3"
    node = graph.add(
        "DiffusionPerceptionPerceiveIntrinsics",
        perception=graph.load_model("iid-tiny", "albedo", overrides), image=image, resolution=64, batch_size=1,
    )  # fmt: skip
    held = ("albedo", "roughness", "metallic")
    together = [graph.add("PreviewImage", images=node[len(OUTPUTS) + OUTPUTS.index(name)]).name for name in held]
    alone = [graph.perceive(graph.load_model("iid-tiny", name, overrides), image, 64).name for name in held]
    nothing = graph.add("PreviewImage", images=node[len(OUTPUTS) + OUTPUTS.index("shading")])
    result = comfyui.submit(graph)
    shown = [levels(file) for file in result.files(node.name)]
    for ours, theirs, on_node in zip(together, alone, shown, strict=True):
        (one,), (other,) = result.files(ours), result.files(theirs)
        assert np.array_equal(levels(one), levels(other))
        assert np.array_equal(levels(one), on_node)
    assert nothing.name not in result.outputs
    blocked = [data for kind, data in result.events if kind == "execution_error"]
    assert [data["exception_message"].rpartition("Blocked: ")[2] for data in blocked] == [
        "This checkpoint predicts no shading: take another output."
    ]


def test_the_command_line_gives_the_same(comfyui, folder, tmp_path):
    words = ["predict", "--model", folder, "--task", "roughness", "--resolution", "64", "--set", "steps=2", "--set"]
    assert main([str(word) for word in (*words, "seed=3", "--out", tmp_path, comfyui.input / "iid.png")]) == 0
    inside = perceived(comfyui, "as trained", ("roughness",))["roughness"]
    assert np.abs(inside.squeeze() - np.load(tmp_path / "iid.npy")).max() <= 3e-3


def test_a_model_of_other_tasks_is_sent_to_perceive(comfyui, folder):
    graph = Graph()
    perception = graph.load_model("starter.safetensors", "depth")
    inputs = {"perception": perception, "image": graph.load_image("iid.png"), "resolution": 64, "batch_size": 1}
    graph.save_map(graph.add("DiffusionPerceptionPerceiveIntrinsics", **inputs), "intrinsics/none")
    with pytest.raises(NodeFailed, match="This checkpoint predicts depth: take Perceive for it"):
        comfyui.submit(graph)
