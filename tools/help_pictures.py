"""`make pictures`: draws the pictures of the nodes' help pages, from what the nodes themselves make in a real ComfyUI.

python tools/help_pictures.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import comfyui_host
import drawn_pages
import picture_sheet
from api_graph import Node
from comfyui_server import Result, Server
from editor_format import completed
from example_graphs import BEDROOM, PERSON, ROOM, Example
from PIL import Image, ImageOps
from PIL.Image import Image as Picture

PACK = Path(__file__).absolute().parents[1]
EXAMPLES = PACK / "workflows" / "pictures"
FOLDER = PACK / "web" / "docs" / "pictures"
SIZE = (384, 288)
TASKS = ("depth", "normal", "mask", "segmentation", "albedo")


class Results(Example):
    """One graph of all results, in which what several of them begin with is there once."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[str, ...], Node] = {}

    def photo(self, picture: str) -> Node:
        return self.once(("photo", picture), lambda: self.picture(picture))

    def seen(self, picture: str, task: str) -> Node:
        model = self.once(("model", task), lambda: self.model(task))
        return self.once((picture, task), lambda: self.perceive(model, self.photo(picture)))

    def once(self, key: tuple[str, ...], make: Callable[[], Node]) -> Node:
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def ours(self, node: str, **inputs: Any) -> Node:
        return self.add(f"DiffusionPerception{node}", **inputs)

    def mask(self, wire: Any) -> Node:
        return self.add("MaskToImage", mask=wire)

    def shown(self, images: Any) -> Node:
        return self.add("PreviewImage", images=images)


class Page(NamedTuple):
    """What a help page shows."""

    picture: str
    """Of Example Picture, from which the results are made."""
    results: Callable[[Results], list[Any]]
    """Wires of IMAGEs."""
    columns: int = 0
    """0: one result with the picture in its corner; else the picture and all results, in so many columns."""


def tasks(g: Results) -> list[Any]:
    return [g.seen(ROOM, task)[1] for task in TASKS]


def several(g: Results) -> list[Any]:
    return [g.seen(PERSON, task)[1] for task in ("depth", "normal", "mask")]


def depths(g: Results) -> list[Any]:
    return [g.ours("DepthToImage", map=g.seen(PERSON, "depth"), colormap=name) for name in ("none", "turbo", "magma")]


def classes(g: Results) -> list[Any]:
    return [g.ours("SegmentationToImage", map=g.seen(BEDROOM, "segmentation"))]


def _of_a_latent(g: Results) -> list[Any]:
    g.seen(BEDROOM, "normal")
    model = g.known["model", "normal"]
    # a latent is perceived at its own size, and the starter learnt at about this one
    small = g.add("ImageScale", image=g.photo(BEDROOM), upscale_method="area", width=192, height=144, crop="disabled")
    latent = g.add("VAEEncode", pixels=small, vae=model[1])
    return [g.ours("PerceiveLatent", perception=model, latent=latent)[1]]


def _refined(g: Results) -> list[Any]:
    return [g.mask(g.ours("RefineMask", map=g.seen(PERSON, "mask"), image=g.photo(PERSON), fit_radius=16))]


def _relit(g: Results) -> list[Any]:
    light = {"azimuth": -70.0, "elevation": 20.0, "colour": "#ffb060", "intensity": 2.0, "ambient": 0.25}
    return [g.ours("Relight", image=g.photo(PERSON), map=g.seen(PERSON, "normal"), **light)]


def _engraved(g: Results) -> list[Any]:
    """The picture's own contrast as a relief on its shapes."""
    relief = g.ours("DepthToNormal", map=g.photo(PERSON), near=1.0, far=1.02, smoothing=1)
    return [g.ours("CombineNormals", map=g.seen(PERSON, "normal"), detail=relief)[1]]


def layers(g: Results) -> list[Any]:
    return [g.seen(ROOM, task)[1] for task in ("depth", "normal", "albedo")]


def fog(g: Results) -> list[Any]:
    return [g.ours("Fog", image=g.photo(PERSON), map=g.seen(PERSON, "depth"), density=0.6, start=1.5)]


def _side_by_side(g: Results) -> list[Any]:
    maps = {f"map_{i}": g.seen(PERSON, task) for i, task in enumerate(("depth", "normal", "mask"), 2)}
    return [g.ours("CompareMaps", map_1=g.photo(PERSON), names="photograph", columns=2, **maps)]


def _moving(g: Results) -> list[Any]:
    """Depths of a camera that moves along a room, and the same steady."""
    frames: Any = None
    for number in range(FRAMES):
        cut = g.add("ImageCrop", image=g.photo(ROOM), width=320, height=320, x=STRIDE * number, y=160)
        frames = cut if frames is None else g.add("ImageBatch", image1=frames, image2=cut)
    g.seen(ROOM, "depth")
    seen = g.perceive(g.known["model", "depth"], frames)
    return [g.ours("DepthToImage", map=seen, scope="per batch"), g.ours("SteadyDepth", map=seen)[1]]


