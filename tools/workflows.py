"""The example workflows: a table of them, written for ComfyUI's editor, for programs, and for the README.

`python tools/workflows.py` writes workflows/*.json, subgraphs/*.json and the README's list; the host's own schemas say
what is a widget and what a socket.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blueprints
import comfyui_host
import example_graphs as graphs
from comfyui_server import Server
from editor_format import Schemas, completed, editor_format
from example_graphs import Example
from model_links import (
    CHECKPOINT,
    CONTROLNETS,
    DEPTH_ADAPTER,
    LIGHTING,
    LOTUS,
    NORMAL_ADAPTER,
    POSE,
    STARTER,
    VAE,
    link_of,
    wanted,
)

ROOT = Path(__file__).absolute().parents[1]
FOLDER = ROOT / "workflows"
EXAMPLE_PICTURE = "DiffusionPerceptionExamplePicture"


@dataclass(frozen=True)
class Workflow:
    """A row: one example."""

    title: str
    """Its files' name, which ComfyUI shows under its picture."""
    make: Callable[[Example], None]
    description: str
    """What it shows; one sentence for people who look for something."""
    told: str = ""
    """What else is worth knowing, in Markdown."""
    needs: tuple[str, ...] = ()
    """What it runs on besides the pack, by the names that model_links knows."""

    def graph(self) -> Example:
        graph = Example()
        self.make(graph)
        return graph

    def note(self, graph: Example) -> str:
        """What stands left of the graph."""
        held = {
            value
            for node in graph.values()
            for value in (node["class_type"], *node["inputs"].values())
            if isinstance(value, str)
        }
        parts = [
            f"## {self.title}",
            self.description,
            OWN_PICTURE if EXAMPLE_PICTURE in held else "",
            self.told,
            DEMONSTRATION if STARTER in held else "",
            "\n".join(["Needs, besides this pack:", "", *map(wanted, self.needs)]) if self.needs else "",
        ]
        return "\n\n".join(filter(None, parts))


OWN_PICTURE = "**Your own picture:** put *Load Image* in the place of *Example Picture*."
DEMONSTRATION = (
    "**Demonstration weights:** the starter knows rooms and little else. For photographs get "
    f"{link_of('lotus-depth-d-v1-1')} (depth), {link_of('lotus-normal-d-v1-1')} (normals), "
    f"{link_of('genpercept-models')} (masks; not for commercial use) or {link_of('marigold-iid-appearance-v1-1')} "
    "(albedo) into models/perception; the README lists them all."
)
AGAIN = (
    "No second UNet is loaded and no picture is decoded and encoded again: the model that made the latent sees in it, "
    "by an adapter of some MB."
)

