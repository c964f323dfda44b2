"""Rooms: a seeded plan of walls, furniture, people, light and cameras, made without opening any asset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .assets import Item
from .cameras import Camera, hit_boxes, look_at, pixel_rays
from .furniture import Piece

SKIES = ("night", "city", "courtyard", "forest", "sunrise", "sunset")
"""Environment maps that stand for the outside, the dark one first."""
GAP = 0.02
"""Metres between neighbours, so that no two surfaces lie in one plane."""
BEINGS = ("person", "animal")
"""Classes that the mask of a room is of."""


@dataclass(frozen=True)
class Panel:
    """A flat rectangle: one corner and two edges; its front is edge_u x edge_v."""

    corner: tuple[float, float, float]
    edge_u: tuple[float, float, float]
    edge_v: tuple[float, float, float]
    label: str
    instance: int
    texture: tuple[str, int]
    """Kind and seed of a procedural texture."""
    tile: float = 0.0
    """Metres that the texture covers; 0 stretches it over the panel once."""
    gloss: float = 0.0
    emission: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Placement:
    """A model put into the room."""

    model: str
    """Id of a catalogue item, or `body/<number>`."""
    label: str
    instance: int
    position: tuple[float, float, float]
    """Of the middle of its foot."""
    yaw: float
    """Turn about the vertical in radians; 0 looks to +z."""


@dataclass(frozen=True)
class Room:
    """Everything that a renderer needs to know."""

    name: str
    kind: str
    size: tuple[float, float, float]
    """Metres along x, y (up), z."""
    panels: tuple[Panel, ...]
    placements: tuple[Placement, ...]
    environment: str
    """Name of an environment map."""
    environment_yaw: float
    environment_gain: float
    exposure: float
    """Brightness that the upper quarter of the picture is exposed to."""
    cameras: tuple[Camera, ...]
    subjects: tuple[int, ...] = ()
    """Instances that mask and matte are of: in a room people and animals, in a shot what it is of."""

    def notes(self) -> dict[str, object]:
        """What is written beside every view of the room."""
        models = sorted({placement.model for placement in self.placements})
        return {
            "kind": self.kind,
            "environment": self.environment,
            "models": models,
            "subjects": list(self.subjects),
        }


@dataclass(frozen=True)
class Kind:
    """What a kind of room holds: how many of each wish, in the order in which they take their place."""

    share: float
    size: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    walls: tuple[str, ...]
    floors: tuple[str, ...]
    wishes: tuple[Wish, ...]


@dataclass(frozen=True)
class Wish:
    """Between low and high pieces of the label and role (empty: any), from the named categories (empty: any)."""

    role: str
    label: str
    low: int
    high: int
    category: str = ""


PEOPLE = (Wish("stand", "person", 0, 3), Wish("sit", "person", 0, 2), Wish("lie", "person", 0, 1))
DECOR = (
    Wish("mounted", "", 0, 2),
    Wish("picture", "", 0, 3),
    Wish("free", "plant", 0, 2),
    Wish("free", "", 0, 3),
    Wish("hanging", "lamp", 0, 1),
    Wish("free", "animal", 0, 1),
)
INSIDE = ("paint", "paint", "paint", "colour", "stripes", "dots", "bricks", "stone")
FLOORS = ("planks", "planks", "tiles", "carpet", "stone")

KINDS = {
    "living": Kind(
        0.28,
        ((3.5, 7.0), (2.4, 3.1), (3.5, 7.0)),
        INSIDE,
        FLOORS,
        (
            Wish("wall", "sofa", 1, 2),
            Wish("table", "table", 0, 1, "Living room"),
            Wish("wall", "storage", 1, 3, "Living room"),
            Wish("wall", "object", 0, 1),
            Wish("free", "chair", 1, 3, "Living room"),
            Wish("rug", "textile", 0, 1),
            *PEOPLE,
            *DECOR,
            Wish("small", "", 4, 12),
        ),
    ),
    "bedroom": Kind(
        0.18,
        ((3.0, 5.0), (2.3, 2.8), (3.0, 5.5)),
        INSIDE,
        FLOORS,
        (
            Wish("wall", "bed", 1, 2),
            Wish("wall", "storage", 1, 4, "Bedroom"),
            Wish("desk", "table", 0, 1),
            Wish("free", "chair", 0, 2),
            Wish("rug", "textile", 0, 1),
            *PEOPLE,
            *DECOR,
            Wish("small", "", 3, 10),
        ),
    ),
    "kitchen": Kind(
        0.18,
        ((3.0, 6.0), (2.4, 2.9), (3.0, 6.0)),
        ("paint", "paint", "tiles", "colour", "bricks"),
        ("tiles", "tiles", "planks", "stone"),
        (
            Wish("wall", "appliance", 3, 6, "Kitchen"),
            Wish("wall", "storage", 1, 4, "Kitchen"),
            Wish("mounted", "storage", 0, 3, "Kitchen"),
            Wish("table", "table", 0, 1),
            Wish("free", "chair", 0, 2, "Kitchen"),
            *PEOPLE,
            *DECOR,
            Wish("small", "", 6, 16, "Kitchen"),
        ),
    ),
    "bathroom": Kind(
        0.1,
        ((2.4, 4.5), (2.3, 2.7), (2.4, 4.5)),
        ("tiles", "tiles", "paint", "stone", "colour"),
        ("tiles", "tiles", "stone"),
        (
            Wish("wall", "sanitary", 2, 5),
            Wish("wall", "appliance", 0, 1, "Kitchen"),
            Wish("rug", "textile", 0, 1, "Bathroom"),
            *PEOPLE,
            *DECOR,
            Wish("small", "", 2, 8, "Bathroom"),
        ),
    ),
    "office": Kind(
        0.12,
        ((3.5, 7.0), (2.5, 3.2), (3.5, 7.0)),
        INSIDE,
        ("carpet", "planks", "tiles", "carpet"),
        (
            Wish("desk", "table", 1, 3),
            Wish("table", "table", 0, 2, "Office"),
            Wish("wall", "storage", 1, 3),
            *PEOPLE,
            *DECOR,
            Wish("small", "", 4, 12, "Office|Misc|Living"),
        ),
    ),
    "outdoor": Kind(
        0.14,
        ((16.0, 26.0), (8.0, 8.0), (16.0, 26.0)),
        (),
        ("grass", "gravel", "stone", "bricks", "grass", "gravel"),
        (
            Wish("outdoor", "vehicle", 0, 3),
            Wish("outdoor", "plant", 1, 5),
            Wish("outdoor", "", 3, 8),
            Wish("free", "vehicle", 0, 2),
            Wish("stand", "person", 1, 4),
            Wish("free", "animal", 0, 2),
            Wish("outdoor", "animal", 0, 1),
        ),
    ),
}


def plan_room(number: int, seed: int, pieces: list[Piece], views: int, bodies: Sequence[int] = ()) -> Room:
    """The room of that number: the same for the same arguments, whatever else is rendered.

    bodies: the numbers of the parametric people that may be in it.
    """
    rng = np.random.default_rng([seed, number])
    shares = np.array([kind.share for kind in KINDS.values()])
    name = str(rng.choice(list(KINDS), p=shares / shares.sum()))
    return Builder(KINDS[name], name, rng, pieces, bodies).build(f"{number:05d}", views)


@dataclass
class Builder:
    """A room while it fills: `taken` holds the boxes that nothing else may enter."""

    kind: Kind
    kind_name: str
    rng: np.random.Generator
    pieces: list[Piece]
    bodies: Sequence[int]
    panels: list[Panel] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    taken: list[np.ndarray] = field(default_factory=list)
    """Boxes (2, 3), low and high corner."""
    seen: list[np.ndarray] = field(default_factory=list)
    """The boxes of `taken` that hold something visible."""
    subjects: list[tuple[np.ndarray, str]] = field(default_factory=list)
    tops: list[tuple[np.ndarray, float]] = field(default_factory=list)
    """Boxes of what small things may stand on, and at which height."""
    seats: list[tuple[Placement, Piece]] = field(default_factory=list)
    beds: list[tuple[Placement, Piece]] = field(default_factory=list)
    instances: int = 0

    def build(self, name: str, views: int) -> Room:
        self.size = np.array([self.rng.uniform(*span) for span in self.kind.size])
        # bodies in one half of the rooms, figures in the other: where there are joints, all people have them
        self.parametric = self.rng.random() < 0.5 and len(self.bodies) > 0
        if self.kind.walls:
            self._raise_walls()
        else:
            self._lay_ground()
        for wish in self.kind.wishes:
            for _ in range(self.rng.integers(wish.low, wish.high + 1)):
                self._grant(wish)
        cameras = self._cameras(views)
        return Room(
            name,
            self.kind_name,
            vector(self.size),
            tuple(self.panels),
            tuple(self.placements),
            str(self.rng.choice(SKIES if self.kind.walls else SKIES[1:])),
            float(self.rng.uniform(0, 2 * np.pi)),
            float(np.exp(self.rng.uniform(-0.4, 0.9))),
            float(self.rng.uniform(0.45, 0.85)),
            cameras,
            tuple(placement.instance for placement in self.placements if placement.label in BEINGS),
        )

    def _raise_walls(self) -> None:
        rng, (width, height, depth) = self.rng, self.size
        wall = (str(rng.choice(self.kind.walls)), int(rng.integers(1 << 30)))
        other = (str(rng.choice(self.kind.walls)), int(rng.integers(1 << 30))) if rng.random() < 0.3 else wall
        floor = (str(rng.choice(self.kind.floors)), int(rng.integers(1 << 30)))
        tile, gloss = rng.uniform(1.2, 2.5), rng.choice([0.0, 0.2, 0.5])
        self._panel((0, 0, depth), (width, 0, 0), (0, 0, -depth), "floor", floor, tile, float(gloss))
        ceiling = ("paint", int(rng.integers(1 << 30)))
        self._panel((0, height, 0), (width, 0, 0), (0, 0, depth), "ceiling", ceiling, 3.0)
        windows, doors = self._of("window", ""), self._of("door", "")
        first = int(rng.integers(4))
        for number in range(4):
            holes = []
            if number == first or rng.random() < 0.3:
                holes = self._windows(number, windows, int(rng.integers(1, 3)))
            elif doors and (number == (first + 2) % 4 or rng.random() < 0.3):
                self._door(number, doors[int(rng.integers(len(doors)))])
            self._wall(number, wall if number != (first + 1) % 4 else other, tile, holes)
        self._ceiling_lights()

    def _wall(self, number: int, texture: tuple[str, int], tile: float, holes: list[tuple[float, ...]]) -> None:
        """One wall as strips beside, below and above its holes (from, to, low, high)."""
        start, along, _, length = self._frame(number)
        height, at = self.size[1], 0.0
        for low_s, high_s, low_y, high_y in sorted(holes):
            self._strip(start, along, at, low_s, 0.0, height, texture, tile)
            self._strip(start, along, low_s, high_s, 0.0, low_y, texture, tile)
            self._strip(start, along, low_s, high_s, high_y, height, texture, tile)
            at = high_s
        self._strip(start, along, at, length, 0.0, height, texture, tile)

    def _strip(
        self,
        start: np.ndarray,
        along: np.ndarray,
        s0: float,
        s1: float,
        y0: float,
        y1: float,
        texture: tuple[str, int],
        tile: float,
    ) -> None:
        if s1 - s0 > 1e-3 and y1 - y0 > 1e-3:
            corner = start + along * s0 + np.array([0, y0, 0])
            self._panel(corner, along * (s1 - s0), (0, y1 - y0, 0), "wall", texture, tile)

    def _frame(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Of a wall: where it starts on the floor, the unit along it, its normal into the room, its length."""
        width, _, depth = self.size
        starts = ((0, 0, 0), (width, 0, 0), (width, 0, depth), (0, 0, depth))
        alongs = ((1, 0, 0), (0, 0, 1), (-1, 0, 0), (0, 0, -1))
        along = np.array(alongs[number], float)
        normal = np.array([-along[2], 0.0, along[0]])
        return np.array(starts[number], float), along, normal, float(width if number % 2 == 0 else depth)

    def _windows(self, number: int, windows: list[Piece], count: int) -> list[tuple[float, ...]]:
        """Put windows into a wall; say their holes."""
        start, along, normal, length = self._frame(number)
        holes: list[tuple[float, ...]] = []
        fitting = [
            w for w in windows if w.item.elevation + w.item.height < self.size[1] - 0.1 and w.item.width < length - 0.6
        ]
        if not fitting:
            return holes
        piece = fitting[int(self.rng.integers(len(fitting)))]
        item = piece.item
        for _ in range(count):
            middle = self.rng.uniform(0.3 + item.width / 2, length - 0.3 - item.width / 2)
            hole = (middle - item.width / 2, middle + item.width / 2, item.elevation, item.elevation + item.height)
            if any(hole[0] < other[1] + 0.2 and hole[1] > other[0] - 0.2 for other in holes):
                continue
            holes.append(hole)
            foot = start + along * middle + normal * (0.03 - item.depth / 2) + [0, item.elevation, 0]
            self._put(piece, foot, _yaw(normal), keep_clear=False)
            self._reserve(start + along * hole[0], start + along * hole[1] + normal * 0.35, hole[2], hole[3])
        return holes

    def _door(self, number: int, piece: Piece) -> None:
        start, along, normal, length = self._frame(number)
        item = piece.item
        if item.width > length - 0.4 or item.height > self.size[1] - 0.05:
            return
        middle = self.rng.uniform(0.2 + item.width / 2, length - 0.2 - item.width / 2)
        # most of its depth is frame inside the wall
        foot = start + along * middle + normal * (0.04 - item.depth / 2)
        self._put(piece, foot, _yaw(normal), keep_clear=False)
        side = along * item.width / 2
        self._reserve(start + along * middle - side, start + along * middle + side + normal * 0.8, 0.0, item.height)

    def _ceiling_lights(self) -> None:
        rng, (width, height, depth) = self.rng, self.size
        across, along = (1, 1) if rng.random() < 0.6 else (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        side = rng.uniform(0.3, 1.0) if across * along == 1 else rng.uniform(0.15, 0.45)
        warm = rng.uniform(0.0, 1.0)
        power = float(np.exp(rng.uniform(0.0, 1.6)) * 9 / (side**2 * across * along))
        colour = (power, power * (1 - 0.22 * warm), power * (1 - 0.5 * warm))
        for i in range(across):
            for j in range(along):
                x, z = width * (i + 0.5) / across, depth * (j + 0.5) / along
                self.instances += 1
                corner = (x - side / 2, height - 0.015, z - side / 2)
                self.panels.append(
                    Panel(
                        vector(corner),
                        (side, 0.0, 0.0),
                        (0.0, 0.0, side),
                        "lamp",
                        self.instances,
                        ("paint", 0),
                        emission=colour,
                    )
                )

    def _lay_ground(self) -> None:
        rng, (width, _, depth) = self.rng, self.size
        texture = (str(rng.choice(self.kind.floors)), int(rng.integers(1 << 30)))
        far = 60.0
        self._panel(
            (-far, 0, depth + far),
            (width + 2 * far, 0, 0),
            (0, 0, -depth - 2 * far),
            "ground",
            texture,
            float(rng.uniform(1.5, 4.0)),
        )

    def _panel(
        self,
        corner: Iterable[float],
        edge_u: Iterable[float],
        edge_v: Iterable[float],
        label: str,
        texture: tuple[str, int],
        tile: float,
        gloss: float = 0.0,
    ) -> None:
        self.panels.append(Panel(vector(corner), vector(edge_u), vector(edge_v), label, 0, texture, tile, gloss))

    def _of(self, role: str, label: str, category: str = "") -> list[Piece]:
        return [
            p
            for p in self.pieces
            if p.role == role
            and label in ("", p.label)
            and (not category or any(word in p.item.category for word in category.split("|")))
        ]

    def _grant(self, wish: Wish) -> None:
        if wish.role == "picture":
            return self._hang_picture()
        if self.parametric and wish.label == "person":
            return self._stand_body()
        choice = self._of(wish.role, wish.label, wish.category)
        if not choice:
            return None
        piece = choice[int(self.rng.integers(len(choice)))]
        {
            "wall": self._at_wall,
            "desk": self._at_wall,
            "mounted": self._mount,
            "hanging": self._hang,
            "rug": self._on_floor,
            "small": self._on_top,
            "sit": self._on_seat,
            "lie": self._on_bed,
        }.get(wish.role, self._on_floor)(piece)

    def _at_wall(self, piece: Piece) -> None:
        """Back to a wall, where it first fits."""
        item = piece.item
        for _ in range(25):
            start, along, normal, length = self._frame(int(self.rng.integers(4)))
            if item.width > length - 0.1 or item.height > self.size[1] - 0.1:
                continue
            at = self.rng.uniform(item.width / 2 + 0.05, length - item.width / 2 - 0.05)
            foot = start + along * at + normal * (item.depth / 2 + 0.03) + [0, max(item.elevation, 0), 0]
            if self._free(self._box(piece, foot, _yaw(normal))):
                placed = self._put(piece, foot, _yaw(normal))
                self._accompany(piece, placed, foot, along, normal)
                return

    def _accompany(
        self, piece: Piece, placed: Placement, foot: np.ndarray, along: np.ndarray, normal: np.ndarray
    ) -> None:
        """What goes with a piece at a wall: a table before a sofa, a chair at a desk."""
        item = piece.item
        if piece.label == "sofa" and self.rng.random() < 0.7:
            table = self._pick("low table", "table")
            if table is not None:
                away = item.depth / 2 + table.item.depth / 2 + self.rng.uniform(0.3, 0.5)
                self._try(table, foot + normal * away, _yaw(normal))
        if piece.role == "desk":
            self._chair_at(item, foot, normal)

    def _chair_at(self, table: object, foot: np.ndarray, side: np.ndarray, reach: float | None = None) -> None:
        """A chair that looks at the table from the side that the unit vector points to."""
        chair = self._pick("free", "chair", "Office|Living room|Kitchen", 0.75, 1.1)
        if chair is not None:
            half = table.depth / 2 if reach is None else reach  # type: ignore[attr-defined]
            away = half + chair.item.depth / 2 - self.rng.uniform(-0.15, 0.2)
            turn = _yaw(-side) + self.rng.normal(0, 0.15)
            spot = foot * [1, 0, 1] + side * away
            box = self._box(chair, spot, turn)
            shy = box.copy()
            # a seat may slide under the table, its back may not
            shy[0, 1], shy[1, 1] = box[1, 1] - 0.2, box[1, 1]
            if self._free(shy):
                self._put(chair, spot, turn)

    def _on_floor(self, piece: Piece) -> None:
        for _ in range(30):
            yaw = float(self.rng.uniform(-np.pi, np.pi))
            if piece.role in ("table", "rug"):
                yaw = float(self.rng.integers(4)) * np.pi / 2 + self.rng.normal(0, 0.03)
            if self._try(piece, self._somewhere(piece, yaw), yaw):
                if piece.role == "table":
                    self._chairs_round(piece)
                return

    def _chairs_round(self, piece: Piece) -> None:
        placed, item = self.placements[-1], piece.item
        foot = np.array(placed.position)
        front = np.array([np.sin(placed.yaw), 0, np.cos(placed.yaw)])
        side = np.array([np.cos(placed.yaw), 0, -np.sin(placed.yaw)])
        count = max(1, int(item.width / 0.7))
        for direction in (front, -front):
            for k in range(count):
                if self.rng.random() < 0.8:
                    shift = side * item.width * ((k + 0.5) / count - 0.5)
                    self._chair_at(item, foot + shift, direction)
        for direction in (side, -side):
            if item.depth > 0.7 and self.rng.random() < 0.6:
                self._chair_at(item, foot, direction, item.width / 2)

    def _stand_body(self) -> None:
        """A parametric body; its size is that of a tall person with arms spread a little."""
        for _ in range(30):
            foot = np.array([self.rng.uniform(0.5, self.size[0] - 0.5), 0, self.rng.uniform(0.5, self.size[2] - 0.5)])
            box = np.array([foot - [0.4, 0, 0.4], foot + [0.4, 1.8, 0.4]])
            if self._free(box):
                number = self.bodies[int(self.rng.integers(len(self.bodies)))]
                self._note(
                    Placement(
                        f"body/{number:04d}",
                        "person",
                        self._next(),
                        vector(foot),
                        float(self.rng.uniform(-np.pi, np.pi)),
                    ),
                    box,
                )
                return

    def _on_top(self, piece: Piece) -> None:
        """On a table or a cupboard; on the floor now and then."""
        item = piece.item
        for _ in range(12):
            yaw = float(self.rng.normal(0, 0.6))
            if not self.tops or self.rng.random() < 0.07:
                if self._try(piece, self._somewhere(piece, yaw), yaw):
                    return
                continue
            under, height = self.tops[int(self.rng.integers(len(self.tops)))]
            half = np.hypot(item.width, item.depth) / 2
            low, high = under[0] + half, under[1] - half
            if low[0] >= high[0] or low[2] >= high[2]:
                continue
            foot = np.array([self.rng.uniform(low[0], high[0]), height, self.rng.uniform(low[2], high[2])])
            if self._free(self._box(piece, foot, yaw), 0.0, under):
                self._put(piece, foot, yaw)
                return

    def _on_seat(self, piece: Piece) -> None:
        """A sitting figure with its back against that of a chair or a sofa."""
        if not self.seats:
            return
        seat, seat_piece = self.seats.pop(int(self.rng.integers(len(self.seats))))
        front = np.array([np.sin(seat.yaw), 0, np.cos(seat.yaw)])
        back = 0.12 if seat_piece.label == "chair" else 0.3
        # the figure's own back is behind the middle of its box by half its depth
        shift = -seat_piece.item.depth / 2 + back + piece.item.depth / 2
        foot = np.array(seat.position) * [1, 0, 1] + front * shift
        box = self._box(piece, foot, seat.yaw)
        legs = box.copy()
        if self._inside(box):
            self._note(Placement(piece.item.id, piece.label, self._next(), vector(foot), seat.yaw), legs)

    def _on_bed(self, piece: Piece) -> None:
        if not self.beds:
            return
        bed, bed_piece = self.beds.pop(int(self.rng.integers(len(self.beds))))
        if bed_piece.item.width < piece.item.width:
            return
        foot = np.array(bed.position) + [0, bed_piece.item.top, 0]
        self._note(
            Placement(piece.item.id, piece.label, self._next(), vector(foot), bed.yaw + np.pi),
            self._box(piece, foot, bed.yaw),
        )

    def _mount(self, piece: Piece) -> None:
        item = piece.item
        for _ in range(25):
            start, along, normal, length = self._frame(int(self.rng.integers(4)))
            if item.width > length - 0.2 or item.elevation + item.height > self.size[1]:
                continue
            at = self.rng.uniform(item.width / 2 + 0.05, length - item.width / 2 - 0.05)
            foot = start + along * at + normal * (item.depth / 2 + 0.005) + [0, item.elevation, 0]
            if self._try(piece, foot, _yaw(normal)):
                return

    def _hang(self, piece: Piece) -> None:
        """From the ceiling, over the middle of the room or thereabouts."""
        item = piece.item
        height = self.size[1] - item.height - 0.02
        if height < 1.5:
            return
        x, z = self.rng.uniform(0.3, 0.7) * self.size[0], self.rng.uniform(0.3, 0.7) * self.size[2]
        self._try(piece, np.array([x, height, z]), float(self.rng.uniform(-np.pi, np.pi)))

    def _hang_picture(self) -> None:
        rng = self.rng
        wide, tall, thick = rng.uniform(0.25, 1.1), rng.uniform(0.25, 0.9), 0.025
        for _ in range(15):
            start, along, normal, length = self._frame(int(rng.integers(4)))
            if wide > length - 0.4:
                continue
            at, low = rng.uniform(0.2, length - 0.2 - wide), rng.uniform(1.1, 1.6)
            if low + tall > self.size[1] - 0.1:
                continue
            corner = start + along * at + [0, low, 0]
            box = np.sort([corner, corner + along * wide + [0, tall, 0] + normal * thick], axis=0)
            if self._free(box, 0.0):
                instance = self._next()
                self.taken.append(box)
                self.seen.append(box)
                self._frame_picture(corner, along, normal, wide, tall, thick, instance)
                return

    def _frame_picture(
        self,
        corner: np.ndarray,
        along: np.ndarray,
        normal: np.ndarray,
        wide: float,
        tall: float,
        thick: float,
        instance: int,
    ) -> None:
        """A shallow box and, a hair before it, the picture."""
        rng, up = self.rng, np.array([0.0, tall, 0.0])
        frame, art = ("colour", int(rng.integers(1 << 30))), ("artwork", int(rng.integers(1 << 30)))
        out, wide_v, border = normal * thick, along * wide, rng.uniform(0.01, 0.06)
        inner = corner + out + normal * 0.001 + along * border + [0, border, 0]
        faces = (
            (corner + out, wide_v, up, frame),
            (corner, out, up, frame),
            (corner + wide_v + out, -out, up, frame),
            (corner + up + out, wide_v, -out, frame),
            (corner, wide_v, out, frame),
            (inner, along * (wide - 2 * border), np.array([0, tall - 2 * border, 0]), art),
        )
        for at, u, v, texture in faces:
            self.panels.append(Panel(vector(at), vector(u), vector(v), "picture", instance, texture, 0.0, 0.2))

    def _pick(self, role: str, label: str, category: str = "", low: float = 0.0, high: float = 9.0) -> Piece | None:
        choice = [p for p in self._of(role, label, category) if low <= p.item.height < high]
        return choice[int(self.rng.integers(len(choice)))] if choice else None

    def _somewhere(self, piece: Piece, yaw: float) -> np.ndarray:
        half = self._box(piece, np.zeros(3), yaw)[1]
        low, high = half[[0, 2]] + 0.05, self.size[[0, 2]] - half[[0, 2]] - 0.05
        x, z = self.rng.uniform(np.minimum(low, high), np.maximum(low, high))
        return np.array([x, 0.0, z])

    def _try(self, piece: Piece, foot: np.ndarray, yaw: float) -> bool:
        box = self._box(piece, foot, yaw)
        fits = self._inside(box) and (piece.role == "rug" or self._free(box))
        if fits:
            self._put(piece, foot, yaw, keep_clear=piece.role != "rug")
        return fits

    def _put(self, piece: Piece, foot: np.ndarray, yaw: float, keep_clear: bool = True) -> Placement:
        placement = Placement(piece.item.id, piece.label, self._next(), vector(foot), float(yaw))
        box = self._box(piece, foot, yaw)
        if keep_clear:
            self._note(placement, box)
        else:
            self.placements.append(placement)
        if piece.label in ("chair", "sofa") and 0.6 < piece.item.height < 1.2:
            self.seats.append((placement, piece))
        elif piece.label == "bed" and 0.2 < piece.item.top < 0.8:
            self.beds.append((placement, piece))
        elif piece.role in ("wall", "table", "desk", "low table") and 0.2 < piece.item.top < 1.5:
            self.tops.append((box, foot[1] + piece.item.top + 0.002))
        return placement

    def _note(self, placement: Placement, box: np.ndarray) -> None:
        self.placements.append(placement)
        self.taken.append(box)
        self.seen.append(box)
        self.subjects.append((box, placement.label))

    def _next(self) -> int:
        self.instances += 1
        return self.instances

    def _box(self, piece: Piece, foot: np.ndarray, yaw: float) -> np.ndarray:
        return upright_box(piece.item, foot, yaw)

    def _reserve(self, one: np.ndarray, other: np.ndarray, low: float, high: float) -> None:
        box = np.sort([one, other], axis=0)
        box[0, 1], box[1, 1] = low, high
        self.taken.append(box)

    def _inside(self, box: np.ndarray) -> bool:
        return bool((box[0] > -0.01).all() and (box[1] < self.size + 0.01).all())

    def _free(self, box: np.ndarray, gap: float = GAP, but: np.ndarray | None = None) -> bool:
        """Inside the room and clear of all that is taken, `but` one."""
        others = (other for other in self.taken if other is not but)
        return self._inside(box) and not any(
            (box[0] < other[1] + gap).all() and (box[1] > other[0] - gap).all() for other in others
        )

    def _cameras(self, views: int) -> tuple[Camera, ...]:
        """The best of several tries for each view."""
        return tuple(max((self._camera() for _ in range(24)), key=self._worth) for _ in range(views))

    def _camera(self) -> Camera:
        rng = self.rng
        inside = bool(self.kind.walls)
        boxes = np.array(self.seen) if self.seen else np.zeros((0, 2, 3))
        position = self.size / 2
        for _ in range(40):
            height = rng.choice(
                [rng.uniform(0.5, 1.0), rng.uniform(1.1, 1.8), rng.uniform(1.8, 2.2)], p=[0.15, 0.7, 0.15]
            )
            x, z = rng.uniform(0.25, 1, 2) * (self.size[[0, 2]] - 0.25)
            position = np.array([x, min(height, self.size[1] - 0.3), z])
            if not ((position > boxes[:, 0] - 0.25) & (position < boxes[:, 1] + 0.25)).all(axis=1).any():
                break
        target = self._target(position)
        fov = rng.uniform(48, 85) if inside else rng.uniform(35, 70)
        return look_at(position, target, float(rng.normal(0, 1.5)), float(fov))

    def _target(self, position: np.ndarray) -> np.ndarray:
        rng = self.rng
        people = [box for box, label in self.subjects if label in BEINGS]
        boxes = people if people and rng.random() < 0.55 else [box for box, _ in self.subjects]
        far = [box for box in boxes if np.linalg.norm(box.mean(0) - position) > 1.0]
        if not far or rng.random() < 0.1:
            middle = self.size * [rng.uniform(0.2, 0.8), 0, rng.uniform(0.2, 0.8)] + [0, rng.uniform(0.4, 1.5), 0]
        else:
            box = far[int(rng.integers(len(far)))]
            middle = rng.uniform(*box) + rng.normal(0, 0.15, 3)
            middle[1] = np.clip(middle[1], 0.3, 1.7)
        sideways = middle - position
        sideways[1] = 0
        if np.linalg.norm(sideways) < 0.3:
            middle, sideways = middle + [0.5, 0.0, 0.5], sideways + [0.5, 0.0, 0.5]
        # people seldom photograph the floor or the ceiling
        away = float(np.linalg.norm(sideways))
        middle[1] = np.clip(middle[1], position[1] - 0.55 * away, position[1] + 0.2 * away)
        return middle

    def _worth(self, camera: Camera) -> float:
        """Many things, none too near, no blank wall; judged on boxes, which are never smaller than what they hold."""
        origin, directions = pixel_rays(camera, 16, 16)
        directions = directions.reshape(-1, 3)
        boxes = np.array(self.seen).reshape(-1, 2, 3) if self.seen else np.full((1, 2, 3), np.inf)
        distance, which = hit_boxes(origin, directions, boxes)
        shell = self._shell_distance(origin, directions)
        found, counts = np.unique(which[distance < shell], return_counts=True)
        distance = np.minimum(distance, shell)
        largest = counts.max() / len(directions) if len(counts) else 1.0
        people = {
            i for i, box in enumerate(self.seen) for other, label in self.subjects if label == "person" and box is other
        }
        watched = 0.6 if people & set(found[counts >= 6].tolist()) else 0.0
        return (
            min((counts >= 3).sum(), 8) / 4
            + watched
            - 6 * max(0.0, 0.5 - np.percentile(distance, 3))
            - 2 * max(0.0, 1.4 - float(np.median(distance)))
            - 4 * max(0.0, largest - 0.5)
            - (2.0 if counts.sum() < 50 else 0.0)
        )

    def _shell_distance(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """To the walls, floor and ceiling from within; outdoors to the ground alone."""
        far = np.where(np.abs(directions) < 1e-9, 1e-9, directions)
        planes = np.where(directions > 0, (self.size - origin) / far, -origin / far)
        if self.kind.walls:
            return planes.min(axis=1)
        return np.where(directions[:, 1] < 0, planes[:, 1], 60.0)


def upright_box(item: Item, foot: np.ndarray, yaw: float) -> np.ndarray:
    """The box (2, 3), low and high corner, round a model turned about the vertical that stands on `foot` (3,)."""
    cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
    half = np.array([item.width * cos + item.depth * sin, 0, item.width * sin + item.depth * cos]) / 2
    return np.array([foot - half, foot + half + [0, item.height, 0]])


def _yaw(direction: np.ndarray) -> float:
    return float(np.arctan2(direction[0], direction[2]))


def vector(values: Iterable[float]) -> tuple[float, float, float]:
    """Three numbers as plain floats."""
    x, y, z = (float(value) for value in values)
    return x, y, z
