"""Shots: a seeded plan of one to three things near the camera, on a ground or a table, before an environment.

A shot is a `Room` without a room: the same panels, placements and cameras, so that every renderer knows what to do with
it. Its subjects are what it is of, whatever they are; scenery behind them, ground, table and wall are not. No asset is
opened to plan one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..core.errors import UserError
from .cameras import Camera, look_at
from .furniture import Piece
from .rooms import GAP, Panel, Placement, Room, Wish, upright_box, vector

FILM_MM = 36.0
"""Width of the film that focal lengths are said for."""
FAR = 60.0
"""Metres from the middle to where the ground ends."""
THICKNESS = 0.035
"""Metres of a table top."""
LOWEST = 0.06
"""Metres above the ground that a camera keeps."""


@dataclass(frozen=True)
class Light:
    """A square lamp that looks at the subjects from outside of every picture."""

    side: tuple[float, float]
    """Of its distance: what is small throws hard shadows."""
    strength: tuple[float, float]
    """What arrives from it, in units of an even sky's radiance."""
    distance: float = 4.0
    """In radii of the subjects."""


SOFTBOX = Light((0.4, 0.8), (1.0, 4.0))
LAMP = Light((0.04, 0.12), (1.0, 5.0))
SUN = Light((0.01, 0.02), (3.0, 10.0), 40.0)

LIGHTS: tuple[tuple[float, tuple[Light, ...]], ...] = (
    (0.2, ()),  # the environment alone
    (0.25, (SOFTBOX,)),
    (0.15, (LAMP,)),
    (0.1, (SOFTBOX, LAMP)),
    (0.3, (SUN,)),
)
"""Which lamps there are beside the environment, each row with its share."""

OUTDOORS = (
    *("city", "courtyard", "forest", "night", "sunrise", "sunset"),
    *(f"pmndrs-{name}" for name in ("city", "dawn", "forest", "night", "park", "sky", "sunrise", "sunset", "venice")),
)
INDOORS = (
    *("interior", "studio"),
    *(f"pmndrs-{name}" for name in ("apartment", "bridge", "esplanade", "hall", "lab", "lobby", "studio")),
    *("pmndrs-warehouse", "pmndrs-workshop"),
)
OPEN = ("grass", "gravel", "stone", "bricks")
FLOORS = ("planks", "tiles", "carpet", "stone")
WALLS = ("paint", "colour", "bricks", "stone", "planks", "stripes", "artwork")
TOPS = ("planks", "stone", "paint", "colour", "tiles")
LABELS = {"planks": "floor", "tiles": "floor", "carpet": "floor"}
"""Class of a ground by its texture; any other is `ground`."""

GARDEN = (Wish("outdoor", "plant", 0, 3), Wish("outdoor", "object", 0, 2), Wish("outdoor", "chair", 0, 1))
FURNISHED = (Wish("wall", "storage", 0, 1), Wish("free", "chair", 0, 2), Wish("free", "plant", 0, 1))


@dataclass(frozen=True)
class Kind:
    """What a kind of shot is of, and how it is taken."""

    share: float
    subjects: tuple[Wish, ...]
    """One to three things; the first wish is always granted."""
    cut: tuple[float, float] = (0.0, 0.0)
    """Share of their height, from the foot, that the picture leaves out."""
    focal_mm: tuple[float, float] = (24.0, 85.0)
    """For 35-mm film, across the picture."""
    fill: tuple[float, float] = (0.65, 0.97)
    """Share of the picture's width or height, whichever is fuller, that the box round what is framed takes."""
    elevation_deg: tuple[float, float] = (-5.0, 20.0)
    """How far the camera looks down."""
    turn_deg: float = 40.0
    """Deviation of where the camera stands from straight ahead of the subjects."""
    skies: tuple[str, ...] = (*OUTDOORS, *INDOORS)
    grounds: tuple[str, ...] = (*OPEN, *FLOORS)
    """Textures; without one (empty) the environment goes all the way down."""
    table: tuple[float, float] | None = None
    """Height of the table top that they stand on."""
    wall: float = 0.0
    """How often there is a wall behind."""
    scenery: tuple[Wish, ...] = ()
    unlike: float = 4.0
    """How many times as long as another the longest side of a subject may be."""