WORKFLOWS: tuple[Workflow, ...] = (
    Workflow(
        "Perceive a Photograph", graphs.every_task,
        "Depth, normals, a mask of people, segmentation and albedo of one picture, side by side.",
        "Every *Perceive* shows its picture, and its output *image* is ready for the ControlNet of the task. Other "
        "nodes read the raw values from *map*.",
    ),
    Workflow(
        "Several Tasks at Once", graphs.tasks_at_once,
        "Four maps of one picture, which is encoded once, in one sheet.",
        "Tasks of one file share one pass of the network too. Leave out what you do not need: two tasks are two "
        "loaders and *Perceive Tasks*.",
    ),
    Workflow(
        "Depth of a Photograph", graphs.one_depth,
        "A depth map in which near is white, as depth ControlNets want it.",
        "*Perceive* alone gives such a picture too; *Render Depth* is where you choose: stretched by percentiles, one "
        "range for a whole batch, a colormap.",
    ),
    Workflow(
        "Normals of a Photograph", graphs.one_normal,
        "Surface normals in the colours of the normalbae ControlNet, and in OpenGL's.",
        "For the ControlNet red is left, for OpenGL red is right; in both green is up and blue faces the camera. "
        "*Render Normal* knows DirectX's and OpenCV's axes too.",
    ),
    Workflow(
        "Cut-out on a New Background", graphs.cutout,
        "A person cut out softly, with clean colours at the edge, and put into another room.",
        "Saved are the cut-out as a PNG with straight alpha, and the composite. In a mask of this pack 1 is the "
        "subject: *ImageCompositeMasked* takes it as it is, *Join Image with Alpha* wants it through *InvertMask*. "
        "*Matte Cut-out* composes by itself where a background is connected to it.",
    ),
    Workflow(
        "Maps for Blender and Nuke", graphs.raw_maps,
        "Picture, depth and normals as layers of one EXR, and depth alone as 32-bit EXR and 16-bit PNG.",
        "Raw values, with nothing stretched: the starter's depth goes from 0 (near) to 1 (far), normals from -1 to 1 "
        "along x right, y up, z towards the camera. Load them as data, not as colours (Non-Color in Blender, raw in "
        "Nuke). The README's table says what each model's values mean. *Save Layers* writes a file a frame, so a batch "
        "becomes a sequence.",
    ),
    Workflow(
        "Relight a Room", graphs.relit,
        "A room in the evening sun, and by the light of a blue lamp in it, from its normals and depth.",
        "*Relight* has no network and no seed: change *azimuth* and *elevation*, or *x*, *y* and *distance*, and run "
        "again. Only the new light's shadow side is dark: nothing throws a shadow on another thing. An albedo at its "
        "input *albedo* takes the old light out of the colours. Its output *shading* is a layer for *Save Layers*.",
    ),
    Workflow(
        "Fog in a Room", graphs.foggy,
        "Fog that hides a room the more the farther away it is, and its depth beside a scale.",
        "The starter's depth says what is nearer, not how far away it is: *near* and *far* say that, 1.5 and 5 m for a "
        "room. *density* is how thick the fog is. The output *mask* serves colour grading as well; *Focus Mask* makes "
        "one for blur.",
    ),
    Workflow(
        "A Photograph in 3D", graphs.in_space,
        "What a depth shows as a surface with the picture on it, to be turned in ComfyUI or opened in Blender.",
        "The GLB file lies in output/perception. If walls come out bent or the room too deep, change *far* and "
        "*field_of_view*; *jump* says where the surface is cut.",
    ),
    Workflow(
        "A Batch of Pictures", graphs.batch,
        "The depth of several pictures or frames, brought to grey by one common range.",
        "*scope: per batch* keeps a video from flickering; *per image* stretches each by itself. Frames of a video "
        "come from *Load Video* and *Get Video Components* in the place of the batch. A larger *batch_size* is faster "
        "on a large GPU.",
    ),
    Workflow(
        "Depth of a Video", graphs.video,
        "The depth of a video's frames, brought to one scale and shift over time, as a video that does not flicker.",
        "The four frames here are a camera's way over one picture: put *Load Video* and *Get Video Components* in "
        "their place, and the video's own frame rate into *Create Video*. For values in place of a picture connect "
        "*Save Map* to *Steady Depth*.",
    ),
    Workflow(
        "A Large Picture", graphs.large,
        "The depth of a picture larger than the network sees, at once and in tiles that are brought to the whole.",
        "*tile* says how large a tile is; each is seen at the resolution that the model was trained at, so smaller "
        "tiles show more detail and take longer. Put your own picture of 2K to 8K in the place of the enlarged one, "
        "which has no more detail to show than it had.",
    ),
    Workflow(
        "Your Own Trained File", graphs.own_file,
        "How a file that you trained with this pack's command line is run: choose it, nothing else.",
        "Put your file into models/perception, press R, and choose it in *Load Perception Model* in the place of the "
        "starter. It says itself how it is run: its task, resolution and conventions are in it, and *as trained* "
        "follows them. `diffusion-perception info FILE` prints them; `diffusion-perception train CONFIG.toml` is how "
        "such a file is made. An adapter for a Stable Diffusion model goes into *Apply Perception Adapter* instead.",
    ),
    Workflow(
        "Depth and Normals of Other Packs", graphs.other_packs,
        "Pictures of depth and normals from any other node, turned into another convention.",
        "Here the outputs *image* of *Perceive* stand for the nodes of another pack: put yours there, and say in "
        "*convention* what its numbers mean (which end is near, which way red points). *Depth to Normal* makes normals "
        "of a depth. ComfyUI's own MoGe and Depth Anything 3 nodes can be connected as they are, with their geometry.",
    ),
    Workflow(
        "Compare Two Maps", graphs.comparison,
        "Two depths of one picture side by side, and where they differ.",
        "Here it is the starter with its full decoder and with its light one. Choose another model in the second "
        "loader to compare models.",
    ),
    Workflow(
        "Depth by Lotus", graphs.lotus,
        "The depth of a photograph by a published model, free for commercial use, in one pass.",
        "The file comes without a VAE, so Stable Diffusion's is connected. Near is white.",
        (LOTUS, VAE),
    ),
    Workflow(
        "Pose of a Person", graphs.pose,
        "Body, hands and face: a skeleton for an openpose ControlNet, and POSE_KEYPOINT for other packs.",
        "Without boxes the whole picture is one person. For several connect a detector's boxes to *Perceive Pose*, or "
        "a mask whose every part is one person.",
        (POSE,),
    ),
    Workflow(
        "Repaint Walls by Albedo and Shading", graphs.recolouring,
        "Walls get another colour and keep their light: albedo is painted, then multiplied by the shading again.",
        "Albedo and shading come from one run of a Marigold checkpoint, in linear light; both pictures are to the "
        "power 1/2.2, so multiplying them multiplies the light itself. The brightness of the whole is free, and "
        "highlights (the residual) are left out. The walls are found by the starter's segmentation: for photographs "
        "put a mask of yours there.",
        (LIGHTING,),
    ),
    Workflow(
        "Depth by an Adapter", graphs.adapted_photograph,
        "The Stable Diffusion model that you have loaded sees depth, by an adapter of some MB.",
        "The model itself is left as it is: generate with it in the same graph.",
        (CHECKPOINT, DEPTH_ADAPTER),
    ),
    Workflow(
        "Depth for ControlNet", graphs.depth_for_controlnet,
        "A photograph's depth guides a new picture of the same space.",
        "Give *Empty Latent Image* the proportions of your picture: ControlNet crops the middle out of any other.",
        (CHECKPOINT, CONTROLNETS["depth"]),
    ),
    Workflow(
        "Depth of a Generation for ControlNet", graphs.depth_of_generation,
        "A picture is made, its depth is seen in its latent, and a second picture is made in that space.",
        AGAIN, (CHECKPOINT, CONTROLNETS["depth"], DEPTH_ADAPTER),
    ),
    Workflow(
        "Normals of a Generation for ControlNet", graphs.normal_of_generation,
        "A picture is made, its normals are seen in its latent, and a second picture is made on these surfaces.",
        AGAIN, (CHECKPOINT, CONTROLNETS["normal"], NORMAL_ADAPTER),
    ),
    Workflow(
        "Pose of a Generation for ControlNet", graphs.pose_of_generation,
        "A person is drawn, the pose is read from the picture, and somebody else is drawn in it.",
        "Poses are read from pictures, so this one is decoded first.",
        (CHECKPOINT, CONTROLNETS["pose"], POSE),
    ),
    Workflow(
        "Segmentation of a Generation for ControlNet", graphs.segmentation_of_generation,
        "A room is drawn, it is parted into its things, and another room is drawn with the same parts.",
        "*ade20k, by name* turns a palette's colours into those that segmentation ControlNets learnt, class by "
        "class; what ADE20K has no class for becomes black.",
        (CHECKPOINT, CONTROLNETS["segmentation"]),
    ),
)  # fmt: skip
BY_TITLE = {workflow.title: workflow for workflow in WORKFLOWS}


