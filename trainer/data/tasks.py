"""Tasks: how each is learnt; what it is, and how it is shown, are the row of core.tasks."""

from __future__ import annotations

from dataclasses import dataclass

from . import measured, targets
from .augment import NEAREST, SMOOTH, Resampling, redraw
from .measured import Prepare
from .targets import Target
from .truth import DatasetError, Depth, Disparity, Kind, Level, Light, Normal, Segmentation


@dataclass(frozen=True)
class TaskData:
    """Of one task: where its truth lies and what becomes of it on the way to the network and to the metrics."""

    name: str
    """A row of core.tasks.TASKS."""
    target: Target
    folders: tuple[Kind, ...] = ()
    """Of a plain folder, what it is learnt from: the first of these that is there; none where truth is no picture."""
    prepare: Prepare = measured.levels
    """What its metrics compare."""
    resampling: Resampling = SMOOTH
    pasted: bool = False
    """Whether the truth says what to cut out of a picture, and stays true where that is put into another."""


DEPTH = Kind("depth", Depth)

TASK_DATA: dict[str, TaskData] = {
    row.name: row
    for row in (
        TaskData("depth", Target(targets.depth, "quantile", ("fill", "curve")), (DEPTH,), measured.distances, NEAREST),
        TaskData(
            "disparity",
            Target(targets.disparity, "min-max", ("curve",)),
            (Kind("disparity", Disparity), DEPTH),
            measured.distances,
            NEAREST,
        ),
        # interpolated normals are shorter than 1
        TaskData(
            "normal",
            Target(targets.normal, options=("axes", "unit")),
            (Kind("normal", Normal),),
            measured.vectors,
            NEAREST,
        ),
        TaskData("mask", Target(targets.level), (Kind("mask", Level, see_through=True),), pasted=True),
        TaskData("matte", Target(targets.level), (Kind("matte", Level, see_through=True),), pasted=True),
        TaskData(
            "segmentation",
            Target(targets.segmentation, options=("colours", "classes", "renumbered")),
            (Kind("segmentation", Segmentation, see_through=True),),
            measured.classes,
            Resampling(only=True),  # there is nothing between two classes
        ),
        TaskData("albedo", Target(targets.light, options=("transfer",)), (Kind("albedo", Light),)),
        TaskData("shading", Target(targets.light, "upper", ("transfer",)), (Kind("shading", Light),)),
        TaskData("irradiance", Target(targets.light, "upper", ("transfer",)), (Kind("irradiance", Light),)),
        TaskData("residual", Target(targets.light, "upper", ("transfer",)), (Kind("residual", Light),)),
        TaskData("roughness", Target(targets.level), (Kind("roughness", Level),)),
        TaskData("metallic", Target(targets.level), (Kind("metallic", Level),)),
        TaskData("material", Target(targets.light, options=("transfer",)), (Kind("material", Light),)),
        TaskData(
            "keypoints", Target(targets.keypoints), prepare=measured.heatmaps, resampling=Resampling(repair=redraw)
        ),
    )
}


def data_of(task: str) -> TaskData:
    """The row of a task. DatasetError if there is none."""
    if task not in TASK_DATA:
        raise DatasetError(
            f"There is no truth for the task {task!r}: take one of {', '.join(TASK_DATA)}, or say in "
            "trainer/data/tasks.py how it is learnt."
        )
    return TASK_DATA[task]


def truths() -> list[Kind]:
    """All that a plain folder may hold."""
    return [kind for row in TASK_DATA.values() for kind in row.folders]
