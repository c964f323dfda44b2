"""Together: maps of one picture, which have its size, and are as many as there are pictures."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..perception_map import PerceptionMap


def check_together(maps: Sequence[PerceptionMap]) -> int:
    """How many frames they are of. UserError unless they are of one size, and equal in number or single."""
    first = maps[0]
    for given in maps:
        if given.crops is not None:
            raise UserError("Keypoints lie in crops of their own, not in the picture: give their map to Save Map.")
        (height, width), (rows, columns) = first.values.shape[1:3], given.values.shape[1:3]
        if (height, width) != (rows, columns):
            raise UserError(
                f"The {first.task} is {width} x {height}, the {given.task} {columns} x {rows}: "
                "take maps of one picture."
            )
    counts = sorted({len(given.values) for given in maps} - {1})
    if len(counts) > 1:
        raise UserError(
            f"There are {' and '.join(map(str, counts))} frames of one: give equal numbers, or one for all."
        )
    return counts[0] if counts else 1
