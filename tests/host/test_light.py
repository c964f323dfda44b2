"""Light halves of the VAE in a real ComfyUI: chosen in LoadModel, they answer as `predict --decoder light` does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from comfyui_server import NodeFailed
from graph import Graph
from PIL import Image
from tiny_light import random_light, write_taesd

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main

MODEL = "with light.safetensors"
DEPTH = Recipe("depth", base="custom", resolution=96)


@pytest.fixture(scope="module")
def model(comfyui):
    """A checkpoint of two tasks, of which one brings light halves; and TAESD's decoder where the host keeps it."""
    stored = {
        "decoder": {"depth": random_light().state_dict()},
        "encoder": {"image": random_light("encoder").state_dict()},
    }
    recipes = [
        replace(DEPTH, decoder="depth", decoder_cost="abs-rel 0.1 -> 0.101", encoder="image"),
        replace(DEPTH, task="normal"),
    ]
    approximate = comfyui.models / "vae_approx"
    approximate.mkdir(parents=True, exist_ok=True)
    write_taesd(approximate / "taesd_decoder.pth", "decoder")
    return tiny.write_own(comfyui.models / "perception" / MODEL, recipes, light=stored)


@pytest.fixture(scope="module")
def photo(comfyui):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8)
    Image.fromarray(pixels).resize((120, 100), Image.Resampling.BICUBIC).save(comfyui.input / "light.png")
    return comfyui.input / "light.png"


def load(graph, task="depth", overrides="", **halves):
    """LoadModel; without halves as a graph says it that was saved before there were any."""
    return graph.add(
        "DiffusionPerceptionLoadModel", model=MODEL, family="auto", task=task, overrides=overrides, **halves
    )


def perceived(comfyui, photo, **halves):
    graph = Graph()
    return saved(comfyui, graph, graph.perceive(load(graph, **halves), graph.load_image(photo.name)))


def saved(comfyui, graph, seen):
    """The raw values of a map."""
    node = graph.save_map(seen, "light")
    (file,) = comfyui.submit(graph).files(node.name)
    return np.load(file)


def predicted(model, photo, out, *flags):
    """By the command line."""
    assert main(["predict", "--model", str(model), "--task", "depth", "--out", str(out), *flags, str(photo)]) == 0
    return np.load(out / "light.npy")


@pytest.mark.parametrize(
    "halves", [{}, {"decoder": "light"}, {"encoder": "light"}, {"decoder": "light", "encoder": "light"}]
)
def test_nodes_and_predict_give_the_same_with_light_halves(comfyui, model, photo, tmp_path, halves):
    flags = [word for role, choice in halves.items() for word in (f"--{role}", choice)]
    ours, theirs = perceived(comfyui, photo, **halves), predicted(model, photo, tmp_path, *flags)
    assert np.abs(ours - theirs).max() <= 5e-4
    assert bool(halves) == (np.abs(ours - perceived(comfyui, photo, decoder="full", encoder="full")).max() > 1e-2)


def test_taesd_is_taken_from_where_the_host_keeps_it(comfyui, model, photo, tmp_path):
    file = comfyui.models / "vae_approx" / "taesd_decoder.pth"
    ours = perceived(comfyui, photo, decoder="taesd")
    assert np.abs(ours - predicted(model, photo, tmp_path, "--decoder", str(file))).max() <= 5e-4


def test_a_connected_vae_leaves_the_light_decoder_in_its_place(comfyui, model, photo):
    graph = Graph()
    loaded = load(graph, decoder="light")
    seen = graph.perceive(loaded, graph.load_image(photo.name), vae=loaded[1])
    assert np.array_equal(saved(comfyui, graph, seen), perceived(comfyui, photo, decoder="light"))


def test_the_node_says_what_the_light_decoder_costs(comfyui, model, photo):
    graph = Graph()
    loaded = load(graph, decoder="light", overrides="seed=1")  # not cached
    graph.save_map(graph.perceive(loaded, graph.load_image(photo.name)), "light")
    assert comfyui.submit(graph).outputs[loaded.name]["text"] == ["light decoder: abs-rel 0.1 -> 0.101"]


def test_perceive_tasks_takes_a_light_decoder_for_one_of_them(comfyui, model, photo):
    graph = Graph()
    image, loaded = graph.load_image(photo.name), [load(graph, decoder="light"), load(graph, "normal")]
    inputs = {"image": image, "resolution": -1, "batch_size": 1}
    seen = graph.add("DiffusionPerceptionPerceiveTasks", perception=loaded[0], perception_2=loaded[1], **inputs)
    assert np.abs(saved(comfyui, graph, seen) - perceived(comfyui, photo, decoder="light")).max() <= 1e-3


def test_the_choices_stand_last_among_the_inputs(comfyui):
    """Saved workflows hold widgets by their order."""
    for node in ("LoadModel", "ApplyAdapter"):
        inputs = comfyui.object_info(f"DiffusionPerception{node}")[f"DiffusionPerception{node}"]["input"]
        assert list(inputs["optional"])[-2:] == ["decoder", "encoder"]
        assert inputs["optional"]["decoder"][1]["options"] == ["full", "light", "taesd"]


@pytest.mark.parametrize(
    ("task", "halves", "words"),
    [
        ("normal", {"decoder": "light"}, "brings no light decoder for normal: take full"),
        ("depth", {"encoder": "taesd"}, "There is no taesd_encoder in models/vae_approx"),
        ("depth", {"decoder": "/etc/passwd"}, "is not one of full, light, taesd"),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(comfyui, model, photo, task, halves, words):
    graph = Graph()
    graph.save_map(graph.perceive(load(graph, task, **halves), graph.load_image(photo.name)), "light")
    with pytest.raises(NodeFailed, match=words) as told:
        comfyui.submit(graph)
    assert "\n" not in str(told.value)
