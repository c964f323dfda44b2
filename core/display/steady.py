"""Steady: the depth of a video that was estimated frame by frame, brought to one scale and shift over time."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..perception_map import Convention, PerceptionMap
from .picture import Span, from_camera, known_values, trusted

ROUNDS = 4
"""In which a fit leaves out the half of all pixels that it explains worst: what moves by itself."""


class Line(NamedTuple):
    """values -> scale * values + shift."""

    scale: float
    shift: float

    def __call__(self, values: Tensor) -> Tensor:
        return values * self.scale + self.shift

    def partly(self, share: float) -> Line:
        """A share of the way from the values as they are."""
        return Line(self.scale**share, self.shift * share)


SAME = Line(1.0, 0.0)


class Steadying:
    """Frames one by one, each brought to the scale and shift of those before.

    strength, cut: as `steadied` says. UserError for numbers that are none of these.
    """

    def __init__(self, strength: float = 0.95, cut: float = 0.3) -> None:
        if not (0 <= strength <= 1 and cut > 0):
            raise UserError(f"strength={strength:g} and cut={cut:g}: expected strength from 0 to 1, and a cut above 0.")
        self.strength, self.cut, self.count = strength, cut, 0
        self.begun: list[int] = []
        """The numbers of frames that begin a new scene."""
        self._before: tuple[Tensor, Tensor] | None = None

    def add(self, frame: PerceptionMap) -> PerceptionMap:
        """The next frame, a map (1, H, W, 1), as it becomes; affine values may come to lie beyond their range."""
        values, known = known_values(frame)[0, ..., 0], trusted(frame)[0]
        line = self._line(values, known, shifts=not from_camera(frame.convention))
        made = line(values)
        self._before, self.count = (made, known), self.count + 1
        return replace(frame, values=made.where(known, frame.values[0, ..., 0].float())[None, ..., None])

    def _line(self, values: Tensor, known: Tensor, shifts: bool) -> Line:
        """What is done to the next frame's values."""
        if self._before is None:
            return SAME
        before, known_before = self._before
        line, unlike = SAME, torch.inf
        if before.shape == values.shape:
            both = known & known_before
            line, unlike = fit_line(values[both], before[both], shifts)
        if unlike > self.cut:
            self.begun.append(self.count)
            return SAME
        return line.partly(self.strength)


def steadied(map: PerceptionMap, strength: float = 0.95, cut: float = 0.3) -> tuple[PerceptionMap, list[int]]:
    """A depth or disparity with its frames (B, H, W, 1) brought to the scale and shift of those before; and the numbers
    of frames that begin a new scene.

    strength: 0..1, how much of the way each frame is brought to the one before as that became: 1 follows the first
    frame for ever, and of less the frames' own level comes back in 1 / (1 - strength) frames. cut: of frames in one
    scene half of the pixels differ, after the best scale and shift, by less than this times the deviation. Distances
    are scaled and not shifted, for their zero is the camera. Affine values that come to lie beyond their range are
    brought into it all together. UserError for a map of one frame, and for numbers that are none of these.
    """
    if len(map.values) < 2:
        raise UserError("One frame has nothing to flicker against: give the map of a batch of frames.")
    steadying, made = Steadying(strength, cut), torch.empty(map.values.shape, device=map.values.device)
    for number in range(len(made)):
        made[number] = steadying.add(map.images(number, number + 1)).values[0]
    known = trusted(map)
    line = within(_ends_of(made[..., 0][known]), map.convention)
    return replace(map, values=line(made).where(known[..., None], map.values.float())), steadying.begun


def fit_line(now: Tensor, before: Tensor, shifts: bool) -> tuple[Line, float]:
    """The line that brings values (N,) to those of the same pixels before, and how unlike they are then: the median
    difference in deviations of `before`.

    Both are estimates, so that the scale is the ratio of their deviations (reduced major axis regression, Kermack and
    Haldane 1950). Least squares would make it smaller with every frame: it takes one side for the truth.
    """
    if now.numel() < 2:
        return SAME, 0.0
    kept, line = torch.ones_like(now, dtype=torch.bool), SAME
    for _ in range(ROUNDS):
        line = _line_through(now[kept], before[kept], shifts)
        difference = (line(now) - before).abs()
        kept = difference <= difference.median()
    spread = before.std().item()
    return line, difference.median().item() / spread if spread > 0 else 0.0


def _line_through(now: Tensor, before: Tensor, shifts: bool) -> Line:
    """The one that gives `now` the mean and deviation of `before`; without a shift, its root mean square."""
    if not shifts:
        size = now.square().mean().sqrt().item()
        return Line(before.square().mean().sqrt().item() / size, 0.0) if size > 0 else SAME
    spread, wanted = now.std().item(), before.std().item()
    scale = wanted / spread if spread > 0 and wanted > 0 else 1.0
    return Line(scale, (before.mean() - scale * now.mean()).item())


def _ends_of(values: Tensor) -> Span | None:
    """The least and the greatest; None of nothing."""
    return (values.min().item(), values.max().item()) if values.numel() else None


def within(ends: Span | None, convention: Convention) -> Line:
    """What brings values with these ends into the convention's range, if any lies beyond it."""
    low, high = convention.low, convention.high
    if ends is None or low is None or high is None or from_camera(convention):
        return SAME
    least, most = min(ends[0], low), max(ends[1], high)
    if (least, most) == (low, high):
        return SAME
    scale = (high - low) / (most - least)
    return Line(scale, low - least * scale)
