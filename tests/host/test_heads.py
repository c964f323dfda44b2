"""Heads in a real ComfyUI: the nodes answer as `predict` does, and a segmentation is read alike however it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from comfyui_server import NodeFailed
from graph import Graph, perceive_file

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.display.colour import PALETTES
from diffusion_perception.core.display.picture import classes_of, palette_of
from diffusion_perception.core.heads.table import untrained_head
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import load_perceiver

WIDTHS = (32, 64, 64, 64)
"""Of tiny.unet(), finest first."""
HEADS = ("dpt_head_identity", "upernet", "plain")
TOLERANCE = 5e-4
SIZES = [(75, 53), (64, 96)]
"""(W, H); the first gives latents of odd size."""


def write(comfyui, task: str, head: str, outputs: int, **fields) -> Path:
    """A file of the project's with an untrained head, its last layer stronger, so that it is sure of its classes."""
    torch.manual_seed(5)
    made = untrained_head(head, WIDTHS, 32, outputs)
    *_, last = (weight for name, weight in made.named_parameters() if name.endswith("weight"))
    last.data.mul_(20)
    recipe = Recipe(task, base="custom", head=head, resolution=0, **fields)
    path = comfyui.models / "perception" / f"{task} {head}.safetensors"
    return tiny.write_own(path, [recipe], heads={head: made.state_dict()})


def expected(path: Path, picture: Path):
    """What `predict` makes of it."""
    from diffusion_perception.trainer.perceiver import read_upright

    with torch.inference_mode():
        return predict(load_perceiver(open_checkpoint(path)), read_upright(picture))


def picture(comfyui, width: int, height: int) -> Path:
    return tiny.save_picture(comfyui.input / f"heads {width}x{height}.png", height, width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_of_values_gives_in_the_nodes_what_it_gives_in_predict(comfyui, head, size):
    path, image = write(comfyui, "depth", head, 1, codec="min-max"), picture(comfyui, *size)
    graph, saved = perceive_file(path.name, image.name, f"heads/{head}")
    (file,) = comfyui.submit(graph).files(saved.name)
    seen, known = np.load(file), expected(path, image).values[0, ..., 0].numpy()
    assert seen.shape == known.shape == (size[1], size[0])
    assert known.std() > 0.02
    assert np.abs(seen - known).max() <= TOLERANCE


def segmented(comfyui, path: Path, image: Path, picked: str) -> dict[str, np.ndarray]:
    """What the nodes say of a picture: the raw map, and what the render nodes make of it."""
    graph = Graph()
    map = graph.perceive(graph.load_model(path.name), graph.load_image(image.name))
    shown = graph.add("DiffusionPerceptionSegmentationToImage", map=map, convention="colours of ade20k", classes=picked)
    mask = graph.add(
        "DiffusionPerceptionMaskFromMap", map=map, convention="white is selected", mode="soft", threshold=0.5,
        classes=picked, range_from=0.0, range_to=0.5, invert=False,
    )  # fmt: skip
    outputs = {"raw": map, "image": shown, "mask": shown[1], "confidence": shown[2], "selected": mask}
    saved = {name: graph.save_map(output, f"segmentation/{name}").name for name, output in outputs.items()}
    result = comfyui.submit(graph)
    return {name: np.load(result.files(node)[0]) for name, node in saved.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", ["upernet", "plain"])
def test_a_head_of_classes_gives_in_the_nodes_what_it_gives_in_predict(comfyui, head, size):
    path = write(comfyui, "segmentation", head, 16, codec="class-scores", palette="furniture")
    image = picture(comfyui, *size)
    known = expected(path, image)
    found = classes_of(known, palette_of(known))
    common = PALETTES["furniture"].classes[int(found.index.flatten().mode().values)]
    seen = segmented(comfyui, path, image, common)
    assert np.abs(seen["confidence"] - found.clearness[0].numpy()).max() <= TOLERANCE
    # where two classes are all but equal, the last bit decides
    clear = found.clearness[0].numpy() > TOLERANCE
    assert clear.mean() > 0.9
    assert len(np.unique(seen["raw"])) > 1
    assert np.array_equal(seen["raw"][clear], known.values[0, ..., 0].numpy()[clear])
    assert np.array_equal(seen["image"][clear], found.picture()[0].numpy()[clear])
    assert np.array_equal(seen["mask"][clear], (seen["raw"] == PALETTES["furniture"].index(common))[clear])
    assert np.array_equal(seen["mask"], seen["selected"])


def test_colours_are_read_by_the_same_nodes(comfyui):
    recipe = Recipe("segmentation", base="custom", resolution=0, palette="furniture")
    path = tiny.write_own(comfyui.models / "perception" / "colours.safetensors", [recipe])
    image = picture(comfyui, *SIZES[0])
    known = expected(path, image)
    found = classes_of(known, palette_of(known))
    common = PALETTES["furniture"].classes[int(found.index.flatten().mode().values)]
    seen = segmented(comfyui, path, image, common)
    assert np.abs(seen["raw"] - known.values[0].numpy()).max() <= TOLERANCE
    clear = found.clearness[0].numpy() > 0.01
    assert np.array_equal(seen["image"][clear], found.picture()[0].numpy()[clear])
    assert np.array_equal(seen["mask"], seen["selected"])
    assert np.abs(seen["confidence"] - found.clearness[0].numpy()).max() <= 0.02  # a hundred levels apart


def test_a_misspelt_class_is_refused_with_the_right_spelling(comfyui):
    path = write(comfyui, "segmentation", "plain", 16, codec="class-scores", palette="furniture")
    with pytest.raises(NodeFailed, match="The palette furniture has no class 'chiar': did you mean 'chair'"):
        segmented(comfyui, path, picture(comfyui, *SIZES[1]), "chiar")


def test_a_palette_of_other_classes_is_refused(comfyui):
    path = write(comfyui, "segmentation", "plain", 30, codec="class-scores", palette="furniture")
    with pytest.raises(NodeFailed, match="and the palette furniture has 16: set palette="):
        segmented(comfyui, path, picture(comfyui, *SIZES[1]), "chair")
