"""Furniture: which class each model of the catalogue is, and what it may stand on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..core.display.palettes import ROOMS, palette_entries
from .assets import Item

CLASSES = tuple(name for _, name in palette_entries(ROOMS))

Role = Literal[
    "wall",  # back to a wall
    "free",  # anywhere on the floor
    "table",  # free, with chairs
    "desk",  # back to a wall, with a chair
    "low table",  # before a sofa
    "small",  # on top of something
    "mounted",  # on a wall, above the floor
    "hanging",  # from the ceiling
    "rug",  # flat on the floor, others may stand on it
    "window",
    "door",
    "stand",  # a person on their feet
    "sit",  # a person whose seat is absent
    "lie",  # a person lying down
    "outdoor",  # on the ground, outside only
    "none",  # not used
]


@dataclass(frozen=True)
class Sort:
    """One row of the table below; the first row that fits an item tells what it is."""

    category: str
    words: str
    label: str
    role: Role
    height: tuple[float, float] = (0.0, 99.0)

    def fits(self, item: Item) -> bool:
        low, high = self.height
        return (
            re.search(self.category, item.category) is not None
            and re.search(rf"\b({self.words})", item.name.lower()) is not None
            and low <= item.height < high
        )


SORTS = (
    Sort("Staircases", "", "object", "none"),
    Sort("Characters", "horse", "animal", "outdoor"),
    Sort("Characters", "cat|dog|rabbit|bulldog|chicken|siamese", "animal", "free"),
    Sort("Characters", "lying", "person", "lie"),
    Sort("Characters", "sitting", "person", "sit", (1.2, 9.0)),
    Sort("Characters", "sitting", "person", "stand"),
    Sort("Characters", "", "person", "stand"),
    Sort("Vehicles", "bicycle|bike|stroller|tricycle|skateboard", "vehicle", "free"),
    Sort("Vehicles", "truck|bus|city bus|fork", "vehicle", "none"),
    Sort("Vehicles", "", "vehicle", "outdoor"),
    Sort("Doors", "elevator|garage|window shutter|screen|glass", "door", "none"),
    Sort("Doors", ".*window", "window", "window"),
    Sort("Doors", ".*door", "door", "door"),
    Sort("Lights", "street|.*lamppost|park|outdoor|porch", "lamp", "outdoor", (0.7, 99.0)),
    Sort("Lights", "porch|street|park", "lamp", "none"),
    Sort("Lights", "wall|track", "lamp", "mounted"),
    Sort("Lights", "pendant|chandelier|ceiling|fluorescent|hanging|lamp2", "lamp", "hanging"),
    Sort("Lights", "", "lamp", "free", (0.9, 3.0)),
    Sort("Lights", "", "lamp", "small"),
    Sort(
        "Exterior",
        ".*pool|.*crossing|rails|arrow|parking|.*sidewalk|porch|diving|child hut|barnum|sandpit|entry|"
        "letters|garden faucet|air conditioning|.*net|jacuzzi",
        "object",
        "none",
    ),
    Sort("Exterior", "deck|relax|chair|.*chair|.*bench|.*bank|teck|beach", "chair", "outdoor"),
    Sort("Exterior", "rattan sofa", "sofa", "outdoor"),
    Sort("Exterior", ".*table", "table", "outdoor"),
    Sort("Exterior", "spray", "object", "small"),
    Sort("Exterior", "rowboat|motorbike|wheelbarrow", "vehicle", "outdoor"),
    Sort(
        "Exterior",
        "bush|.*hedge|acacia|bamboo|ficus|.*pine|.*tree|.*beech|cypress|.*maple|poplar|.*palm|peach|flower|plant",
        "plant",
        "outdoor",
    ),
    Sort("Exterior", "", "object", "outdoor"),
    Sort("", ".*(rug|carpet|mat\\b|tatami|bathmat|doormat)", "textile", "rug", (0.0, 0.1)),
    Sort("", "chimney|.*railing|shipping|fence|.*extinguisher|mower|cone|pallet|round chimney", "object", "none"),
    Sort(
        "",
        "swimming|.*antenna|.*dimmer|.*switch|.*plug|.*rj|.*rj-45|cctv|smoke|number lock|emergency",
        "object",
        "none",
    ),
    Sort("", "dress\\b|short|trousers|jacket|skirt|suit\\b|glove|.*hanger", "textile", "none"),
    Sort("", "desk|.* desk|technical|workbench|dressing table|changing table", "table", "desk", (0.5, 2.0)),
    Sort("", "table tennis|pool table|football table", "table", "free", (0.5, 9.0)),
    Sort("", "bedside|tv stand|television", "storage", "wall"),
    Sort("", ".*table\\b(?! fan)", "table", "low table", (0.3, 0.6)),
    Sort("", ".*table\\b(?! fan| tennis)|technical|.*table with", "table", "table", (0.6, 1.3)),
    Sort("", ".*sofa|.*couch|futon|convertible", "sofa", "wall", (0.4, 1.5)),
    Sort(
        "",
        "flipper|abdominal|treadmill|fitness|indoor bike|wheelchair|punching|clothes horse|.*ladder",
        "object",
        "free",
    ),
    Sort("", ".*chair|.*stool|.*bench|.*seat|armchair|puff", "chair", "free", (0.3, 1.5)),
    Sort("", ".*\\bbed|crib|bunk|mezzanine|day bed|captain", "bed", "wall", (0.3, 2.2)),
    Sort("", "air mattress|sleeping|futon", "bed", "none"),
    Sort(
        "",
        ".*lavatory|washbasin|.*basin|toilets|urinal|bidet|.*bath\\b|bathtub|corner bath|island bath|.*vanity|"
        "shower stall",
        "sanitary",
        "wall",
        (0.2, 2.3),
    ),
    Sort("", "shower|showerhead", "sanitary", "none"),
    Sort(
        "",
        "oven|double oven|.*fridge|refrigerator|.*stove|.*washing machine|dryer|chest-freezer|chest freezer|"
        "kitchen island|island|.*sink",
        "appliance",
        "wall",
        (0.55, 2.3),
    ),
    Sort("", ".*hood", "appliance", "none"),
    Sort("", "small upper|upper|glass door cab", "storage", "mounted"),
    Sort(
        "",
        ".*cabinet|bookcase|.*bookcase|.*shelves|wardrobe|cupboard|.*shelving|chest|dresser|box|trunc|safe|"
        "locked|contemporary",
        "storage",
        "wall",
        (0.45, 2.5),
    ),
    Sort("", "fireplace|.*piano|grand|radiator|water heater|furnace", "object", "wall", (0.45, 2.55)),
    Sort("", "wall flat|.*radiator", "screen", "mounted"),
    Sort("", "curtain|window blind", "textile", "none"),
    Sort("", "screen", "textile", "free", (1.0, 3.0)),
    Sort(
        "",
        "plant|.*plant|ficus|bonsai|.*lily|tulip|flower|spathi|yucca|bamboo|orchid|cactus|christmas",
        "plant",
        "small",
        (0.0, 0.6),
    ),
    Sort(
        "",
        "plant|.*plant|ficus|bonsai|.*lily|tulip|flower|spathi|yucca|bamboo|orchid|cactus|christmas|decorative",
        "plant",
        "free",
    ),
    Sort(
        "",
        "tv|apple\\b|laptop|phone|wireless phone|mobile phone|headphones|tablet|mobile|radio|mp3|playstation|"
        "dvd|speaker|stereo|mini stereo",
        "screen",
        "small",
        (0.0, 0.6),
    ),
    Sort("", ".*towel|robe|folded|hanging clothes|clothes rack|clothes basket", "textile", "free", (0.5, 2.0)),
    Sort("", ".*towel|folded|handbag|backpack|cap\\b|hat\\b", "textile", "small"),
    Sort("", "frame", "picture", "small"),
)


@dataclass(frozen=True)
class Piece:
    """A catalogue item together with what it is."""

    item: Item
    label: str
    role: Role
    head: tuple[float, float] = (0.0, 0.0)
    """Of a person: how far right and ahead of the middle of the foot the head is, in metres."""


def sort(items: list[Item]) -> list[Piece]:
    """Every item with its class and role, those that no room uses left out."""
    pieces = [_piece_of(item) for item in items]
    return [piece for piece in pieces if piece.role != "none"]


def _piece_of(item: Item) -> Piece:
    for row in SORTS:
        if row.fits(item):
            return Piece(item, row.label, row.role)
    if item.elevation >= 0.2:
        return Piece(item, "object", "mounted" if item.elevation < 1.9 else "none")
    if max(item.width, item.depth) < 0.65 and item.height < 0.65:
        return Piece(item, "object", "small")
    if item.height < 0.05 or max(item.width, item.depth) > 3.0:
        return Piece(item, "object", "none")
    return Piece(item, "object", "free")
