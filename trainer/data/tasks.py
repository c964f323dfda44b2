"""Tasks: how each is learnt; what it is, and how it is shown, are the row of core.tasks."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.tasks import task_named
from . import measured, targets
from .augment import NEAREST, SMOOTH, Resampling, redraw
from .measured import Comparison, Prepare
from .targets import Target
from .truth import DatasetError, Depth, Disparity, Intrinsic, Kind, Level, Normal, Segmentation


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
    comparisons: tuple[Comparison, ...] = ()
    """What `evaluate` reports; the task's metrics if left out."""
    pasted: bool = False
    """Whether the truth says what to cut out of a picture, and stays true where that is put into another."""

    def compared(self) -> tuple[Comparison, ...]:
        """All rows of figures that are reported of it."""
        own = Comparison("own", "Means over pictures", task_named(self.name).metrics)
        return self.comparisons or (own,)


DEPTH = Kind("depth", Depth)
DISTANCES = (
    *("abs-rel", "sq-rel", "rmse", "rmse-log", "log10", "delta1", "delta2", "delta3", "i-rmse", "silog"),
)  # fmt: skip
ALIGNED = Comparison("aligned", "Marigold's and GenPercept's evaluation: the mean over pictures", DISTANCES,
                     error=measured.RELATIVE)  # fmt: skip
ANGLES = ("mean-angle", "median-angle", "rmse-angle", *(f"angle-{limit}" for limit in (5, 7.5, 11.25, 22.5, 30)))
SELECTED = ("max-f", "weighted-f", "mae", "s-measure", "e-measure", "hce", "iou")
SHADES = (
    Comparison("own", "Means over pictures, of values in [0, 1] on the curve they are learnt on",
               ("psnr", "ssim", "mse", "lmse")),
    Comparison("dmp", "DMP's evaluation: colours in [0, 1], the mean over pictures", ("l1", "mse"), measured.colours),
)  # fmt: skip

LIGHTING = Comparison(
    "marigold",
    "Marigold's evaluation of lighting: linear light times a factor by least squares, at one brightness; the mean over "
    "pictures",
    ("psnr", "ssim"),
    measured.lighting,
)

TASK_DATA: dict[str, TaskData] = {
    row.name: row
    for row in (
        TaskData(
            "depth",
            Target(targets.depth, "quantile", ("fill", "curve")),
            (DEPTH,),
            measured.distances,
            NEAREST,
            comparisons=(
                ALIGNED,
                Comparison(
                    "dmp",
                    "DMP's evaluation: depth as predicted, nothing aligned, the mean over pictures",
                    ("abs-rel", "delta1", "stretched-rmse"),
                    measured.distances_as_predicted,
                ),
            ),
        ),
        TaskData(
            "disparity",
            Target(targets.disparity, "min-max", ("curve",)),
            (Kind("disparity", Disparity), DEPTH),
            measured.distances,
            NEAREST,
            comparisons=(ALIGNED,),
        ),
        # interpolated normals are shorter than 1
        TaskData(
            "normal",
            Target(targets.normal, options=("axes", "unit")),
            (Kind("normal", Normal),),
            measured.vectors,
            NEAREST,
            comparisons=(
                Comparison(
                    "pooled", "DSINE's evaluation: over all pixels of the set at once", ANGLES, error=measured.ANGLE
                ),
                Comparison(
                    "per-image",
                    "Marigold's evaluation: of each picture, then the mean over pictures",
                    tuple(f"{name}-per-image" for name in ANGLES),
                ),
                Comparison(
                    "dmp",
                    "DMP's evaluation: differences and angles of the colours that code normals, not of normals",
                    ("l1", "colour-angle"),
                    measured.colours,
                ),
            ),
        ),
        TaskData(
            "mask",
            Target(targets.level),
            (Kind("mask", Level, see_through=True),),
            comparisons=(
                Comparison("soft", "DIS5K's evaluation, of the soft mask: the mean over pictures", SELECTED),
                Comparison("cut", "The same of the mask cut at 0.5 before", SELECTED, measured.cut),
            ),
            pasted=True,
        ),
        TaskData(
            "matte",
            Target(targets.level),
            (Kind("matte", Level, see_through=True),),
            comparisons=(
                Comparison(
                    "whole",
                    "P3M's and AIM's evaluation, of the whole picture: the mean over pictures",
                    ("sad", "mse", "mad", "grad", "conn"),
                ),
            ),
            pasted=True,
        ),
        TaskData(
            "segmentation",
            Target(targets.segmentation, options=("colours", "classes", "renumbered")),
            (Kind("segmentation", Segmentation, see_through=True),),
            measured.classes,
            Resampling(only=True),  # there is nothing between two classes
            comparisons=(
                Comparison(
                    "pooled",
                    "One confusion matrix of all pixels of the set",
                    ("miou", "pixel-accuracy", "mean-accuracy"),
                    error=measured.UNEQUAL,
                ),
            ),
        ),
        TaskData(
            "albedo", Target(targets.light, options=("transfer",)), (Kind("albedo", Intrinsic),), comparisons=SHADES
        ),
        TaskData(
            "shading",
            Target(targets.light, "upper", ("transfer",)),
            (Kind("shading", Intrinsic),),
            comparisons=(*SHADES, LIGHTING),
        ),
        TaskData("irradiance", Target(targets.light, "upper", ("transfer",)), (Kind("irradiance", Intrinsic),)),
        TaskData(
            "residual",
            Target(targets.light, "upper", ("transfer",)),
            (Kind("residual", Intrinsic),),
            comparisons=(*SHADES, LIGHTING),
        ),
        TaskData("roughness", Target(targets.level), (Kind("roughness", Level),)),
        TaskData("metallic", Target(targets.level), (Kind("metallic", Level),)),
        TaskData("material", Target(targets.light, options=("transfer",)), (Kind("material", Intrinsic),)),
        TaskData(
            "keypoints",
            Target(targets.keypoints),
            prepare=measured.heatmaps,
            resampling=Resampling(repair=redraw),
            comparisons=(
                Comparison("crops", "In crops around true boxes: over all keypoints of the set", ("pck-0.1", "pck")),
                Comparison(
                    "coco",
                    "COCO's evaluation by pycocotools, in the true boxes of people with a labelled keypoint",
                    ("ap", "ap50", "ap75", "ap-medium", "ap-large", "ar"),
                    measured.whole_set,
                ),
            ),
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
