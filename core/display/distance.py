"""Distance: a depth or disparity as how far away every pixel lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..geometry import CAMERA, depth_to_normal
from ..perception_map import Convention, PerceptionMap
from .picture import LARGEST, LEAST_DEPTH_M, Span, from_camera, in_range, known_values, trusted

LINEAR: dict[str, Callable[[Tensor], Tensor]] = {"square-root": lambda values: values**2}
"""By the encoding of a depth or disparity: what undoes it. Others are linear as they are."""


class Distance(NamedTuple):
    """How far away every pixel lies, along the optical axis."""

    values: Tensor
    """(B, H, W) float32; 0 where unknown."""
    known: Tensor
    """(B, H, W) bool."""
    said: str
    """How it was found, and in which unit, in words."""


def _between_ends(values: Tensor, ends: Span) -> Tensor:
    """0..1 -> from the first to the second end."""
    return ends[0] + values * (ends[1] - ends[0])


def distance_of(map: PerceptionMap, span: Span) -> Distance:
    """A depth or disparity as distances.

    Metric ones keep their metres, ones known up to a factor keep their own unit. Of an affine one nothing but its order
    is known: its near end is taken to lie at the first of `span`, its far end at the second, in between depth runs
    linearly with the values and disparity with 1/z. UserError for a span that does not reach from near to far.
    """
    convention, near = map.convention, map.convention.near
    if near is None:
        raise UserError("This map does not say which end of its values is near: load its model as depth or disparity.")
    linear = LINEAR.get(convention.encoding, lambda values: values)
    absolute = from_camera(convention)
    values = linear((known_values(map) if absolute else in_range(map))[..., 0])
    if not absolute:
        values = _between_ends(values, _ends(convention, _check_span(span)))
    known = trusted(map) & (values > LEAST_DEPTH_M if near == "low" else values > 1 / LARGEST)
    values = values.where(known, torch.ones_like(values))
    return Distance((values if near == "low" else 1 / values) * known, known, _span_words(convention, span))


def _ends(convention: Convention, span: Span) -> Span:
    """Depth, or 1 / depth where near is high, at the low and the high end of a map's values."""
    near, far = span
    return (near, far) if convention.near == "low" else (1 / far, 1 / near)


def _span_words(convention: Convention, span: Span) -> str:
    if from_camera(convention):
        return f"distance in {'metres' if convention.metric else 'a unit of its own'}"
    return f"affine: taken to reach from {span[0]:g} to {span[1]:g}; set near and far where you know them"


def _check_span(span: Span) -> Span:
    """As it came. UserError unless it reaches from near to far."""
    if not LEAST_DEPTH_M < span[0] < span[1]:
        raise UserError(
            f"Distances from {span[0]:g} to {span[1]:g} make no range: take near above 0 and far beyond it."
        )
    return span


def normals_of(map: PerceptionMap, intrinsics: Tensor, span: Span, radius: int = 0) -> tuple[PerceptionMap, str]:
    """The surface normals of a depth or disparity, unit vectors along CAMERA, and in words how its depth was read.

    intrinsics (1 or B, 3, 3) and radius, over which they are smoothed, in pixels.
    """
    distance = distance_of(map, span)
    normals = depth_to_normal(distance.values, intrinsics, distance.known, radius)
    convention = Convention(low=-1.0, axes=CAMERA, unit=True)
    return PerceptionMap("normal", normals, convention, map.recipe, distance.known), distance.said
