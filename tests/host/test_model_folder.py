"""A real host starts with all nodes whatever lies in its model folders, and notices what is replaced behind a link."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from comfyui_server import NodeFailed
from graph import perceive_file
from networks import write_own_file
from PIL import Image
from safetensors.torch import load_file, save_file


def litter(folder) -> None:
    """What broke the listing once, and its like."""
    (folder / "dead.safetensors").symlink_to("/mnt/none/x.safetensors")
    (folder / "loop").symlink_to(folder)
    (folder / "sub").mkdir()
    for name in ("one", "two"):
        (folder / "sub" / name).symlink_to(folder)
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "empty.safetensors").mkdir()
    for name, content in (("x", b""), ("y", b"<html></html>"), ("z", b"[" * 100_000)):
        (folder / name / "unet").mkdir(parents=True)
        (folder / name / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_bytes(content)


def test_all_nodes_are_there_and_a_file_behind_a_link_is_noticed(start_comfyui, tmp_path):
    base = tmp_path / "comfyui"
    models, away = base / "models" / "perception", tmp_path / "away"
    for folder in (models, base / "models" / "vae_approx", away, base / "input"):
        folder.mkdir(parents=True)
    litter(models)
    (base / "models" / "vae_approx" / "taesd_decoder.safetensors").symlink_to("/mnt/none/taesd_decoder.safetensors")
    write_own_file(away / "model.safetensors", "depth")
    (models / "linked").symlink_to(away)
    server = start_comfyui()
    schemas = {name: row for name, row in server.object_info().items() if name.startswith("DiffusionPerception")}
    assert len(schemas) >= 15
    kind, *rest = schemas["DiffusionPerceptionLoadModel"]["input"]["required"]["model"]
    options = kind if isinstance(kind, list) else rest[0]["options"]
    assert options == ["linked", "starter.safetensors", "x", "y", "z"]
    assert rest[-1]["default"] == "linked"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)).save(base / "input" / "fine.png")

    def depth() -> np.ndarray:
        graph, saved = perceive_file("linked", "fine.png", "map")
        return np.load(server.submit(graph).files(saved.name)[0])

    before = depth()
    assert np.array_equal(depth(), before)
    file = away / "model.safetensors"
    replace_weights(file)
    assert abs(depth() - before).max() > 1e-3
    for name in ("x", "dead.safetensors", "pipe.safetensors", "empty.safetensors"):
        with pytest.raises(NodeFailed) as told:
            server.submit(perceive_file(name, "fine.png", "bad")[0])
        assert "\n" not in str(told.value)
        assert name in str(told.value)
    graph, _ = perceive_file("linked", "fine.png", "bad")
    graph["1"]["inputs"]["decoder"] = "taesd"
    with pytest.raises(NodeFailed, match="There is no taesd_decoder in models/vae_approx"):
        server.submit(graph)


def test_the_folder_is_made_where_there_is_none(start_comfyui, tmp_path):
    models = tmp_path / "comfyui" / "models"
    assert not (models / "perception").exists()
    start_comfyui()
    assert (models / "perception").is_dir()


def test_where_it_cannot_be_made_the_nodes_are_there_all_the_same(start_comfyui, tmp_path):
    models = tmp_path / "comfyui" / "models"
    models.mkdir(parents=True)
    # a link into nowhere stops root as well, whom no permission stops
    (models / "perception").symlink_to(tmp_path / "none" / "perception")
    schema = start_comfyui().object_info()["DiffusionPerceptionLoadModel"]
    assert "starter.safetensors" in str(schema["input"]["required"]["model"])


def replace_weights(file) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        metadata = held.metadata()
    generator = torch.Generator().manual_seed(1)
    changed = {
        name: weight + 0.05 * torch.randn(weight.shape, generator=generator) if name.startswith("unet.") else weight
        for name, weight in load_file(file).items()
    }
    save_file(changed, file, metadata)
