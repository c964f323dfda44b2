"""Renderers: what turns a planned room into views; a row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .plan import Plan
from .rooms import Room
from .shelf import open_shelf
from .views import View

RAYS_AT_ONCE = 1_600_000
"""Bounds the memory of one rendering pass to about 2 GB."""


def batches(views: int, size: tuple[int, int], samples: int) -> list[range]:
    """Views that are rendered in one go: the same ones whatever is missing, or the noise would differ."""
    step = max(1, RAYS_AT_ONCE // (size[0] * size[1] * samples))
    return [range(start, min(start + step, views)) for start in range(0, views, step)]


def _render_mitsuba(plan: Plan, room: Room, number: int, wanted: list[int]) -> Iterator[tuple[int, View]]:
    from .mitsuba_render import load_room, render_views

    loaded = load_room(room, open_shelf())
    for batch in batches(plan.views, plan.size, plan.samples):
        if set(batch) & set(wanted):
            cameras = [room.cameras[k] for k in batch]
            seed = (plan.seed * 1_000_003 + number * 101 + batch.start) % (1 << 31)
            for k, view in zip(batch, render_views(loaded, cameras, plan.size, plan.samples, seed)):
                if k in wanted:
                    yield k, view


def _render_blender(plan: Plan, room: Room, number: int, wanted: list[int]) -> Iterator[tuple[int, View]]:
    from .blender import blender_views

    yield from blender_views(room, open_shelf(), plan.size, plan.samples, wanted, plan.blender_python)


def _find_mitsuba(plan: Plan) -> None:
    from .mitsuba_render import load_mitsuba

    load_mitsuba()


def _find_blender(plan: Plan) -> None:
    from .blender import find_python

    find_python(plan.blender_python)


class Renderer(NamedTuple):
    """One way to make views."""

    samples: int
    """Light paths a pixel, where nothing else is said."""
    find: Callable[[Plan], None]
    """MissingAssetError if it is not installed."""
    render: Callable[[Plan, Room, int, list[int]], Iterator[tuple[int, View]]]
    """(plan, room, its number, wanted views) -> (number, view), as soon as each is there."""
    about: str


RENDERERS = {
    "mitsuba": Renderer(4, _find_mitsuba, _render_mitsuba, "is fast"),
    "blender": Renderer(16, _find_blender, _render_blender, "a process of its own, adds hair and depth of field"),
}
