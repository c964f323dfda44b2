"""SaveMap: raw values on disk, with nothing lost."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..core.display.map_files import FORMATS, name_of, pages
from ..core.display.picture import FILE_MEANINGS, choose
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.tasks import TASKS
from ..core.whole_file import unwritable, write_whole
from . import host
from .notes import telling
from .schema import found_by
from .sockets import GEOMETRIES, Given, convention_input, map_input, read

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
        folder, stem, number, subfolder = place(filename_prefix, saved)
        encode = choose(FORMATS, format, "format").encode
        chunks, tick, names = workflow(cls), host.ticker(len(saved.values)), []
        for index, page in enumerate(pages(saved)):
            names.append(name_of(stem.replace("%batch_num%", str(index)), number + index, saved, format))
            write_whole(folder / names[-1], encode(page, chunks))
            tick()
        host.say(told([str(PurePosixPath(subfolder.replace("\\", "/"), name)) for name in names]))
        files = [ui.SavedResult(name, subfolder, io.FolderType.output) for name in names]
        return io.NodeOutput(ui={"files": files} | ({"images": files} if format == "png16" else {}))


def told(files: list[str]) -> str:
    """Which files were written, by their places in the output folder."""
    last = f" to {files[-1]}, {len(files)} files" if len(files) > 1 else ""
    return f"output/{files[0]}{last}"


def place(prefix: str, map: PerceptionMap) -> tuple[Path, str, int, str]:
    """Folder, stem, first number and subfolder, by the host's own rules. UserError for a prefix that leads out."""
    parts = PurePosixPath(prefix.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in prefix or not parts.name:
        raise UserError(f"The prefix {prefix!r} leads out of the output folder: give a name, with / for folders.")
    output = folder_paths.get_output_directory()
    height, width = map.values.shape[1:3]
    try:
        folder, stem, number, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    except OSError as error:
        raise unwritable(Path(output) / prefix, error) from error
    return Path(folder), stem, number, subfolder


def workflow(cls: type[io.ComfyNode]) -> list[Any]:
    """The PNG chunks by which the host finds the workflow in a picture; none where the user has switched that off."""
    make = getattr(ui.ImageSaveHelper, EMBEDDER, None)
    if make is None:
        warn_once(f"This ComfyUI has no {EMBEDDER}: PNGs are saved without the workflow; update the pack.")
        return []
    metadata = make(cls)
    return [chunk[:2] for chunk in metadata.chunks] if metadata else []


EMBEDDER = "_create_png_metadata"
"""A private method of the host, which has no public one for this; releases may call it otherwise."""


@cache
def warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


NODES = [SaveMap]