KINDS = {
    "portrait": Kind(
        0.2,
        (Wish("stand", "person", 1, 2),),
        cut=(0.5, 0.84),
        focal_mm=(35.0, 85.0),
        fill=(0.75, 0.97),
        elevation_deg=(-8.0, 12.0),
        turn_deg=30.0,
        grounds=("", "", *OPEN, *FLOORS),
        wall=0.3,
        scenery=GARDEN,
        unlike=1.4,
    ),
    "figure": Kind(
        0.16, (Wish("stand", "person", 1, 1),), elevation_deg=(-4.0, 18.0), turn_deg=45.0, wall=0.25, scenery=GARDEN
    ),
    "group": Kind(
        0.08,
        (Wish("stand", "person", 2, 3),),
        cut=(0.0, 0.5),
        elevation_deg=(-4.0, 12.0),
        wall=0.2,
        scenery=GARDEN,
        unlike=1.6,
    ),
    "lying": Kind(0.03, (Wish("lie", "person", 1, 1),), elevation_deg=(8.0, 45.0), turn_deg=90.0, wall=0.2),
    "company": Kind(
        0.06,
        (Wish("stand", "person", 1, 1), Wish("free", "animal", 1, 1)),
        elevation_deg=(-2.0, 20.0),
        skies=OUTDOORS,
        scenery=GARDEN,
    ),
    "pet": Kind(0.12, (Wish("free", "animal", 1, 2),), elevation_deg=(0.0, 35.0), turn_deg=70.0, wall=0.25),
    "horse": Kind(
        0.03, (Wish("outdoor", "animal", 1, 1),), turn_deg=70.0, skies=OUTDOORS, grounds=OPEN, scenery=GARDEN
    ),
    "product": Kind(
        0.16,
        (Wish("small", "", 1, 3),),
        focal_mm=(35.0, 85.0),
        fill=(0.55, 0.97),
        elevation_deg=(8.0, 50.0),
        turn_deg=50.0,
        skies=INDOORS,
        grounds=FLOORS,
        table=(0.4, 1.0),
        wall=0.4,
    ),
    "furniture": Kind(
        0.06,
        (Wish("free", "chair|object|lamp", 1, 2),),
        elevation_deg=(0.0, 30.0),
        turn_deg=45.0,
        skies=INDOORS,
        grounds=FLOORS,
        wall=0.5,
        scenery=FURNISHED,
    ),
    "plant": Kind(0.04, (Wish("free", "plant", 1, 2),), elevation_deg=(-2.0, 30.0), turn_deg=180.0),
    "tree": Kind(
        0.02,
        (Wish("outdoor", "plant", 1, 1),),
        focal_mm=(24.0, 50.0),
        elevation_deg=(-15.0, 5.0),
        turn_deg=180.0,
        skies=OUTDOORS,
        grounds=OPEN,
        scenery=GARDEN,
    ),
    "vehicle": Kind(
        0.06,
        (Wish("outdoor", "vehicle", 1, 2),),
        elevation_deg=(-2.0, 22.0),
        turn_deg=60.0,
        skies=OUTDOORS,
        grounds=(*OPEN, "tiles"),
        scenery=GARDEN,
        unlike=2.5,
    ),
    "cycle": Kind(
        0.02,
        (Wish("free", "vehicle", 1, 1),),
        elevation_deg=(0.0, 25.0),
        turn_deg=80.0,
        grounds=(*OPEN, "tiles"),
        wall=0.2,
    ),
    "outside": Kind(
        0.04,
        (Wish("outdoor", "object|chair|lamp", 1, 2),),
        elevation_deg=(-4.0, 25.0),
        turn_deg=60.0,
        skies=OUTDOORS,
        grounds=OPEN,
        scenery=GARDEN,
    ),
}


