"""Plan: which rooms or shots and views to render, where they go, and which of them are there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..core.errors import UserError
from .assets import SKIES, Tarball
from .furniture import Piece
from .rooms import BEINGS, Room, plan_room
from .shelf import body_pieces, open_shelf, splits_of
from .shots import is_subject, plan_shot
from .views import SPLITS, is_complete


@dataclass(frozen=True)
class Plan:
    """What to render; goes to the workers as it is."""

    kind: str
    """A row of KINDS."""
    count: int
    """How many rooms, or shots."""
    out: Path
    views: int
    size: tuple[int, int]
    """Width, height."""
    seed: int
    first_room: int
    split: str
    renderer: str
    samples: int
    bodies: int
    depth_format: str
    workers: int
    blender_python: Path | None

    def numbers(self) -> range:
        return range(self.first_room, self.first_room + self.count)

    def split_of(self, number: int) -> str:
        return split_of(number) if self.split == "auto" else self.split

    def folder(self, number: int) -> Path:
        return self.out / self.split_of(number)

    def stem(self, number: int, view: int) -> str:
        """The name of a view's files."""
        return f"{KINDS[self.kind].prefix}{number:05d}_{view:02d}"

    def missing(self, number: int) -> list[int]:
        """The views of a room or shot that are yet to be made."""
        return [k for k in range(self.views) if not is_complete(self.folder(number), self.stem(number, k))]

    def make(self, number: int) -> Room:
        """The room or shot of that number."""
        return KINDS[self.kind].make(self, number)


def _make_room(plan: Plan, number: int) -> Room:
    """Rooms to learn from show nothing that shots of val and test are of; those of val and test show everything."""
    shown = {"train": ("train",)}.get(plan.split_of(number), SPLITS)
    pieces = [piece for piece, split in _models(plan) if split in shown or not is_subject(piece)]
    figures = [piece for piece in pieces if not piece.item.id.startswith("body/")]
    bodies = [int(piece.item.id.split("/")[1]) for piece in pieces if piece not in figures]
    return plan_room(number, plan.seed, figures, plan.views, bodies)


def _make_shot(plan: Plan, number: int) -> Room:
    pieces = [piece for piece, split in _models(plan) if split == plan.split_of(number)]
    return plan_shot(number, plan.seed, pieces, plan.views, plan.size[0] / plan.size[1])


def _models(plan: Plan) -> list[tuple[Piece, str]]:
    """Everything that there is, each with its split."""
    shelf = open_shelf()
    pieces = [*shelf.pieces, *body_pieces(shelf.cache, plan.bodies)]
    splits = splits_of(pieces)
    return [(piece, splits[piece.item.id]) for piece in pieces]


class SceneKind(NamedTuple):
    """One kind of scene."""

    prefix: str
    """What names of its views begin with."""
    masked: tuple[str, ...]
    """What its masks are of, for people."""
    tarballs: tuple[Tarball, ...]
    """What it needs beside the packages that everything needs."""
    make: Callable[[Plan, int], Room]
    """(plan, number) -> what a renderer needs to know."""


KINDS = {"rooms": SceneKind("", BEINGS, (), _make_room), "shots": SceneKind("shot", ("subject",), (SKIES,), _make_shot)}


def parse_size(text: str) -> tuple[int, int]:
    """`256` or `320x240` as width and height."""
    parts = text.lower().split("x")
    if not (1 <= len(parts) <= 2 and all(part.isdecimal() and 16 <= int(part) <= 4096 for part in parts)):
        raise UserError(f"--size is {text!r}; give one number or WIDTHxHEIGHT, each from 16 to 4096.")
    return int(parts[0]), int(parts[-1])


def split_of(number: int) -> str:
    """Which split a room or shot belongs to: fixed by its number alone."""
    return {18: "val", 19: "test"}.get(number % 20, "train")
