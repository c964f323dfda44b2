"""The example workflows on models small enough for a test, and small pictures of what comes out of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import blueprint_graphs
import model_links
import numpy as np
import tiny
import tiny_sdpose
from comfyui_server import Server
from networks import narrow_sd1, random_vae, save_half, write_narrow_controlnet, write_narrow_lotus, write_narrow_sd1
from PIL import Image
from tiny_adapters import KINDS, random_adapter, saved, spelled

import workflows

REFERENCES = Path(__file__).with_name("references")
EDGE = 64
"""Width of a picture in a reference."""
LIGHTING = {
    "target_names": ["albedo", "shading", "residual"],
    **{name: {"prediction_space": "linear"} for name in ("albedo", "shading", "residual")},
}
GENERATION = {"EmptyLatentImage": {"width": 64, "height": 48}, "KSampler": {"steps": 2}}
REAL_VAE = {"DiffusionPerceptionPerceive": {"resolution": 96}}
POSE = {"DiffusionPerceptionLoadModel": {"overrides": "resolution=128"}}
SMALLER: dict[str, dict[str, dict[str, Any]]] = {
    "Depth by Lotus": REAL_VAE,
    # random weights see a few pixels as very near
    "Depth by an Adapter": {**REAL_VAE, "DiffusionPerceptionDepthToImage": {"mode": "percentile"}},
    "Pose of a Person": POSE,
    "Pose of Image": POSE,
    "Depth for ControlNet": GENERATION,
    "Depth of a Generation for ControlNet": GENERATION,
    "Normals of a Generation for ControlNet": GENERATION,
    "Segmentation of a Generation for ControlNet": GENERATION,
    "Pose of a Generation for ControlNet": {**GENERATION, **POSE},
}
"""Workflow -> node -> what a test changes of it, so that a processor is done with it in seconds."""


def furnish(server: Server) -> None:
    """The models that the workflows name."""
    perception = server.models / "perception"
    perception.mkdir(exist_ok=True)
    write_narrow_sd1(server.models / "checkpoints" / model_links.CHECKPOINT)
    first, *others = (server.models / "controlnet" / file for file in model_links.CONTROLNETS.values())
    write_narrow_controlnet(first)
    for other in others:
        shutil.copyfile(first, other)
    save_half(server.models / "vae" / model_links.VAE, random_vae())
    write_narrow_lotus(perception / model_links.LOTUS)
    adapter = spelled(random_adapter(narrow_sd1(), KINDS["attention"], rank=4), "diffusers processors")
    for name in (model_links.DEPTH_ADAPTER, model_links.NORMAL_ADAPTER):
        saved(perception / name / "pytorch_lora_weights.safetensors", adapter)
    tiny_sdpose.write_single(perception / model_links.POSE, width=1024)
    tiny.write_intrinsics(perception / model_links.LIGHTING, LIGHTING, latents=3)


def workflow(title: str) -> dict[str, Any]:
    """As its file for programs has it, but smaller."""
    return smaller(title, json.loads((workflows.FOLDER / "api" / f"{title}.json").read_text(encoding="utf-8")))


def blueprint(title: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Taken apart, and smaller."""
    return smaller(title, blueprint_graphs.graph(title, schemas))


def smaller(title: str, graph: dict[str, Any]) -> dict[str, Any]:
    for entry in graph.values():
        entry["inputs"] |= SMALLER.get(title, {}).get(entry["class_type"], {})
    return graph


def strip(files: list[Path]) -> np.ndarray:
    """(H, EDGE, 3) uint8: all that was written, one below the other."""
    return np.concatenate([small(picture) for file in files for picture in pictures(file)])


def pictures(file: Path) -> list[np.ndarray]:
    """Each (H, W, 3) from 0 to 1; of a picture with alpha the colours where they are seen, and the alpha."""
    if file.suffix == ".exr":
        return [as_rgb(channel) for channel in read_exr(file)]
    if file.suffix == ".npy":
        return [as_rgb(np.load(file))]
    if file.suffix == ".mp4":
        return frames(file)
    if file.suffix == ".glb":
        return []  # whose depth is drawn beside it
    with Image.open(file) as opened:
        pixels = np.asarray(opened)
    values = pixels / (255 if pixels.dtype == np.uint8 else 65535)
    if values.ndim == 3 and values.shape[2] == 4:
        return [values[..., :3] * values[..., 3:], as_rgb(values[..., 3:])]
    return [as_rgb(values)]


def frames(file: Path) -> list[np.ndarray]:
    """(H, W, 3) from 0 to 1 of each frame of a video."""
    import av

    with av.open(str(file)) as opened:
        return [frame.to_ndarray(format="rgb24") / 255 for frame in opened.decode(video=0)]


def as_rgb(values: np.ndarray) -> np.ndarray:
    """Of values from 0 to 1, or from -1 to 1."""
    values = values.reshape(*values.shape[:2], -1)
    return np.broadcast_to((values + 1) / 2 if values.min() < 0 else values, (*values.shape[:2], 3))


def read_exr(file: Path) -> list[np.ndarray]:
    """(H, W) of each channel."""
    import OpenEXR

    with OpenEXR.File(str(file), separate_channels=True) as opened:
        return [channel.pixels.astype(np.float32) for _, channel in sorted(opened.channels().items())]


def small(picture: np.ndarray) -> np.ndarray:
    """(h, EDGE, 3) uint8."""
    size = (EDGE, max(1, round(EDGE * picture.shape[0] / picture.shape[1])))
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BOX))
        for plane in np.moveaxis(picture, -1, 0)
    ]
    return (np.stack(planes, -1).clip(0, 1) * 255).round().astype(np.uint8)


def reference(title: str) -> Path:
    return REFERENCES / f"{title}.png"


def run(server: Server, graph: dict[str, Any]) -> list[Path]:
    """All files that a graph writes, node by node."""
    result = server.submit(graph)
    files = [file for name in sorted(result.outputs, key=int) for file in result.files(name)]
    return list(dict.fromkeys(files))
