"""Segmentation: its classes in the colours of one palette or another, with words and a legend for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..perception_map import PerceptionMap
from ..tasks import TASKS
from .colour import PALETTES, palette_named
from .counterparts import counterparts, in_ade20k
from .legend import Entry
from .picture import Classes

READERS = {
    "ade20k": "segmentation ControlNets read these",
    "coco": "control_v11p_sd15_seg reads these too, other ControlNets those of ade20k alone",
}
"""By palette: who reads its colours; nobody those of others."""


class Coloured(NamedTuple):
    """A segmentation that is painted."""

    picture: Tensor
    """(B, H, W, 3) in [0, 1]."""
    entries: list[Entry]
    """For its legend: the classes that there are, the largest first."""
    said: str
    """Whose colours these are, and who reads them."""


def _own_colours(found: Classes) -> Coloured:
    """Those of the palette that the map has."""
    colours, names = found.palette.table().int().tolist(), found.palette.classes
    entries = [Entry(tuple(colours[number]), f"{names[number]} {share:.1%}") for number, share in found.shares()]
    return Coloured(found.picture(), entries, _said_of(found.palette.name))


def _said_of(palette: str) -> str:
    """Whose colours these are, and which ControlNets read them."""
    reads = READERS.get(palette, "no ControlNet reads these, but those of ade20k, which Render Segmentation gives too")
    return f"Colours of the palette {palette}: {reads}."


def unread(map: PerceptionMap) -> str:
    """What to say of a map whose picture is in colours that not all segmentation ControlNets read; else ""."""
    palette = map.convention.palette
    coloured = TASKS[map.task].picture == "classes" and palette not in (None, "ade20k")
    return _said_of(palette_named(palette or "").name) if coloured else ""


def _ade20k_colours(found: Classes) -> Coloured:
    """Those that ADE20K has for classes of the same name or meaning; black for others."""
    ade20k, names, there = PALETTES["ade20k"], found.palette.classes, counterparts(found.palette)
    colours = [(0, 0, 0) if other < 0 else tuple(ade20k.table()[other].int().tolist()) for other in there]
    others = ["none" if other < 0 else ade20k.classes[other] for other in there]
    words = [name if name == other else f"{name} = {other}" for name, other in zip(names, others)]
    shares = found.shares()
    black = [names[number] for number, _ in shares if there[number] < 0]
    return Coloured(
        in_ade20k(found.index, found.palette),
        [Entry(colours[number], f"{words[number]} {share:.1%}") for number, share in shares],
        _said_of(ade20k.name) + (f" Black, for it has no such class: {', '.join(black)}." if black else ""),
    )


COLOURS: dict[str, Callable[[Classes], Coloured]] = {
    "the map's palette": _own_colours,
    "ade20k, by name": _ade20k_colours,
}
"""In which a segmentation may be painted."""
