"""Clip: pictures of a video's frames by one range for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..perception_map import PerceptionMap
from ..tasks import TASKS
from .picture import NEARNESS, Span, from_camera, known_values, ready_picture, stretch, trusted
from .steady import Line


@dataclass
class Range:
    """The least and the greatest value of the frames that it has seen."""

    ends: Span | None = None

    def add(self, frame: PerceptionMap) -> None:
        known = known_values(frame)[trusted(frame)]
        if known.numel():
            low, high = self.ends or (torch.inf, -torch.inf)
            self.ends = min(low, known.min().item()), max(high, known.max().item())

    def after(self, line: Line) -> Span | None:
        """The ends of what a line makes of the values."""
        return (
            None
            if self.ends is None
            else (self.ends[0] * line.scale + line.shift, self.ends[1] * line.scale + line.shift)
        )


def picture_in(frame: PerceptionMap, ends: Span | None) -> Tensor:
    """(B, H, W, 3), as a ControlNet expects it: depths by the clip's range, near is white; others as ever."""
    if TASKS[frame.task].picture != "nearness" or ends is None:
        return ready_picture(frame)
    nearness = NEARNESS[frame.convention.near or "low", from_camera(frame.convention)].apply
    far, near = sorted(nearness(torch.tensor(ends), frame.convention).tolist())
    values = stretch(nearness(known_values(frame), frame.convention), (far, near))
    return values.where(trusted(frame)[..., None], torch.zeros_like(values)).expand(-1, -1, -1, 3)