def plan_shot(number: int, seed: int, pieces: list[Piece], views: int, aspect: float = 1.0) -> Room:
    """The shot of that number: the same for the same arguments, whatever else is rendered.

    pieces: those that it may show, bodies among them; aspect: width by height of the pictures, which the subjects are
    framed for. UserError if no kind of shot can be made of the pieces.
    """
    rng = np.random.default_rng([seed, number, 1])
    cast = _cast(pieces, rng.random() < 0.5)
    able = {name: kind for name, kind in KINDS.items() if all(_choices(cast, wish) for wish in kind.subjects)}
    if not able:
        raise UserError(
            f"Shots are of people, animals, plants, vehicles or small things, and none is among {len(pieces)} models; "
            f"fetch the catalogue, or give more --bodies."
        )
    shares = np.array([kind.share for kind in able.values()])
    name = str(rng.choice(list(able), p=shares / shares.sum()))
    return Composer(able[name], name, rng, cast, aspect).compose(f"{number:05d}", views)


def _choices(pieces: list[Piece], wish: Wish) -> list[Piece]:
    """What a wish may be granted with."""
    roles, labels = wish.role.split("|"), wish.label.split("|")
    return [piece for piece in pieces if piece.role in roles and (piece.label in labels or not wish.label)]


def _length(piece: Piece) -> float:
    """Its longest side in metres."""
    return max(piece.item.width, piece.item.height, piece.item.depth)


def is_subject(piece: Piece) -> bool:
    """Whether a shot may be of it."""
    return any(_choices([piece], wish) for kind in KINDS.values() for wish in kind.subjects)


def _cast(pieces: list[Piece], parametric: bool) -> list[Piece]:
    """Either bodies or figures: where there are joints, all people have them."""
    people = [piece for piece in pieces if piece.label == "person"]
    bodies = [piece for piece in people if piece.item.id.startswith("body/")]
    figures = [piece for piece in people if piece not in bodies]
    chosen = (bodies or figures) if parametric else (figures or bodies)
    return [piece for piece in pieces if piece.label != "person"] + chosen


@dataclass(frozen=True)
class _Subject:
    placement: Placement
    piece: Piece
    box: np.ndarray


