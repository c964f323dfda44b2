"""Sockets: the two types that only this pack knows, and inputs that take others' pictures and geometry as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..core.display.doubts import doubted
from ..core.display.picture import FILE_MEANINGS, Meaning, as_map, choose
from ..core.display.typed_geometry import PARTS, Packet, camera_of, from_packet
from ..core.errors import UserError
from ..core.geometry import intrinsics_from_fov
from ..core.perception_map import Convention, PerceptionMap
from ..core.tasks import TASKS
from .schema import ADVANCED

Perception = io.Custom("PERCEPTION")
PerceptionMapSocket = io.Custom("PERCEPTION_MAP")
# of newer hosts; where nothing gives them they are words
GEOMETRIES = (io.Custom("MOGE_GEOMETRY"), io.Custom("DA3_GEOMETRY"))


def map_input(tooltip: str, *others: type, name: str = "map", optional: bool = False) -> io.MultiType.Input:
    """An input for a map or an IMAGE, and whatever else is named."""
    return io.MultiType.Input(name, types=[PerceptionMapSocket, io.Image, *others], tooltip=tooltip, optional=optional)


def convention_input(meanings: dict[str, Meaning], default: str) -> io.Combo.Input:
    """What a plain image holds."""
    return io.Combo.Input(
        "convention",
        display_name="convention of an image",
        options=list(meanings),
        default=default,
        tooltip="Only for a plain IMAGE: what its numbers mean. Ignored for this pack's maps, which say so themselves.",
        **ADVANCED,
    )


def number(
    name: str, default: float, low: float, high: float, tooltip: str, step: float = 0.01, **settings: Any
) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip, **settings)


def span_inputs(**settings: Any) -> list[io.Float.Input]:
    """What an affine depth does not say of the space that it shows; core.display.distance reads it."""
    near = (
        "Only for affine depth and disparity, which most models give: how far away their near end lies. Metric depth "
        "and geometry say it themselves."
    )
    far = "The same for their far end, in the unit of near. A room reaches from 1.5 to 5 m, say."
    return [number("near", 1.5, 0.01, 1e6, near, **settings), number("far", 5.0, 0.01, 1e6, far, **settings)]


def space_inputs(**settings: Any) -> list[io.Float.Input]:
    """What a depth alone does not say of the space that it shows; `camera` reads the first."""
    view = (
        "Horizontal, in degrees: 54 of a 35 mm lens, 40 of 50 mm, about 69 of a phone. Geometry that brings its own "
        "camera, as MoGe's does, needs none."
    )
    return [number("field_of_view", 60.0, 1.0, 179.0, view, 0.1, **settings), *span_inputs(**settings)]


Given = PerceptionMap | Tensor | Packet
"""What may come into a map input."""


READERS = {
    "nearness": "Render Depth",
    "directions": "Render Normal",
    "classes": "Render Segmentation",
    "skeletons": "Render Skeleton",
}
"""The node that shows a map, by the picture of its task; others are shown by the image that is made with them."""


def read(map: Given | None, meanings: dict[str, Meaning], convention: str, *tasks: str) -> PerceptionMap:
    """What came into a map input, as a map of one of `tasks`. UserError for another, and where nothing came."""
    meaning = choose(meanings, convention, "convention")
    if isinstance(map, Mapping):
        map = from_packet(map, tasks, metres=meaning.convention.metric)
    return as_map(map if isinstance(map, Tensor) else taken(map, *tasks), meaning, tasks)


def all_in(given: Given | None) -> list[PerceptionMap]:
    """What came into an input as maps: a map, all that a geometry holds, a picture, or a mask. UserError if nothing
    came."""
    if isinstance(given, Mapping):
        return [from_packet(given, (task,)) for task, part in PARTS.items() if part.key in given]
    meaning = MASK if isinstance(given, Tensor) and given.ndim < 4 else FILE_MEANINGS["values 0..1"]
    tasks = ("image", *TASKS)
    return [as_map(given if isinstance(given, Tensor) else taken(given, *tasks), meaning, tasks)]


MASK = Meaning("mask", Convention())
"""What a MASK holds."""


def taken(map: PerceptionMap | None, *tasks: str) -> PerceptionMap:
    """The map. UserError if there is none, or one of none of `tasks`; it says what to connect instead."""
    if map is None:
        raise UserError(
            "No map came: the output that is connected here has none. Perceive Tasks gives map_2 where perception_2 is "
            "connected, Perceive Intrinsics what its checkpoint predicts."
        )
    if map.task not in tasks:
        reader = READERS.get(TASKS[map.task].picture if map.task in TASKS else "")
        raise UserError(
            f"A map of {map.task} came where one of {' or '.join(tasks)} is expected: choose such a task in Load "
            f"Perception Model{f', or connect it to {reader}' if reader else ''}."
        )
    return map


def camera(map: Given, field_of_view: float, depth: PerceptionMap) -> tuple[Tensor, str]:
    """The intrinsics (1 or B, 3, 3), in pixels, of what came into a map input and was read as `depth`; in words, whose.

    They are the geometry's own where it brings any, else those of a horizontal field of view in degrees.
    """
    height, width = depth.values.shape[1:3]
    own = camera_of(map, height, width) if isinstance(map, Mapping) else None
    if own is not None:
        return own, "camera of the geometry"
    return intrinsics_from_fov(field_of_view, height, width), f"field of view {field_of_view:g} degrees"


def doubt(map: Given, meanings: dict[str, Meaning], convention: str) -> str:
    """What to say of a plain picture that hardly is what `convention` says; "" where nothing is odd."""
    return doubted(map, meanings[convention]) if isinstance(map, Tensor) else ""
