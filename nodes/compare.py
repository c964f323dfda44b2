"""PreviewMap and CompareMaps: maps for the eye, with numbers and names."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..core.display.colour import COLORMAPS
from ..core.display.picture import FILE_MEANINGS, as_rgb, choose, ready
from ..core.display.scale import with_scale
from ..core.display.sheet import Cell, sheet
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.tasks import TASKS
from . import host
from .notes import note, telling
from .preview import previewed
from .schema import found_by
from .sockets import GEOMETRIES, Given, all_in, convention_input, map_input, number, read

CELLS = tuple(f"map_{place}" for place in range(1, 9))


class PreviewMap(io.ComfyNode):
    """A node: map -> its colours beside a scale."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionPreviewMap",
            display_name="Preview Map",
            category="perception",
            **found_by("legend, scale, colormap, colorbar, heatmap, inspect, range, depth preview, preview depth"),
            description="Shows a map of one channel in colours, with a scale that says in numbers what they stand for; "
            "every other map as its picture.",
            inputs=[
                map_input(
                    "A map from Perceive: depth, disparity, mask, roughness and such; or a MASK, IMAGE, geometry.",
                    io.Mask, *GEOMETRIES,
                ),
                convention_input(FILE_MEANINGS, "values 0..1"),
                io.Combo.Input(
                    "colormap", options=list(COLORMAPS), default="turbo", tooltip="From small values to large ones."
                ),
                number("low", 0.0, -1e6, 1e6, "The value at the lower end of the scale."),
                number("high", 0.0, -1e6, 1e6, "The value at its upper end. Both the same: the map's own range."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The map in colours, and the scale beside it.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, convention: str = "", colormap: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, convention: str, colormap: str, low: float, high: float) -> io.NodeOutput:
        choose(COLORMAPS, colormap, "colormap")
        if high < low:
            raise UserError(f"The scale reaches from {low:g} down to {high:g}: take low below high.")
        given = _as_gray_as_it_is(read(map, FILE_MEANINGS, convention, "image", *TASKS))
        if given.values.shape[-1] == 1 and not given.convention.classes:
            image, said = with_scale(given, colormap, (low, high) if high > low else None)
        else:
            image, said = _shown_map(given), str(given)
        note(said, warning=False)
        return io.NodeOutput(image.to(host.output_device()), ui=previewed(cls, image))


def _as_gray_as_it_is(map: PerceptionMap) -> PerceptionMap:
    """A picture whose colours are equal everywhere, as one channel."""
    first = map.values[..., :1]
    if map.task != "image" or not (as_rgb(map.values) == first).all():
        return map
    return replace(map, values=first)


def _shown_map(map: PerceptionMap) -> Tensor:
    """(B, H, W, 3): a picture as it is, another map as ControlNet expects it."""
    return as_rgb(map.values).clamp(0, 1).contiguous() if map.task == "image" else ready(map)[0]


class CompareMaps(io.ComfyNode):
    """A node: several maps and pictures -> all of them side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionCompareMaps",
            display_name="Compare Maps",
            category="perception",
            **found_by("compare, side by side, grid, contact sheet, image grid, labels, comparison"),
            description="Puts maps and pictures side by side, each with its name above it, in the size of the first.",
            inputs=[
                io.String.Input(
                    "names", default="", multiline=True, tooltip="A name a line. Where there is none: the task."
                ),
                io.Int.Input(
                    "columns", default=0, min=0, max=8, tooltip="How many stand in a row. 0: about as many as rows."
                ),
                *(
                    map_input(
                        "A map from Perceive, an IMAGE, a MASK, or geometry.",
                        io.Mask, *GEOMETRIES, name=name, optional=True,
                    )
                    for name in CELLS
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="All of them in one picture.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    @telling
    def execute(cls, names: str, columns: int, **maps: Given) -> io.NodeOutput:
        found = [map for name in CELLS if name in maps for map in all_in(maps[name])]
        named = zip(found, [*names.splitlines(), *[""] * len(found)])
        made = sheet([Cell(_shown_map(map), name.strip() or map.task) for map, name in named], columns)
        return io.NodeOutput(made.to(host.output_device()), ui=previewed(cls, made))


NODES = [PreviewMap, CompareMaps]
