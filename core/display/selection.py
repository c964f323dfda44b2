"""Selection: what of a map becomes a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..perception_map import PerceptionMap
from ..tasks import TASKS
from .picture import choose, classes_of, known_values, level, palette_of, stretch_each, trusted


@dataclass(frozen=True)
class Selection:
    """What of a map is selected."""

    mode: str = "soft"
    """For masks and mattes: a row of LEVEL_MODES."""
    threshold: float = 0.5
    classes: str = ""
    """For segmentations: names or numbers, with commas between them."""
    low: float = 0.0
    high: float = 1.0
    """For depth and disparity: the range of raw values, both ends included."""
    invert: bool = False


def soft(map: PerceptionMap, selection: Selection) -> Tensor:
    """As predicted."""
    return level(map)


def _thresholded(map: PerceptionMap, selection: Selection) -> Tensor:
    """Dichotomous segmentation: min-max, then 0 below the threshold, else 1 (GenPercept, Xu et al. 2024)."""
    return (stretch_each(level(map), trusted(map)) >= selection.threshold).float()


def _matting_clamp(map: PerceptionMap, selection: Selection) -> Tensor:
    """Matting: min-max, then what is nearly opaque or nearly clear becomes so (GenPercept, Xu et al. 2024)."""
    alpha = stretch_each(level(map), trusted(map))
    return torch.where(alpha > 0.95, 1.0, torch.where(alpha < 0.1, 0.0, alpha))


LEVEL_MODES: dict[str, Callable[[PerceptionMap, Selection], Tensor]] = {
    "soft": soft,
    "threshold": _thresholded,
    "matting clamp": _matting_clamp,
}


def _by_level(map: PerceptionMap, selection: Selection) -> Tensor:
    return choose(LEVEL_MODES, selection.mode, "mode")(map, selection)


def _by_class(map: PerceptionMap, selection: Selection) -> Tensor:
    palette = palette_of(map)
    picked = palette.indices(selection.classes)
    if not picked:
        raise UserError(f"No class is picked: name classes of {palette.name}, which are {palette.told()}.")
    return classes_of(map, palette).mask(picked)


def _by_range(map: PerceptionMap, selection: Selection) -> Tensor:
    values = known_values(map)[..., 0]
    return ((values >= selection.low) & (values <= selection.high)).float()


Selector = Callable[[PerceptionMap, Selection], Tensor]
SELECTORS: dict[str, Selector] = {"level": _by_level, "class": _by_class, "range": _by_range}
"""By what a mask may be picked out of a task."""


def selectors() -> dict[str, Selector]:
    """Of each task that a mask can be picked out of."""
    return {name: SELECTORS[task.selector] for name, task in TASKS.items() if task.selector}


def select(map: PerceptionMap, selection: Selection = Selection()) -> Tensor:
    """What is selected of a map, (B, H, W) in [0, 1], 1 = selected. What is unknown never is."""
    mask = choose(selectors(), map.task, "mask in a map of")(map, selection)
    return (1 - mask if selection.invert else mask) * trusted(map)
