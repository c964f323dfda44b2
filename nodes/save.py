"""SaveMap, SaveLayers and DepthToMesh: values on disk, with nothing lost."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.display.distance import distance_of
from ..core.display.glb import glb
from ..core.display.layers import ALPHAS, COLOURS, PRECISIONS, Style, channel_words, encode_frame, frames_of, planes_of
from ..core.display.map_files import FORMATS, name_of, pages, texts_of
from ..core.display.mesh import KINDS, grid_of, shape_of
from ..core.display.picture import DEPTH_MEANINGS, FILE_MEANINGS, LEVEL_MEANINGS, as_rgb, choose, from_image
from ..core.display.together import check_together
from ..core.errors import UserError
from ..core.tasks import TASKS, tasks_where
from ..core.whole_file import unwritable, write_whole
from . import host
from .notes import note, shown, telling
from .schema import found_by
from .sockets import (
    GEOMETRIES,
    Given,
    all_in,
    camera,
    convention_input,
    doubt,
    map_input,
    number,
    read,
    space_inputs,
)

log = logging.getLogger(__name__)


class SaveMap(io.ComfyNode):
    """A node: map -> files in the host's output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionSaveMap",
            display_name="Save Map",
            category="perception",
            **found_by("exr, 16 bit png, npy, save depth, save normal, save raw, export depth"),
            description="Saves raw values to the output folder, one file an image, with more than 8 bits.",
            inputs=[
                map_input(
                    "Any map from Perceive, an IMAGE with or without alpha, a MASK, or geometry.", io.Mask, *GEOMETRIES
                ),
                io.String.Input(
                    "filename_prefix",
                    default="perception/map",
                    tooltip="Folder in the output folder and start of the names; %year% and such as in Save Image.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="exr32",
                    tooltip="exr32 and npy: raw 32-bit values. png16: 0..65535 over the map's range, as a text "
                    "in it says; metric depth in millimetres (to 65.535 m, 0 = unknown), with _mm in the name. "
                    "exr32 zip: the same as exr32 in less room. exr16 zip: in half precision, 3 digits. "
                    "Pictures with alpha keep it straight in all of them: the colours are not multiplied by it, so "
                    "tell programs that expect it of EXR files.",
                ),
                convention_input(FILE_MEANINGS, "values 0..1"),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, format: str = "", convention: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, filename_prefix: str, format: str, convention: str) -> io.NodeOutput:
        saved = read(map, FILE_MEANINGS, convention, "image", *TASKS)
        folder, stem, number, subfolder = place(filename_prefix, saved.values)
        encode = choose(FORMATS, format, "format").encode
        chunks, tick, names = workflow(cls), host.ticker(len(saved.values)), []
        for index, page in enumerate(pages(saved)):
            names.append(name_of(stem.replace("%batch_num%", str(index)), number + index, saved, format))
            write_whole(folder / names[-1], encode(page, chunks))
            tick()
        host.say(told(names, subfolder))
        files = [ui.SavedResult(name, subfolder, io.FolderType.output) for name in names]
        return io.NodeOutput(ui={"files": files} | ({"images": files} if format == "png16" else {}))


LAYER_INPUTS = tuple(f"map_{number}" for number in range(1, 9))


