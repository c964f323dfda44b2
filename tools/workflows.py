"""The example workflows: described once here, written in ComfyUI's API format and in the format that its editor opens.

`tools/workflows.py` writes workflows/*.json; the host's own schemas say what is a widget and what a socket.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfyui_host
from comfyui_server import Server

from diffusion_perception.core.checkpoints.published import HUB, PLACES, PUBLISHED

FOLDER = Path(__file__).absolute().parents[1] / "workflows"
MODEL = "starter.safetensors"
PHOTO = "photograph.png"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
CONTROLNET = "control_v11f1p_sd15_depth_fp16.safetensors"
ADAPTER = "depth-hypersim-notext"
LOTUS = "lotus-depth-d-v1-1.safetensors"
VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
LINKS = {
    CHECKPOINT: ("checkpoints", f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{CHECKPOINT}"),
    CONTROLNET: ("controlnet", f"{HUB}/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/{CONTROLNET}"),
    VAE: ("vae", f"{HUB}/stabilityai/sd-vae-ft-mse-original/resolve/main/{VAE}"),
    **{
        place: ("perception", address)
        for row in PUBLISHED
        for place, address in row.places.items()
        if place.endswith(".safetensors")
    },
}
"""{file: (the host's folder for it, its address)}: the editor offers to get files, one by one, and no folders."""
COLUMN, ROW = 380, 420

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def seen(task: str, model: str = MODEL) -> Graph:
    """What every example on a photograph begins with."""
    return {
        "1": node("DiffusionPerceptionLoadModel", model=model, family="auto", task=task, overrides=""),
        "2": node("LoadImage", image=PHOTO),
    }


def perceiving(task: str) -> Graph:
    """A model, a photograph, and what the one sees in the other."""
    return {
        **seen(task),
        "3": node("DiffusionPerceptionPerceive", perception=["1", 0], image=["2", 0], resolution=-1, batch_size=1),
    }


def depth() -> Graph:
    """A photograph -> its depth, near white, as a depth ControlNet wants it."""
    return perceiving("depth") | {
        "4": depth_picture("3"),
        "5": node("SaveImage", images=["4", 0], filename_prefix="perception/depth"),
        "6": node(
            "DiffusionPerceptionSaveMap", map=["3", 0], filename_prefix="perception/depth", format="exr32",
            convention="values 0..1",
        ),
    }  # fmt: skip


def depth_picture(perceive: str) -> dict[str, Any]:
    return node(
        "DiffusionPerceptionDepthToImage", map=[perceive, 0], convention="near is white", mode="controlnet",
        scope="per image", low_percentile=2.0, high_percentile=98.0, invert=False, colormap="none",
    )  # fmt: skip


def lotus() -> Graph:
    """A photograph -> its depth by a published model, in one file that comes without a VAE."""
    return {
        **seen("depth", LOTUS),
        "3": node("VAELoader", vae_name=VAE),
        "4": node(
            "DiffusionPerceptionPerceive", perception=["1", 0], image=["2", 0], vae=["3", 0], resolution=-1,
            batch_size=1,
        ),
        "5": depth_picture("4"),
        "6": node("SaveImage", images=["5", 0], filename_prefix="perception/depth"),
    }  # fmt: skip


def normal() -> Graph:
    """A photograph -> its normals in the colours of the normalbae ControlNet: red is left."""
    return perceiving("normal") | {
        "4": node(
            "DiffusionPerceptionNormalToImage", map=["3", 0], convention="controlnet_bae", axes="controlnet_bae",
            renormalise=True,
        ),
        "5": node("SaveImage", images=["4", 0], filename_prefix="perception/normal"),
    }  # fmt: skip


def cutout() -> Graph:
    """A photograph -> its subject without the background, with clean colours at the edge."""
    return perceiving("mask") | {
        "4": node(
            "DiffusionPerceptionMatteCutout", image=["2", 0], map=["3", 0], mode="soft", estimate_foreground=True
        ),
        "5": node("SaveImage", images=["4", 0], filename_prefix="perception/cutout"),
    }  # fmt: skip


def generation() -> Graph:
    """A picture is made, the same model sees its depth in the latent, and a second picture is made in that space."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "2": prompt("a reading corner by a window, an armchair, a floor lamp, books"),
        "3": prompt(""),
        "4": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "5": sampler(model=["1", 0], positive=["2", 0], negative=["3", 0], latent_image=["4", 0]),
        "6": node(
            "DiffusionPerceptionApplyAdapter", model=["1", 0], vae=["1", 2], adapter=ADAPTER, task="as trained",
            overrides="", weights="as loaded", conditioning=["3", 0],
        ),
        "7": node("DiffusionPerceptionPerceiveLatent", perception=["6", 0], latent=["5", 0], batch_size=1),
        "8": prompt("the same corner in winter, moss and snow on everything, stone furniture"),
        "9": node("ControlNetLoader", control_net_name=CONTROLNET),
        "10": node(
            "ControlNetApplyAdvanced", positive=["8", 0], negative=["3", 0], control_net=["9", 0], image=["7", 1],
            strength=1.0, start_percent=0.0, end_percent=1.0,
        ),
        "11": sampler(model=["1", 0], positive=["10", 0], negative=["10", 1], latent_image=["4", 0]),
        "12": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "13": node("SaveImage", images=["12", 0], filename_prefix="perception/first"),
        "14": node("SaveImage", images=["7", 1], filename_prefix="perception/depth"),
        "15": node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "16": node("SaveImage", images=["15", 0], filename_prefix="perception/second"),
    }  # fmt: skip


def prompt(text: str) -> dict[str, Any]:
    return node("CLIPTextEncode", text=text, clip=["1", 1])


def sampler(**wires: list[Any]) -> dict[str, Any]:
    settings = {"seed": 7, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return node("KSampler", **settings, **wires)


WORKFLOWS = {
    "depth for ControlNet": depth,
    "normals": normal,
    "cut-out": cutout,
    "depth of a generation for ControlNet": generation,
    "depth by Lotus": lotus,
}


def address_of(place: str) -> str:
    """Of what is published under this name."""
    return PLACES[place.lower()][1].places[place]


NOTES = {
    "depth of a generation for ControlNet": f"""Needs, besides this pack:

- models/checkpoints: [{CHECKPOINT}]({LINKS[CHECKPOINT][1]}), or any SD 1.5 checkpoint
- models/controlnet: [{CONTROLNET}]({LINKS[CONTROLNET][1]})
- models/perception: a depth adapter for SD 1.x, such as the folder [{ADAPTER}]({address_of(ADAPTER)}) of DMP's authors

No image is decoded and encoded again, and no second UNet is loaded: the depth is seen in the latent by the model that
made it.""",
    "depth by Lotus": f"""Needs, besides this pack:

- models/perception: [{LOTUS}]({LINKS[LOTUS][1]}), 1.7 GB, Apache-2.0
- models/vae: [{VAE}]({LINKS[VAE][1]}), or any other VAE of Stable Diffusion 1 or 2

Near is white, as a depth ControlNet wants it; the README says what else there is to download.""",
}
"""Shown in the editor beside a workflow that runs on models which the pack does not bring."""


def editor_format(graph: Graph, schemas: Mapping[str, Any], note: str = "") -> dict[str, Any]:
    """A graph in API format as the editor saves it: nodes with places, links with numbers, widgets in order."""
    links: list[list[Any]] = []
    places = layout(graph)
    nodes = [editor_node(name, graph, schemas, links, places[name]) for name in graph]
    for entry in nodes:
        for slot, output in enumerate(entry["outputs"]):
            output["links"] = [link[0] for link in links if link[1] == entry["id"] and link[2] == slot]
    if note:
        nodes.append(editor_note(len(nodes) + 1, note))
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def editor_node(
    name: str, graph: Graph, schemas: Mapping[str, Any], links: list[list[Any]], place: list[int]
) -> dict[str, Any]:
    """One node; what it is wired to is added to `links`."""
    class_type, values = graph[name]["class_type"], graph[name]["inputs"]
    schema = schemas[class_type]
    sockets, widgets = [], []
    for key, (kind, *options) in declared(schema):
        if is_widget(kind):
            widgets.append(values.get(key, (options or [{}])[0].get("default")))
            widgets += [value for option, value in FURTHER_WIDGETS.items() if (options or [{}])[0].get(option)]
            continue
        link = None
        if key in values:
            source, slot = values[key]
            output = schemas[graph[source]["class_type"]]["output"][slot]
            link = len(links) + 1
            links.append([link, int(source), slot, int(name), len(sockets), output])
        sockets.append({"name": key, "type": kind, "link": link})
    outputs = [
        {"name": label, "type": kind, "links": []} for label, kind in zip(schema["output_name"], schema["output"])
    ]
    models = models_of(widgets)
    return {
        "id": int(name), "type": class_type, "pos": place, "size": [320, 220], "flags": {},
        "order": int(name) - 1, "mode": 0, "inputs": sockets, "outputs": outputs, "widgets_values": widgets,
        "properties": {"Node name for S&R": class_type, **({"models": models} if models else {})},
    }  # fmt: skip


def models_of(widgets: list[Any]) -> list[dict[str, str]]:
    """What the editor offers to get where the host lacks it; it shows those alone that a widget of the node names."""
    named = [value for value in widgets if isinstance(value, str) and value in LINKS]
    return [{"name": name, "url": LINKS[name][1], "directory": LINKS[name][0]} for name in named]


def declared(schema: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """The inputs of a node in the order in which the editor shows them."""
    return [item for group in ("required", "optional") for item in schema["input"].get(group, {}).items()]


def is_widget(kind: Any) -> bool:
    """Values that are typed or chosen; everything else is wired."""
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


FURTHER_WIDGETS = {"image_upload": "image", "control_after_generate": "fixed"}
"""An input's option -> what the widget holds that the editor adds behind it."""


def editor_note(number: int, text: str) -> dict[str, Any]:
    """A text beside the graph, above its first column."""
    return {
        "id": number, "type": "MarkdownNote", "pos": [40, -240], "size": [680, 240], "flags": {}, "order": number - 1,
        "mode": 0, "inputs": [], "outputs": [], "widgets_values": [text], "properties": {},
    }  # fmt: skip


def layout(graph: Graph) -> dict[str, list[int]]:
    """Where each node stands: left of everything that it is wired to, in columns from the top."""
    columns: dict[str, int] = {}
    rows: dict[int, int] = {}
    for name, entry in graph.items():  # sources come before what they are wired to
        sources = [value[0] for value in entry["inputs"].values() if isinstance(value, list)]
        columns[name] = 1 + max((columns[source] for source in sources), default=-1)
    places = {}
    for name, column in columns.items():
        row = rows[column] = rows.get(column, -1) + 1
        places[name] = [40 + column * COLUMN, 60 + row * ROW]
    return places


def write(folder: Path, schemas: Mapping[str, Any]) -> None:
    """<name>.json for the editor, and api/<name>.json for programs."""
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for name, make in WORKFLOWS.items():
        graph = make()
        dump(folder / f"{name}.json", editor_format(graph, schemas, NOTES.get(name, "")))
        dump(folder / "api" / f"{name}.json", graph)


def dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Write the workflows as the nodes are now."""
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        write(FOLDER, server.object_info())
    return 0


if __name__ == "__main__":
    sys.exit(main())
