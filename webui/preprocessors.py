"""ControlNet preprocessors of the Forge family: one for each recipe of each checkpoint, for their sliders name none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from modules_forge.shared import add_supported_preprocessor, supported_preprocessors
from modules_forge.supported_preprocessor import Preprocessor, PreprocessorParameter

from . import forge
from .models import Choice, choices
from .work import controlnet_picture, perceive, pose_json

SUFFIX = "_perception "


class Kind(NamedTuple):
    """What ControlNet knows of a task."""

    prefix: str
    """Of the name; `openpose` in it makes the host ask for keypoints."""
    tag: str
    """The type that lists it."""
    filter: str
    """What is part of the names of its ControlNets."""


KINDS: dict[str, Kind] = {
    "depth": Kind("depth", "Depth", "depth"),
    "disparity": Kind("depth_disparity", "Depth", "depth"),
    "normal": Kind("normal", "NormalMap", "normal"),
    "segmentation": Kind("seg", "Segmentation", "seg"),
    "keypoints": Kind("openpose", "OpenPose", "openpose"),
}
"""By task; of others there is no ControlNet, and they stand under All."""
PRIORITY, DEMO = 1, 0
"""Below the host's own, so that no type has ours as its default; the demo last."""


class PerceptionPreprocessor(Preprocessor):
    """Picture in, the picture that the task's ControlNet reads out, at its own size."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        kind = KINDS.get(choice.task)
        self.choice = choice
        self.name = f"{kind.prefix if kind else choice.task}{SUFFIX}{choice.name}"
        self.tags = [kind.tag] if kind else []
        self.model_filename_filters = [kind.filter] if kind else []
        self.sorting_priority = DEMO if choice.is_demo else PRIORITY
        # the recipe knows its own; hidden, and with a true range, since hosts check what is hidden too
        self.slider_resolution = PreprocessorParameter(
            label="Resolution", minimum=64, maximum=2048, value=512, step=8, visible=False
        )

    def __call__(
        self,
        input_image: np.ndarray,
        *args: Any,
        json_pose_callback: Callable[[dict[str, Any]], None] | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """uint8 (H, W, 1, 3 or 4) -> uint8 (H, W, 3). What else a host gives is not looked at."""
        map = forge.on_main_thread(lambda: perceive(forge.MODELS.perceiver(self.choice), input_image, forge.tick))
        if json_pose_callback is not None and "openpose" in self.name:
            json_pose_callback(pose_json(map))
        return controlnet_picture(map)


def offer() -> None:
    """Put one for each choice into the host's list, in the place of those that were offered before."""
    for name in [name for name in supported_preprocessors if SUFFIX in name]:
        del supported_preprocessors[name]
    for choice in choices(forge.LIBRARY):
        add_supported_preprocessor(PerceptionPreprocessor(choice))