FRAMES, STRIDE = 24, 12
"""Of it, and pixels from one to the next."""
PAGES = {
    "LoadModel": Page(ROOM, tasks, 3),
    "ExamplePicture": Page(ROOM, lambda g: [g.photo(ROOM), g.photo(BEDROOM), g.photo(PERSON)], 3),
    "Perceive": Page(ROOM, lambda g: [g.seen(ROOM, "depth")[1]]),
    "PerceiveLatent": Page(BEDROOM, _of_a_latent),
    "PerceiveTasks": Page(PERSON, several, 2),
    "PerceiveIntrinsics": Page(PERSON, lambda g: [g.seen(PERSON, "albedo")[1]]),
    "DepthToImage": Page(PERSON, depths, 2),
    "NormalToImage": Page(PERSON, lambda g: [g.ours("NormalToImage", map=g.seen(PERSON, "normal"))]),
    "SegmentationToImage": Page(BEDROOM, classes),
    "MaskFromMap": Page(
        PERSON, lambda g: [g.mask(g.ours("MaskFromMap", map=g.seen(PERSON, "mask"), mode="threshold"))]
    ),
    "MatteCutout": Page(PERSON, lambda g: [g.ours("MatteCutout", image=g.photo(PERSON), map=g.seen(PERSON, "mask"))]),
    "RefineMask": Page(PERSON, _refined),
    "DepthToNormal": Page(PERSON, lambda g: [g.ours("DepthToNormal", map=g.seen(PERSON, "depth"), smoothing=4)[1]]),
    "CombineNormals": Page(PERSON, _engraved),
    "SaveLayers": Page(ROOM, layers, 2),
    "RotateNormals": Page(BEDROOM, lambda g: [g.ours("RotateNormals", map=g.seen(BEDROOM, "normal"), yaw=45.0)[1]]),
    "Relight": Page(PERSON, _relit),
    "Fog": Page(PERSON, fog),
    "FocusMask": Page(
        PERSON, lambda g: [g.mask(g.ours("FocusMask", map=g.seen(PERSON, "depth"), focus=2.5, strength=2.0))]
    ),
    "CompareMaps": Page(PERSON, _side_by_side, 1),
    "PreviewMap": Page(PERSON, lambda g: [g.ours("PreviewMap", map=g.seen(PERSON, "depth"), colormap="turbo")], 1),
    "SaveMap": Page(ROOM, lambda g: [g.ours("DepthToImage", map=g.seen(ROOM, "depth"), colormap="inferno")]),
}
"""By node id less the pack's name. Of adapters and poses the starter knows nothing."""
SKELETON = ("PerceivePose", "PoseFromMap")


def opened(file: Path) -> Picture:
    with Image.open(file) as picture:
        return picture_sheet.flat(picture)


def photo(picture: str) -> Picture:
    return opened(EXAMPLES / f"{picture.replace(' ', '-')}.jpg")


def drawn(page: Page, results: list[Picture]) -> Picture:
    """The picture of a page, as wide as a page."""
    if not page.columns:
        return picture_sheet.with_inset(photo(page.picture), results[0], SIZE)
    cells = [photo(page.picture), *results] if len(results) % page.columns else results
    rows = [cells[i : i + page.columns] for i in range(0, len(cells), page.columns)]
    return ImageOps.contain(picture_sheet.contact_sheet(rows), SIZE)


def main() -> int:
    """Run all in one graph, and draw."""
    graph = Results()
    ends = {node: [graph.shown(wire).name for wire in page.results(graph)] for node, page in PAGES.items()}
    made = graph.ours("DepthToMesh", map=graph.seen(ROOM, "depth"), image=graph.photo(ROOM))
    strips = [graph.shown(wire).name for wire in _moving(graph)]
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        result: Result = server.submit(completed(graph, server.object_info()))
        FOLDER.mkdir(parents=True, exist_ok=True)
        for node, page in PAGES.items():
            pictures = [opened(file) for name in ends[node] for file in result.files(name)]
            keep(node, drawn(page, pictures))
            print(FOLDER / f"{node}.jpg")
        keep("SteadyDepth", drawn_pages.rows_of([list(map(opened, result.files(name))) for name in strips], SIZE))
        (mesh,) = result.files(made.name)
        keep("DepthToMesh", drawn_pages.turned(mesh, SIZE))
    keep("ApplyAdapter", drawn_pages.titled_graph("Depth by an Adapter", SIZE))
    for node in SKELETON:
        keep(node, ImageOps.contain(drawn_pages.skeleton(photo(PERSON)), SIZE))
    return 0


def keep(node: str, picture: Picture) -> None:
    picture.save(FOLDER / f"{node}.jpg", quality=78, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
