"""Light halves of the VAE in a real ComfyUI: chosen in LoadModel, they answer as `predict --decoder light` does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from comfyui_server import NodeFailed
from graph import Graph
from networks import write_narrow_sd2
from PIL import Image
from tiny_light import random_light, write_taesd

from diffusion_perception.core.checkpoints.adapter_file import write_adapter
from diffusion_perception.core.checkpoints.adapters import Adapter, LowRank
from diffusion_perception.core.checkpoints.tensors import network, pick_unet
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.cli import main

MODEL = "with light.safetensors"
OWN = "own latents.safetensors"
COST = "abs-rel 0.1 -> 0.101"
DEPTH = Recipe("depth", resolution=96)


@pytest.fixture(scope="module")
def model(comfyui):
    """A checkpoint of two tasks, of which one brings light halves; and TAESD's decoder where the host keeps it."""
    stored = {
        "decoder": {"depth": random_light().state_dict()},
        "encoder": {"image": random_light("encoder").state_dict()},
    }
    recipes = [
        replace(DEPTH, decoder="depth", decoder_cost=COST, encoder="image"),
        replace(DEPTH, task="normal"),
    ]
    approximate = comfyui.models / "vae_approx"
    approximate.mkdir(parents=True, exist_ok=True)
    write_taesd(approximate / "taesd_decoder.pth", "decoder")
    own = [replace(recipe, base="custom") for recipe in recipes]
    tiny.write_own(comfyui.models / "perception" / OWN, own, light=stored)
    return tiny.write_own(comfyui.models / "perception" / MODEL, recipes, light=stored)


@pytest.fixture(scope="module")
def photo(comfyui):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8)
    Image.fromarray(pixels).resize((120, 100), Image.Resampling.BICUBIC).save(comfyui.input / "light.png")
    return comfyui.input / "light.png"


def load(graph, task="depth", overrides="", model=MODEL, **halves):
    """LoadModel; without halves as a graph says it that was saved before there were any."""
    return graph.add(
        "DiffusionPerceptionLoadModel", model=model, family="auto", task=task, overrides=overrides, **halves
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
    assert comfyui.submit(graph).outputs[loaded.name]["text"] == [f"light decoder: {COST}"]


def test_the_adapter_node_says_it_too(comfyui, model, photo):
    unet = network((write_narrow_sd2(comfyui.models / "diffusion_models" / "lit.safetensors"),), pick_unet)
    layer, (out, into) = next((name, shape) for name, shape in unet.shapes.items() if name.endswith(".to_q.weight"))
    path = comfyui.models / "perception" / "lit adapter.safetensors"
    part = LowRank(torch.zeros(1, into), torch.zeros(out, 1))
    recipe = replace(DEPTH, decoder="depth", decoder_cost=COST)
    adapter = Adapter(path, {layer.removesuffix(".weight"): part}, base="sd21", recipes=(recipe,))
    light = {"decoder": {"depth": random_light().state_dict()}}
    write_adapter(path, adapter, contexts={"depth": tiny.context(width=1024)}, light=light)
    graph = Graph()
    sampled = graph.add("UNETLoader", unet_name="lit.safetensors", weight_dtype="default")
    given = {"model": sampled, "vae": load(graph)[1], "adapter": path.name, "task": "as trained", "overrides": ""}
    adapted = graph.add("DiffusionPerceptionApplyAdapter", **given, weights="as loaded", decoder="light")
    graph.save_map(graph.perceive(adapted, graph.load_image(photo.name)), "light")
    assert comfyui.submit(graph).outputs[adapted.name]["text"] == [f"light decoder: {COST}"]


def test_a_network_with_latents_of_its_own_takes_its_own_light_half_and_vae_only(comfyui, model, photo):
    other = tiny.vae(5)
    vae = tiny.vae_architecture(other), other.state_dict()
    tiny.write_own(comfyui.models / "perception" / "another.safetensors", [replace(DEPTH, base="custom")], vae=vae)

    def seen(source, **halves):
        graph = Graph()
        loaded = load(graph, model=OWN, **halves)
        vae = load(graph, model=source)[1]
        return saved(comfyui, graph, graph.perceive(loaded, graph.load_image(photo.name), vae=vae))

    assert np.array_equal(seen(OWN, decoder="light"), seen(MODEL, decoder="light"))  # the same VAE in both files
    for halves, words in (({}, "makes other latents than the one that depth"), ({"decoder": "taesd"}, "take the VAE")):
        with pytest.raises(NodeFailed, match=words) as told:
            seen("another.safetensors", **halves)
        assert "\n" not in str(told.value)


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
