"""Plan: which rooms and views to render, where they go, and which of them are there already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import UserError
from .views import is_complete


@dataclass(frozen=True)
class Plan:
    """What to render; goes to the workers as it is."""

    out: Path
    rooms: int
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
        return range(self.first_room, self.first_room + self.rooms)

    def split_of(self, number: int) -> str:
        return split_of(number) if self.split == "auto" else self.split

    def folder(self, number: int) -> Path:
        return self.out / self.split_of(number)

    def missing(self, number: int) -> list[int]:
        """The views of a room that are yet to be made."""
        return [k for k in range(self.views) if not is_complete(self.folder(number), stem(number, k))]


def parse_size(text: str) -> tuple[int, int]:
    """`256` or `320x240` as width and height."""
    parts = text.lower().split("x")
    if not (1 <= len(parts) <= 2 and all(part.isdecimal() and 16 <= int(part) <= 4096 for part in parts)):
        raise UserError(f"--size is {text!r}; give one number or WIDTHxHEIGHT, each from 16 to 4096.")
    return int(parts[0]), int(parts[-1])


def split_of(number: int) -> str:
    """Which split a room belongs to: fixed by its number alone."""
    return {18: "val", 19: "test"}.get(number % 20, "train")


def stem(room: int, view: int) -> str:
    return f"{room:05d}_{view:02d}"
