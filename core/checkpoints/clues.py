"""Clues: what can be told about a checkpoint without reading its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..backbone import Shapes
from ..tasks import TASKS
from .architecture import UNetArchitecture


@dataclass(frozen=True)
class Clues:
    """What can be told about a checkpoint without reading its weights."""

    architecture: UNetArchitecture
    folder: str = ""
    """Name of the UNet's folder or file."""
    repository: str = ""
    """Name of the folder that holds it."""
    index: Mapping[str, Any] = field(default_factory=dict)
    """model_index.json."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """scheduler_config.json."""
    head: str = ""
    """Name of the head that lies beside it."""
    adapter: str = ""
    """How its weights are spelled if it is an adapter: as core.checkpoints.adapter_names calls it."""
    rank: int = 0
    """The highest of an adapter's low-rank parts."""
    head_shapes: Shapes = field(default_factory=dict)
    """Of that head's weights."""

    @property
    def pipeline(self) -> str:
        return str(self.index.get("_class_name", ""))

    @property
    def names(self) -> str:
        """Of itself and of the folder around it, in lower case."""
        return f"{self.folder} {self.repository}".lower()

    @property
    def ending(self) -> tuple[bool, bool]:
        """Whether its schedule is spaced from its end, and whether nothing of the sample is left there."""
        trailing = self.scheduler.get("timestep_spacing") == "trailing"
        return trailing, bool(self.scheduler.get("rescale_betas_zero_snr"))

    @property
    def task(self) -> str:
        """The task as its own names and its index state it, "" if they do not.

        The keys of an index go before its pipeline's class: normals have been published under that of depths.
        """
        stated = str(self.index.get("prediction_type", ""))
        keyed = (task for key, task in INDEX_TASKS if key in self.index)
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.pipeline)
        return "" if self.contradicted else task_in(stated, *keyed, self.folder, words)

    @property
    def likely_task(self) -> str:
        """The same, or what the folder around it is called after; a person may know better than that."""
        return "" if self.contradicted else self.task or task_in(self.repository)

    @property
    def contradicted(self) -> bool:
        """Whether its names speak of another task than its index: Marigold's first pipeline wrote that of depths into
        whatever was trained with its code."""
        keyed = [task for key, task in INDEX_TASKS if key in self.index][:1]
        others = [task for task in TASKS if task in self.names and task not in keyed]
        return self.pipeline == "MarigoldPipeline" and bool(keyed and others)


INDEX_TASKS = (("use_full_z_range", "normal"), ("scale_invariant", "depth"), ("shift_invariant", "depth"))
"""Keys of model_index.json that only pipelines of one task write."""


def task_in(*names: str) -> str:
    """The first task that is a word of these names, "" if none is; a depth that is also a disparity is that."""
    words = re.split(r"[^a-z]+", " ".join(names).lower())
    tasks = {word: task.name for task in TASKS.values() for word in (task.name, *task.aliases)}
    found = [tasks[word] for word in words if word in tasks]
    return "disparity" if found[:1] == ["depth"] and "disparity" in found else next(iter(found), "")
