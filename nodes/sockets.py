"""Sockets: the two types that only this pack knows, and inputs that take others' pictures and geometry as well."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..core.display.picture import Meaning, as_map, choose, in_colours
from ..core.display.typed_geometry import Packet, from_packet
from ..core.perception_map import PerceptionMap
from ..core.tasks import TASKS
from .schema import ADVANCED

Perception = io.Custom("PERCEPTION")
PerceptionMapSocket = io.Custom("PERCEPTION_MAP")
# of newer hosts; where nothing gives them they are words
GEOMETRIES = (io.Custom("MOGE_GEOMETRY"), io.Custom("DA3_GEOMETRY"))


def map_input(tooltip: str, *others: type) -> io.MultiType.Input:
    """An input for a map or an IMAGE, and whatever else is named."""
    return io.MultiType.Input("map", types=[PerceptionMapSocket, io.Image, *others], tooltip=tooltip)


def convention_input(meanings: dict[str, Meaning], default: str) -> io.Combo.Input:
    """What a plain image holds."""
    return io.Combo.Input(
        "convention",
        display_name="convention of an image",
        options=list(meanings),
        default=default,
        tooltip="What the numbers of a plain IMAGE mean. A map from this pack says so itself, and this is ignored.",
        **ADVANCED,
    )


Given = PerceptionMap | Tensor | Packet
"""What may come into a map input."""


def read(map: Given, meanings: dict[str, Meaning], convention: str, *tasks: str) -> PerceptionMap:
    """What came into a map input, as a map of one of `tasks`."""
    meaning = choose(meanings, convention, "convention")
    if isinstance(map, Mapping):
        map = from_packet(map, tasks, metres=meaning.convention.metric)
    return as_map(map, meaning, tasks)


def doubt(map: Given, meanings: dict[str, Meaning], convention: str) -> str:
    """What to say of a plain picture in colours that is read as gray levels; "" where nothing is odd."""
    task = meanings[convention].task
    if not isinstance(map, Tensor) or TASKS[task].channels > 1 or not in_colours(map):
        return ""
    return f"The image is in colours, and a {task} is gray: connect a photo to Perceive, and its map here."
