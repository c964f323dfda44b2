"""ControlNet preprocessors: one for each recipe of each checkpoint, for their sliders name none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.checkpoints.library import contents
from ..core.errors import UserError
from .hosts import here, is_forge, ticker
from .models import Choice, choices, labelled
from .settings import chosen
from .work import controlnet_picture, perceive, pose_json

SUFFIX = "_perception"


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


class Registry(NamedTuple):
    """Where a host keeps its preprocessors."""

    base: type
    """What they derive from."""
    parameter: Callable[..., Any]
    """What makes one of its sliders."""
    add: Callable[[Any], None]
    held: tuple[dict[str, Any], ...]
    """Those that are offered, by their names; in all of these."""


def registry() -> Registry | None:
    """Forge's, or that of the extension sd-webui-controlnet; None where that is not installed."""
    if is_forge():
        from modules_forge import shared, supported_preprocessor

        base, parameter = supported_preprocessor.Preprocessor, supported_preprocessor.PreprocessorParameter
        return Registry(base, parameter, shared.add_supported_preprocessor, (shared.supported_preprocessors,))
    # not to be imported: whose `scripts` comes first on the path nobody knows
    theirs: Any = sys.modules.get("scripts.supported_preprocessor")
    if theirs is None:
        return None
    base = theirs.Preprocessor
    held = base.all_processors, base.all_processors_by_name
    return Registry(base, theirs.PreprocessorParameter, base.add_supported_preprocessor, held)


class Perceiving:
    """Picture in, the picture that the task's ControlNet reads out, at its own size. To be put before a host's base."""

    name: str
    task: str
    fixed: Choice | None
    """None for what the user's settings say, as they are when it is asked."""

    @property
    def choice(self) -> Choice:
        """UserError where nothing answers for the task any more."""
        found = self.fixed or chosen(self.task, labelled(_available()))
        if found is None:
            raise UserError(f"No file perceives {self.task}: put one into {here().LIBRARY.place} and reload the page.")
        return found

    def __call__(
        self,
        input_image: np.ndarray,
        *args: Any,
        json_pose_callback: Callable[[dict[str, Any]], None] | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """uint8 (H, W, 1, 3 or 4) -> uint8 (H, W, 3). What else a host gives is not looked at."""
        host = here()
        choice = self.choice
        map = host.in_turn(lambda: perceive(host.MODELS.perceiver(choice), input_image, ticker()))
        if json_pose_callback is not None and "openpose" in self.name:
            json_pose_callback(pose_json(map))
        return controlnet_picture(map)

    def __hash__(self) -> int:
        """Of name and file: sd-webui-controlnet keeps answers, and compares preprocessors, by it."""
        try:
            choice = self.choice
            held = contents(here().LIBRARY.resolve(choice.file, choice.adapter))
        except UserError:  # it was taken away
            held = ()
        return hash((self.name, held))

    def __eq__(self, other: object) -> bool:
        return hash(self) == hash(other)


def preprocessor(registry: Registry, task: str, choice: Choice | None) -> Any:
    """One for a registry, for a choice or for what the settings say."""
    kind = KINDS.get(task)
    name = f"{kind.prefix if kind else task}{SUFFIX}" + (f" {choice.name}" if choice else "")
    made: Any = type("PerceptionPreprocessor", (Perceiving, registry.base), {})
    one: Any = made() if is_forge() else made(name=name)
    one.task, one.fixed, one.name = task, choice, name
    one.tags = [kind.tag] if kind else []
    one.model_filename_filters = [kind.filter] if kind else []
    one.sorting_priority = DEMO if choice and choice.is_demo else PRIORITY
    # the recipe knows its own; hidden, and with a true range, since hosts check what is hidden too
    one.slider_resolution = registry.parameter(
        label="Resolution", minimum=64, maximum=2048, value=512, step=8, visible=False
    )
    return one


def offer() -> None:
    """Put one for each choice into the host's list, in the place of those that were offered before."""
    there = registry()
    if there is None:
        return
    for held in there.held:
        for name in [name for name, one in held.items() if hasattr(one, "fixed")]:
            del held[name]
    found = _available()
    for task in dict.fromkeys(choice.task for choice in found):
        there.add(preprocessor(there, task, None))
    for choice in found:
        there.add(preprocessor(there, choice.task, choice))
    _forget_sorted()


def _forget_sorted() -> None:
    """Neo keeps the list as it was when it was sorted first, which may have been before."""
    lists = sys.modules.get("lib_controlnet.global_state")
    clear = getattr(getattr(lists, "get_sorted_preprocessors", None), "cache_clear", None)
    if clear is not None:
        clear()


def _available() -> list[Choice]:
    """AUTOMATIC1111's asks at any time, even while its model is generating: no adapters there."""
    return choices(here().LIBRARY, adapters=is_forge())