def write(root: Path, schemas: Schemas) -> None:
    """workflows/<title>.json for the editor, workflows/api/<title>.json for programs, and subgraphs/<title>.json."""
    for folder in ("workflows/api", "subgraphs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for row in WORKFLOWS:
        example = row.graph()
        graph = completed(example, schemas)
        shown = editor_format(graph, schemas, row.note(example), row.description, example.columns)
        _dump(root / "workflows" / f"{row.title}.json", shown)
        _dump(root / "workflows" / "api" / f"{row.title}.json", graph)
    for blueprint in blueprints.BLUEPRINTS:
        _dump(root / "subgraphs" / f"{blueprint.title}.json", blueprints.blueprint_format(blueprint, schemas))


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


README = ROOT / "README.md"
HEAD = """| template | shows | needs, besides the pack |
|---|---|---|
"""
BOXES_HEAD = """| box | does | needs, besides the pack |
|---|---|---|
"""
TABLE = r"(\|.*\n)*"


def listed(text: str) -> str:
    """The README with its two tables as they are now."""
    for head, rows in ((HEAD, WORKFLOWS), (BOXES_HEAD, blueprints.BLUEPRINTS)):
        table = head + "".join(line(row.title, row.description, row.needs) for row in rows)
        text = re.sub(re.escape(head) + TABLE, table, text)
    return text


def line(title: str, description: str, needs: tuple[str, ...]) -> str:
    return f"| {title} | {description} | {', '.join(f'`{name}`' for name in needs) or 'nothing'} |\n"


def main() -> int:
    """Write the workflows as the nodes are now."""
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        write(ROOT, server.object_info())
    README.write_text(listed(README.read_text("utf-8")), "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
