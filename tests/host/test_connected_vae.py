"""A connected VAE: another is refused, a fine-tuned one is said on the node, the same one runs silently."""

from __future__ import annotations

import re
from contextlib import nullcontext

import numpy as np
import pytest
import tiny
import torch
from comfyui_server import NodeFailed
from graph import Graph, Node
from networks import write_own_file
from tiny_vaes import disturbed, stored

from diffusion_perception.core.recipe import Recipe

TUNED = 0.02
"""Noise of that share of its weights makes one VAE of another."""
OWN = tiny.vae().state_dict()
VAES = {
    "another": tiny.vae(5).state_dict(),
    "tuned": disturbed(OWN, TUNED),
    "half": stored(OWN, torch.float16),
}
BASES = ("sd21", "custom")


@pytest.fixture(scope="module")
def furnished(comfyui):
    """A server with a checkpoint of each base, others that hold the VAEs to connect, and a picture."""
    for base in BASES:
        write(comfyui, base, base)
    for name, tensors in VAES.items():
        write(comfyui, name, "custom", vae=(tiny.vae_architecture(tiny.vae()), tensors))
    tiny.save_picture(comfyui.input / "connected.png", 48, 64)
    return comfyui


def write(comfyui, name: str, base: str, **parts) -> None:
    recipe = Recipe("depth", base=base, resolution=64)
    tiny.write_own(comfyui.models / "perception" / f"{name} vae.safetensors", [recipe], **parts)


def connected(model: str, vae: str) -> tuple[Graph, Node, Node]:
    """A checkpoint with the VAE of another file: the graph, its Perceive and its SaveMap."""
    graph = Graph()
    vae_of_another = graph.load_model(f"{vae} vae.safetensors")[1]
    loaded, image = graph.load_model(f"{model} vae.safetensors"), graph.load_image("connected.png")
    seen = graph.perceive(loaded, image, vae=vae_of_another)
    return graph, seen, graph.save_map(seen, f"{model} {vae}")


@pytest.mark.parametrize("base", BASES)
def test_a_vae_of_other_latents_is_refused_in_a_sentence(furnished, base):
    with pytest.raises(NodeFailed, match="makes other latents than the one that depth has") as told:
        furnished.submit(connected(base, "another")[0])
    assert "disconnect it" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("base", BASES)
def test_a_fine_tuned_vae_runs_and_the_node_and_the_log_say_so(furnished, base):
    graph, seen, saved = connected(base, "tuned")
    result = furnished.submit(graph)
    (note,) = result.outputs[seen.name]["text"]
    found = re.fullmatch(r"The connected VAE is not the one that depth has, but near it.*are ([\d.]+) apart.*", note)
    assert found is not None
    assert float(found[1]) == pytest.approx(TUNED, rel=0.1)
    assert note in furnished.log
    assert np.isfinite(np.load(result.files(saved.name)[0])).all()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("vae", [*BASES, "half"])
def test_the_same_vae_runs_silently_also_where_it_is_stored_in_half_precision(furnished, base, vae):
    graph, seen, saved = connected(base, vae)
    result = furnished.submit(graph)
    assert not result.outputs[seen.name]["text"]
    graph, _, own = connected(base, base)
    difference = np.load(result.files(saved.name)[0]) - np.load(furnished.submit(graph).files(own.name)[0])
    assert np.abs(difference).max() <= (2e-2 if vae == "half" else 1e-4)


def test_a_vae_that_is_known_for_other_latents_is_refused_where_the_checkpoint_brings_none(inside_host):
    models = inside_host.base / "models" / "perception"
    tiny.write_own(models / "bare.safetensors", [Recipe("depth", base="sd21", resolution=64)], vae=None)
    write_own_file(models / "whole.safetensors", "depth")
    seen = inside_host(perceive_by_a_known_vae)
    assert seen["unknown"] == seen["right"] == "ran"
    assert "is a VAE that is known or made from it, which makes other latents than depth perceives" in seen["wrong"]


def test_a_note_stays_beside_the_refusal_that_comes_after_it(furnished):
    graph, seen, _ = connected("sd21", "tuned")
    graph[seen.name]["class_type"] = "DiffusionPerceptionPerceiveTasks"
    image = graph[seen.name]["inputs"].pop("image")
    near = told(furnished, graph, seen, fails=True)
    assert near[0].startswith("The connected VAE is not the one that depth has, but near it")
    assert near[1:] == ["Connect an image or a latent, and not both."]
    graph[seen.name]["inputs"]["image"] = image
    assert told(furnished, graph, seen, fails=False) == near[:1]


def told(comfyui, graph: Graph, node: Node, fails: bool) -> list[str]:
    """What a browser shows on a node after its graph ran."""
    comfyui.said.clear()
    run = comfyui.start(graph)
    with pytest.raises(NodeFailed) if fails else nullcontext():
        comfyui.wait(run)
    comfyui.events(run, complete=True)
    return comfyui.said[node.name].splitlines()


def perceive_by_a_known_vae():
    """A checkpoint without a VAE by one that no table names, that a table names as right, and as wrong."""
    import torch

    from diffusion_perception.core.checkpoints import vae_latents
    from diffusion_perception.core.checkpoints.tiny_vae_file import latents_of
    from diffusion_perception.nodes.host import weights_of
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    bare = LoadModel.execute("bare.safetensors", "auto", "as trained", "").result[0]
    vae = LoadModel.execute("whole.safetensors", "auto", "as trained", "").result[1]
    latents = latents_of(weights_of(vae))

    def told(*rows):
        vae_latents.KNOWN_VAES = tuple(vae_latents.KnownVAE("a VAE that is known", bases, latents) for bases in rows)
        try:
            Perceive.execute(bare, torch.rand(1, 48, 64, 3), -1, 1, vae)
        except ValueError as error:
            return str(error)
        return "ran"

    return {"unknown": told(), "right": told(("sd15", "sd21")), "wrong": told(())}