@dataclass
class Composer:
    """A shot while it is set up: subjects, cameras on them, then what must not come between."""

    kind: Kind
    kind_name: str
    rng: np.random.Generator
    pieces: list[Piece]
    aspect: float
    subjects: list[_Subject] = field(default_factory=list)
    scenery: list[_Subject] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    instances: int = 0

    def compose(self, name: str, views: int) -> Room:
        self.gain = float(np.exp(self.rng.uniform(-0.4, 0.9)))
        self.has_wall = self.rng.random() < self.kind.wall
        self.back = -FAR
        self._place_subjects()
        boxes = np.array([subject.box for subject in self.subjects])
        self.whole = np.array([boxes[:, 0].min(0), boxes[:, 1].max(0)])
        cameras = tuple(self._camera() for _ in range(views))
        self._lay_ground()
        self._set_table()
        self._raise_wall()
        self._light(cameras)
        self._place_scenery(cameras)
        return Room(
            name,
            self.kind_name,
            vector(self.whole[1] - self.whole[0]),
            tuple(self.panels),
            tuple(each.placement for each in (*self.subjects, *self.scenery)),
            str(self.rng.choice(self.kind.skies)),
            float(self.rng.uniform(0, 2 * np.pi)),
            self.gain,
            float(self.rng.uniform(0.4, 0.75)),
            cameras,
            tuple(subject.placement.instance for subject in self.subjects),
        )

    def _place_subjects(self) -> None:
        """On the ground or the table, side by side about the middle, each turned a little its own way."""
        self.top = 0.0 if self.kind.table is None else float(self.rng.uniform(*self.kind.table))
        chosen: list[Piece] = []
        for wish in self.kind.subjects:
            chosen += self._grant(wish, chosen)
        yaws = self.rng.normal(0, np.radians(25), len(chosen))
        for piece, yaw, (x, z) in zip(chosen, yaws, self._spots(chosen, yaws)):
            # a hair above a table, whose top would else share a plane with what stands on it
            foot = np.array([x, self.top + 0.002 * (self.kind.table is not None), z])
            self.subjects.append(self._put(piece, foot, float(yaw)))

    def _spots(self, chosen: list[Piece], yaws: np.ndarray) -> np.ndarray:
        """Where the things stand, (n, 2): across with gaps between them, and a little ahead of or behind each other."""
        size = max(max(piece.item.width, piece.item.depth) for piece in chosen)
        boxes = [upright_box(piece.item, np.zeros(3), yaw) for piece, yaw in zip(chosen, yaws)]
        widths = np.array([np.ptp(box[:, 0]) for box in boxes])
        gaps = self.rng.uniform(GAP, 0.2 * size + GAP, len(chosen))
        across = np.cumsum(widths + gaps) - gaps - widths / 2
        ahead = self.rng.normal(0, 0.12 * size, len(chosen)) * (len(chosen) > 1)
        return np.stack([across - (across[0] + across[-1]) / 2, ahead], axis=1)

    def _grant(self, wish: Wish, company: list[Piece]) -> list[Piece]:
        """As many as the wish says, each once, none so small beside the first that it would be lost."""
        granted: list[Piece] = []
        unlike = self.kind.unlike
        for _ in range(int(self.rng.integers(wish.low, wish.high + 1))):
            first = next(iter((*company, *granted)), None)
            found = [
                piece
                for piece in _choices(self.pieces, wish)
                if piece not in granted and (first is None or 1 / unlike < _length(piece) / _length(first) < unlike)
            ]
            granted += [found[int(self.rng.integers(len(found)))]] if found else []
        return granted

    def _put(self, piece: Piece, foot: np.ndarray, yaw: float) -> _Subject:
        placement = Placement(piece.item.id, piece.label, self._next(), vector(foot), yaw)
        return _Subject(placement, piece, upright_box(piece.item, foot, yaw))

    def _next(self) -> int:
        self.instances += 1
        return self.instances

    def _camera(self) -> Camera:
        """As far away as fills the picture, then moved aside within what is left of it."""
        corners, towards = _framed(self.subjects, float(self.rng.uniform(*self.kind.cut))), self._to_camera()
        low, high = np.log(self.kind.focal_mm)
        fov = float(np.degrees(2 * np.arctan(FILM_MM / 2 / np.exp(self.rng.uniform(low, high)))))
        fill = float(self.rng.uniform(*self.kind.fill))
        middle = (corners.min(0) + corners.max(0)) / 2
        position = self._stand(corners, middle, towards, fov, fill)
        centred = look_at(position, middle, 0.0, fov)
        across, along, _ = centred.matrix()[:3, :3].T
        reach = np.linalg.norm(position - middle) * np.tan(np.radians(fov) / 2)
        x, y = self.rng.uniform(-0.8, 0.8, 2) * (1 - fill) * reach
        moved = look_at(position, middle + x * across + y / self.aspect * along, float(self.rng.normal(0, 1.5)), fov)
        return moved if _reach(corners, moved, self.aspect) < 0.98 else centred

    def _to_camera(self) -> np.ndarray:
        """The unit vector from the subjects to the camera."""
        turn = np.radians(self.rng.normal(0, self.kind.turn_deg))
        # a wall stands behind the subjects: nobody takes a picture through it
        turn = np.clip(turn, -0.9, 0.9) if self.has_wall else turn
        return _direction(turn, np.radians(self.rng.uniform(*self.kind.elevation_deg)))

    def _stand(
        self, corners: np.ndarray, middle: np.ndarray, towards: np.ndarray, fov: float, fill: float
    ) -> np.ndarray:
        """Where on the way `towards` the camera the corners fill so much of the picture: by bisection."""
        near, far = np.linalg.norm(corners - middle, axis=1).max() * 0.5, 1e3
        for _ in range(40):
            distance = np.sqrt(near * far)
            position = middle + distance * towards
            position[1] = max(position[1], LOWEST)
            if _reach(corners, look_at(position, middle, 0.0, fov), self.aspect) > fill:
                near = distance
            else:
                far = distance
        return position

    def _lay_ground(self) -> None:
        texture = str(self.rng.choice([name for name in self.kind.grounds if name or not self.has_wall]))
        if texture:
            ends = ((-FAR, 0.0, FAR), (2 * FAR, 0.0, 0.0), (0.0, 0.0, -2 * FAR))
            self._panel(*ends, LABELS.get(texture, "ground"), 0, texture, float(self.rng.uniform(1.2, 3.5)))

    def _set_table(self) -> None:
        """A slab a little larger than what stands on it."""
        if self.kind.table is None:
            return
        margin = self.rng.uniform(0.6, 2.5, (2, 3)) * float(np.linalg.norm(self.whole[1] - self.whole[0]))
        slab = self.whole + margin * [[-1], [1]]
        slab[:, 1] = self.top - THICKNESS, self.top
        self.back_of_table = slab[0, 2]
        texture, instance = (str(self.rng.choice(TOPS)), self._seed()), self._next()
        tile, gloss = float(self.rng.uniform(0.5, 1.5)), float(self.rng.choice([0.0, 0.3, 0.7]))
        for corner, u, v in _sides_of(slab):
            self.panels.append(Panel(vector(corner), vector(u), vector(v), "table", instance, texture, tile, gloss))

    def _raise_wall(self) -> None:
        if self.has_wall:
            nearest = self.back_of_table if self.kind.table else self.whole[0, 2]
            self.back = float(nearest - self.rng.uniform(0.05, 2.5))
            ends = ((-12.0, 0.0, self.back), (24.0, 0.0, 0.0), (0.0, 4.0, 0.0))
            self._panel(*ends, "wall", 0, str(self.rng.choice(WALLS)), float(self.rng.uniform(1.2, 2.5)))

    def _panel(
        self,
        corner: tuple[float, float, float],
        edge_u: tuple[float, float, float],
        edge_v: tuple[float, float, float],
        label: str,
        instance: int,
        texture: str,
        tile: float,
    ) -> None:
        self.panels.append(Panel(corner, edge_u, edge_v, label, instance, (texture, self._seed()), tile))

    def _seed(self) -> int:
        return int(self.rng.integers(1 << 30))

    def _light(self, cameras: tuple[Camera, ...]) -> None:
        shares = np.array([share for share, _ in LIGHTS])
        _, lights = LIGHTS[int(self.rng.choice(len(LIGHTS), p=shares / shares.sum()))]
        for light in lights:
            tried = (self._lamp(light) for _ in range(20))
            lamp = next((lamp for lamp in tried if not any(self._sees(camera, lamp) for camera in cameras)), None)
            if lamp is not None:
                self.panels.append(lamp)

    def _lamp(self, light: Light) -> Panel:
        """Above and to a side, its front to the subjects."""
        rng, middle = self.rng, self.whole.mean(0)
        towards = _direction(np.radians(rng.uniform(-110, 110)), np.radians(rng.uniform(20, 75)))
        away = light.distance * float(np.linalg.norm(self.whole[1] - self.whole[0])) / 2
        side, warm = rng.uniform(*light.side), rng.uniform(0.0, 1.0)
        u = np.cross(towards, [0.0, 1.0, 0.0])
        u *= side * away / np.linalg.norm(u)
        v = np.cross(u, towards)
        corner = middle + away * towards - (u + v) / 2
        power = float(rng.uniform(*light.strength)) * self.gain / side**2
        colour = (power, power * (1 - 0.15 * warm), power * (1 - 0.35 * warm))
        texture = ("paint", 0)
        return Panel(vector(corner), vector(u), vector(v), "lamp", self._next(), texture, emission=colour)

    def _sees(self, camera: Camera, panel: Panel) -> bool:
        """Whether any of a panel may be in the picture; near its border counts."""
        corner, u, v = (np.array(value) for value in (panel.corner, panel.edge_u, panel.edge_v))
        steps = np.linspace(0, 1, 5)
        points = np.array([corner + s * u + t * v for s in steps for t in steps])
        x, y, z = _in_picture(points, camera, self.aspect)
        return bool(((z > 0) & (np.abs(x) < 1.1) & (np.abs(y) < 1.1)).any())

    def _place_scenery(self, cameras: tuple[Camera, ...]) -> None:
        for wish in self.kind.scenery:
            for piece in self._grant(wish, []):
                tried = (self._behind(piece, cameras) for _ in range(10))
                found = next((each for each in tried if self._is_clear(each.box, cameras)), None)
                if found is not None:
                    self.scenery.append(found)

    def _behind(self, piece: Piece, cameras: tuple[Camera, ...]) -> _Subject:
        """Somewhere beyond the subjects as one of the cameras sees them."""
        rng = self.rng
        pose = cameras[int(rng.integers(len(cameras)))].matrix() if cameras else np.eye(4)
        ahead = pose[:3, 2] * [1, 0, 1]
        ahead /= np.linalg.norm(ahead)
        beside = np.array([-ahead[2], 0.0, ahead[0]])
        away = float(np.exp(rng.uniform(np.log(1.0), np.log(15.0)))) + max(piece.item.width, piece.item.depth) / 2
        foot = self.whole.mean(0) * [1, 0, 1] + away * ahead + rng.uniform(-0.7, 0.7) * (away + 2) * beside
        return self._put(piece, foot, float(rng.uniform(-np.pi, np.pi)))

    def _is_clear(self, box: np.ndarray, cameras: tuple[Camera, ...]) -> bool:
        """Free of everything else, before the wall, and behind the subjects in every picture."""
        others = [each.box for each in (*self.subjects, *self.scenery)]
        apart = not any(((box[0] < other[1] + GAP) & (box[1] > other[0] - GAP)).all() for other in others)
        corners, mine = _corners_of(self.whole), _corners_of(box)
        behind = all(
            _in_picture(mine, camera, self.aspect)[2].min() > _in_picture(corners, camera, self.aspect)[2].max()
            for camera in cameras
        )
        return apart and behind and box[0, 2] > self.back + GAP