class SaveLayers(io.ComfyNode):
    """A node: a picture and its maps -> one EXR file a frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionSaveLayers",
            display_name="Save Layers (EXR)",
            category="perception",
            **found_by("exr, multilayer exr, multi-layer, passes, aov, nuke, blender, compositing, zdepth, half"),
            description="Saves a picture and its maps as the layers of one EXR file a frame, under the names that Nuke "
            "and Blender know.",
            inputs=[
                io.String.Input(
                    "filename_prefix",
                    default="perception/layers",
                    tooltip="Folder in the output folder and start of the names; the frame's number is added.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="half",
                    tooltip="half: 16-bit floats, 3 digits. Depth, disparity and classes always have 32 bits.",
                ),
                io.Combo.Input(
                    "colours",
                    options=list(COLOURS),
                    default="linear light",
                    tooltip="linear light: what readers of EXR expect; sRGB's curve of pictures, albedo and shading is "
                    "undone, or the one that the map states. as they are: no curve is applied.",
                ),
                io.Combo.Input(
                    "alpha",
                    options=list(ALPHAS),
                    default="multiplied",
                    tooltip="multiplied: the picture's colours times its alpha, as readers of EXR expect. straight: "
                    "whole colours beside it.",
                ),
                io.Int.Input(
                    "first_frame",
                    default=1,
                    min=0,
                    max=9_999_999,
                    tooltip="The number of the first frame, as of the sequence that the pictures came from.",
                ),
                io.Image.Input("image", optional=True, tooltip="The picture: R, G, B, and A if it has alpha."),
                map_input(
                    "The picture's alpha, A: a matte or mask from Perceive, a MASK, or a black and white IMAGE.",
                    io.Mask, name="matte", optional=True,
                ),
                *(
                    map_input(
                        "Any map from Perceive, an IMAGE, a MASK, or geometry. Its task names the layer: depth Z, "
                        "normal N, albedo, and so on.",
                        io.Mask, *GEOMETRIES, name=name, optional=True,
                    )
                    for name in LAYER_INPUTS
                ),
            ],
            outputs=[],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, precision: str = "", colours: str = "", alpha: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        filename_prefix: str,
        precision: str,
        colours: str,
        alpha: str,
        first_frame: int,
        image: Tensor | None = None,
        matte: Given | None = None,
        **maps: Given,
    ) -> io.NodeOutput:
        pictures = [] if image is None else [from_image(image, FILE_MEANINGS["values 0..1"])]
        found = [map for name in LAYER_INPUTS if name in maps for map in all_in(maps[name])]
        levels = tasks_where(selector="level")
        over = None if matte is None else read(matte, LEVEL_MEANINGS, "white is selected", *levels)
        planes = planes_of(pictures + found, over, Style(precision, colours, alpha))
        folder, stem, number, subfolder = place(filename_prefix, planes[0].values)
        texts, frames, names = texts_of(workflow(cls)), frames_of(planes), []
        tick = host.ticker(frames)
        for frame in range(frames):
            # the host counts files by what stands between the prefix and the next _
            names.append(f"{stem}_{number:05}_.{first_frame + frame:04}.exr")
            write_whole(folder / names[-1], encode_frame(planes, frame, texts))
            tick()
        host.say(f"{told(names, subfolder)}: {channel_words(planes)}")
        return io.NodeOutput(ui={"files": [ui.SavedResult(name, subfolder, io.FolderType.output) for name in names]})


class DepthToMesh(io.ComfyNode):
    """A node: depth -> a GLB file of the surface that it shows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionDepthToMesh",
            display_name="Depth to Mesh (GLB)",
            category="perception",
            **found_by("mesh, glb, 3d, point cloud, depth to 3d, depth to mesh, gltf, relief, preview 3d"),
            description="Saves what a depth shows as a surface or as points, in its picture's colours, for Preview 3D "
            "and for 3D programs.",
            inputs=[
                map_input("A depth or disparity from Perceive, a depth picture, or geometry.", *GEOMETRIES),
                convention_input(DEPTH_MEANINGS, "near is white"),
                *space_inputs(),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="surface",
                    tooltip="surface: triangles between neighbouring pixels, the picture as their texture. points: a "
                    "coloured point for every pixel.",
                ),
                io.Int.Input(
                    "detail", default=512, min=2, max=8192, tooltip="Points along the longer edge, at most."
                ),
                number(
                    "jump", 0.1, 0.0, 10.0,
                    "Cut the surface where neighbours differ in depth by more than this share: 0.1 a tenth, 0 nowhere.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="perception/mesh",
                    tooltip="Folder in the output folder and start of the names, as in Save Image.",
                ),
                io.Image.Input("image", optional=True, tooltip="The picture that the depth is of: its colours."),
            ],
            outputs=[io.String.Output(display_name="model_file", tooltip="The first file's place, for Preview 3D.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, convention: str = "", kind: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        map: Given,
        convention: str,
        field_of_view: float,
        near: float,
        far: float,
        kind: str,
        detail: int,
        jump: float,
        filename_prefix: str,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        depth = read(map, DEPTH_MEANINGS, convention, *tasks_where(picture="nearness"))
        colours = None if image is None else from_image(image, FILE_MEANINGS["values 0..1"])
        check_together([depth, *([colours] if colours else [])])
        picture = None if colours is None else as_rgb(colours.values)
        intrinsics, seen = camera(map, field_of_view, depth)
        distance = distance_of(depth, (near, far))
        folder, stem, first, subfolder = place(filename_prefix, depth.values)
        extras, tick, names = texts_of(workflow(cls)), host.ticker(len(depth.values)), []
        for frame in range(len(depth.values)):
            grid = grid_of(distance, intrinsics, picture, frame, detail)
            shape = shape_of(grid, None if picture is None else picture[frame % len(picture)], kind, jump)
            names.append(f"{stem}_{first + frame:05}_.glb")
            write_whole(folder / names[-1], glb(shape, extras))
            tick()
        note(f"{distance.said}; {seen}", doubt(map, DEPTH_MEANINGS, convention), told(names, subfolder), warning=False)
        files = [ui.SavedResult(name, subfolder, io.FolderType.output) for name in names]
        return io.NodeOutput(str(_within(subfolder, names[0])), ui={"3d": files, **(shown() or {})})


def _within(subfolder: str, name: str) -> PurePosixPath:
    """A file's place in the output folder."""
    return PurePosixPath(subfolder.replace("\\", "/"), name)


def told(names: list[str], subfolder: str) -> str:
    """Which files were written, by their places in the output folder."""
    files = [str(_within(subfolder, name)) for name in names]
    last = f" to {files[-1]}, {len(files)} files" if len(files) > 1 else ""
    return f"output/{files[0]}{last}"


def place(prefix: str, values: Tensor) -> tuple[Path, str, int, str]:
    """Folder, stem, first number and subfolder for values (B, H, W, C), by the host's own rules. UserError for a prefix
    that leads out."""
    parts = PurePosixPath(prefix.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in prefix or not parts.name:
        raise UserError(f"The prefix {prefix!r} leads out of the output folder: give a name, with / for folders.")
    output = folder_paths.get_output_directory()
    height, width = values.shape[1:3]
    try:
        folder, stem, number, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    except OSError as error:
        raise unwritable(Path(output) / prefix, error) from error
    return Path(folder), stem, number, subfolder


def workflow(cls: type[io.ComfyNode]) -> list[Any]:
    """The PNG chunks by which the host finds the workflow in a picture; none where the user has switched that off."""
    make = getattr(ui.ImageSaveHelper, EMBEDDER, None)
    if make is None:
        _warn_once(f"This ComfyUI has no {EMBEDDER}: PNGs are saved without the workflow; update the pack.")
        return []
    metadata = make(cls)
    return [chunk[:2] for chunk in metadata.chunks] if metadata else []


EMBEDDER = "_create_png_metadata"
"""A private method of the host, which has no public one for this; releases may call it otherwise."""


@cache
def _warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


NODES = [SaveMap, SaveLayers, DepthToMesh]
