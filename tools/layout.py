"""Where the boxes of a graph stand in the editor, and where its wires run: in columns, and never under a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from api_graph import ApiGraph

WIDTH, GAP = 280, 80
"""Of a column, and between two."""
TITLE, SLOT, WIDGET, TEXT, PICTURE = 30, 20, 24, 110, 270
"""Heights: of a box's title, a line of sockets, a widget, a widget of several lines, a picture that a box shows."""
BETWEEN = 40
"""Of two boxes, one above the other."""
LANE = 26
"""Between two wires that run above the boxes."""

Place = tuple[int, int]
Wire = tuple[str, int, str, str]
"""(from node, from output, to node, to input)"""


@dataclass(frozen=True)
class Reroute:
    """A point that wires are led through."""

    place: Place
    wires: list[Wire]
    parent: int | None
    """The point before it, by its place in the list."""


@dataclass
class Layout:
    """Of one graph."""

    places: dict[str, Place] = field(default_factory=dict)
    """The upper left corner of each box, below its title."""
    reroutes: list[Reroute] = field(default_factory=list)
    through: dict[Wire, int] = field(default_factory=dict)
    """The last point on its way, of a wire that is led through some."""


def wires_of(graph: ApiGraph) -> list[Wire]:
    return [
        (value[0], value[1], name, key)
        for name, entry in graph.items()
        for key, value in entry["inputs"].items()
        if isinstance(value, list)
    ]


def _columns_of(graph: ApiGraph, wires: Iterable[Wire], asked: Mapping[str, int]) -> dict[str, int]:
    """Right of everything that it is wired to; what is wired to nothing stands close to what it serves."""
    wires = list(wires)
    columns: dict[str, int] = {}
    for name in graph:  # sources come before what they are wired to
        sources = [columns[source] for source, _, target, _ in wires if target == name]
        columns[name] = max([asked.get(name, 0), *(column + 1 for column in sources)])
    fed = {target for _, _, target, _ in wires}
    for name in graph:
        served = [columns[target] for source, _, target, _ in wires if source == name]
        if name not in fed and served and name not in asked:
            columns[name] = min(served) - 1
    return columns


def arrange(graph: ApiGraph, heights: Mapping[str, int], asked: Mapping[str, int]) -> Layout:
    """A layout; heights: of each box; asked: columns that a graph asks for."""
    wires, found = wires_of(graph), Layout()
    columns = _columns_of(graph, wires, asked)
    bottoms: dict[int, int] = {}
    ends = graph.keys() - {wire[0] for wire in wires}
    for name in sorted(graph, key=ends.__contains__):  # what feeds nothing stands below what does
        column = columns[name]
        top = bottoms.get(column, 0)
        found.places[name] = (column * (WIDTH + GAP), top)
        bottoms[column] = top + heights[name] + TITLE + BETWEEN
    _lead(found, columns, wires)
    return found


def _lead(layout: Layout, columns: Mapping[str, int], wires: list[Wire]) -> None:
    """Wires that pass a column run above it: those of one output together, through a point in the gap before each
    column where one of them leaves or arrives."""
    far: dict[tuple[str, int], list[Wire]] = {}
    for wire in wires:
        if columns[wire[2]] > columns[wire[0]] + 1:
            far.setdefault(wire[:2], []).append(wire)
    for lane, ((source, _), together) in enumerate(far.items()):
        parent = None
        for column in sorted({columns[source] + 1, *(columns[wire[2]] for wire in together)}):
            on = [wire for wire in together if columns[wire[2]] >= column]
            place = (column * (WIDTH + GAP) - GAP // 2, -TITLE - BETWEEN - LANE * lane)
            layout.reroutes.append(Reroute(place, on, parent))
            parent = len(layout.reroutes) - 1
            layout.through |= {wire: parent for wire in on if columns[wire[2]] == column}


def height_of(sockets: int, widgets: int, texts: int = 0, pictures: int = 0) -> int:
    """Of a box with so many lines of sockets, widgets of one line and of several, and pictures that it shows."""
    return SLOT * max(sockets, 1) + WIDGET * widgets + TEXT * texts + PICTURE * pictures + 14