def _framed(subjects: list[_Subject], cut: float) -> np.ndarray:
    """Corners (8 n, 3) of what the picture is to hold: of people who are cut off, the middle about the head."""
    found = []
    for subject in subjects:
        low, high = subject.box.copy()
        height = high[1] - low[1]
        low[1] += cut * height
        if cut > 0:
            reach = 0.5 * (1 - cut) * height
            x, z = subject.piece.head
            cos, sin = np.cos(subject.placement.yaw), np.sin(subject.placement.yaw)
            middle = np.array(subject.placement.position)[[0, 2]] + [x * cos + z * sin, z * cos - x * sin]
            low[[0, 2]] = np.maximum(low[[0, 2]], middle - reach)
            high[[0, 2]] = np.minimum(high[[0, 2]], middle + reach)
        found.append(_corners_of(np.array([low, high])))
    return np.concatenate(found)


def _direction(turn: float, up: float) -> np.ndarray:
    """The unit vector (3,) that is `turn` off straight ahead (+z) and `up` above the horizon, in radians."""
    return np.array([np.sin(turn) * np.cos(up), np.sin(up), np.cos(turn) * np.cos(up)])


def _corners_of(box: np.ndarray) -> np.ndarray:
    """The eight corners (8, 3) of an upright box (2, 3)."""
    return np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


def _sides_of(box: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """A corner and two edges of each face of an upright box (2, 3), whose cross product points out of it."""
    low, (x, y, z) = box[0], np.diag(box[1] - box[0])
    return (
        (low + y + z, x, -z),
        (low, x, z),
        (low + z, x, y),
        (low + x, -x, y),
        (low, z, y),
        (low + x + z, -z, y),
    )


def _in_picture(points: np.ndarray, camera: Camera, aspect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where points (N, 3) fall, -1 to 1 across the picture and down it, and their planar depth; each (N,)."""
    pose = camera.matrix()
    x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
    spread = np.tan(np.radians(camera.fov_deg) / 2)
    depth = np.where(np.abs(z) < 1e-6, 1e-6, z)
    return x / depth / spread, y / depth / spread * aspect, z


def _reach(points: np.ndarray, camera: Camera, aspect: float) -> float:
    """How far from the middle the outermost of the points (N, 3) falls: 1 is the border, inf behind the camera."""
    x, y, z = _in_picture(points, camera, aspect)
    return float(max(np.abs(x).max(), np.abs(y).max())) if z.min() > 0.01 else float("inf")
