"""The one table of tasks: what a checkpoint can predict, and what all checkpoints of a task share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Task:
    """One kind of dense map. What two checkpoints of a task may do differently belongs to the Recipe."""

    name: str
    title: str
    """As a person reads it."""
    channels: int
    """Channels of the raw values; the decoder's three are averaged where this is 1."""
    codec: str = "unit-range"
    """A row of core.codecs.CODECS, unless the recipe names another."""
    merge: Literal["affine", "direction", "median"] = "median"
    """How the members of an ensemble become one: a row of core.ensemble.MERGES."""
    near: Literal["low", "high"] | None = None
    """Which end of the values is near the camera."""
    socket: Literal["image", "mask"] = "image"
    """Whether a person first wants an IMAGE or a MASK of it."""
    aliases: tuple[str, ...] = ()
    """What published folders and pipelines call it."""


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("depth", "Depth", 1, merge="affine", near="low"),
        Task("disparity", "Disparity (inverse depth)", 1, merge="affine", near="high"),
        Task("normal", "Surface normals", 3, merge="direction", aliases=("normals",)),
        Task("mask", "Mask (dichotomous segmentation)", 1, socket="mask", aliases=("dis",)),
        Task("matte", "Alpha matte", 1, socket="mask", aliases=("matting",)),
        Task("segmentation", "Segmentation (colour map)", 3, aliases=("seg",)),
        Task("albedo", "Albedo", 3),
        Task("shading", "Shading", 3),
    )
}


def task_named(name: str) -> Task:
    """The row called `name`, or known to the published code by that name. ValueError if there is none."""
    for task in TASKS.values():
        if name == task.name or name in task.aliases:
            return task
    raise ValueError(
        f"Unknown task {name!r}: this version knows {', '.join(TASKS)}; check the spelling or update the pack."
    )
