"""The one table of tasks: what a checkpoint can predict, and what all checkpoints of a task share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import UserError


@dataclass(frozen=True)
class Task:
    """One kind of dense map. What two checkpoints of a task may do differently belongs to the Recipe."""

    name: str
    title: str
    """As a person reads it."""
    channels: int
    """Channels of the raw values; the decoder's three are averaged where this is 1. Nothing where `per` is a person."""
    per: Literal["image", "person"] = "image"
    """What a map shows: an image, or the crop of one person, a channel for each keypoint that the recipe names, which
    only heads make."""
    codec: str = "unit-range"
    """A row of core.codecs.CODECS, unless the recipe names another."""
    head_codec: str = ""
    """Another one for heads that are trained anew, where there is a better one than the VAE's pictures allow."""
    merge: Literal["affine", "direction", "median"] = "median"
    """How the members of an ensemble become one: a row of core.ensemble.MERGES."""
    near: Literal["low", "high"] | None = None
    """Which end of the values is near the camera."""
    socket: Literal["image", "mask"] = "image"
    """Whether a person first wants an IMAGE or a MASK of it."""
    picture: str = "range"
    """How it is shown: a row of core.display.picture.PICTURES."""
    mask: str = "known"
    """What of it is a mask where nobody says more: a row of core.display.picture.MASKS."""
    selector: str = ""
    """By what a person picks a mask out of it: a row of core.display.selection.SELECTORS; empty if by nothing."""
    losses: tuple[str, ...] = ("mse",)
    """Between pictures, unless a config says otherwise: rows of core.measure.losses.LOSSES."""
    tiles: str = "levels"
    """How what the tiles of a large picture show is brought to the whole: a row of core.large_pictures.BROUGHT."""
    align: str = "none"
    """What brings predictions to the truth's scale before they are measured: a row of core.measure.align.ALIGNMENTS."""
    metrics: tuple[str, ...] = ("mse",)
    """Rows of core.measure.metrics.METRICS; the first one chooses the best checkpoint."""
    aliases: tuple[str, ...] = ()
    """What published folders and pipelines call it."""


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "depth",
            "Depth",
            1,
            merge="affine",
            near="low",
            picture="nearness",
            tiles="affine",
            mask="nearness",
            selector="range",
            losses=("mse", "ssi", "gradient"),
            align="least-square",
            metrics=("abs-rel", "delta1", "rmse"),
        ),
        Task(
            "disparity",
            "Disparity (inverse depth)",
            1,
            merge="affine",
            near="high",
            picture="nearness",
            tiles="affine",
            mask="nearness",
            selector="range",
            losses=("mse", "ssi", "gradient"),
            align="least-square-disparity",
            metrics=("abs-rel", "delta1", "rmse"),
        ),
        Task(
            "normal",
            "Surface normals",
            3,
            merge="direction",
            picture="directions",
            tiles="directions",
            aliases=("normals",),
            losses=("angular",),
            metrics=("mean-angle", "median-angle", "angle-11.25", "angle-30"),
        ),
        Task(
            "mask",
            "Mask (dichotomous segmentation)",
            1,
            socket="mask",
            mask="level",
            selector="level",
            aliases=("dis",),
            metrics=("max-f", "mae", "s-measure", "e-measure", "weighted-f", "iou"),
        ),
        Task(
            "matte",
            "Alpha matte",
            1,
            socket="mask",
            mask="level",
            selector="level",
            aliases=("matting",),
            losses=("l1", "laplacian"),
            metrics=("mad", "mse", "sad", "grad", "conn"),
        ),
        Task(
            "segmentation",
            "Segmentation",
            3,
            codec="class-colours",
            head_codec="class-scores",
            picture="classes",
            tiles="classes",
            selector="class",
            aliases=("seg",),
            metrics=("miou", "pixel-accuracy", "mean-accuracy"),
        ),
        Task("albedo", "Albedo", 3, losses=("l1",), metrics=("mse", "psnr", "ssim", "lmse")),
        Task("shading", "Shading", 3, losses=("l1",), metrics=("mse", "psnr", "ssim", "lmse")),
        Task("irradiance", "Irradiance", 3, losses=("l1",), metrics=("mse", "psnr", "ssim", "lmse")),
        Task(
            "residual",
            "Residual (what is not diffuse)",
            3,
            losses=("l1",),
            metrics=("mse", "psnr", "ssim", "lmse"),
        ),
        Task("roughness", "Roughness", 1, losses=("l1",), metrics=("mae", "mse")),
        Task(
            "metallic",
            "Metallicity",
            1,
            losses=("l1",),
            metrics=("mae", "mse"),
            aliases=("metallicity", "metallicness"),
        ),
        Task("material", "Material (red roughness, green metallicity)", 3, losses=("l1",), metrics=("mse", "psnr")),
        Task(
            "keypoints",
            "Keypoints",
            0,
            per="person",
            codec="heatmaps",
            picture="skeletons",
            tiles="people",
            aliases=("pose",),
            losses=("heatmaps",),
            metrics=("pck-0.1", "pck"),
        ),
    )
}


def task_named(name: str) -> Task:
    """The row called `name`, or known to the published code by that name. UserError if there is none."""
    for task in TASKS.values():
        if name == task.name or name in task.aliases:
            return task
    raise UserError(
        f"Unknown task {name!r}: this version knows {', '.join(TASKS)}; check the spelling or update the pack."
    )


def tasks_where(**columns: str) -> tuple[str, ...]:
    """The names of the tasks whose rows say that, such as picture="nearness"."""
    return tuple(
        name for name, row in TASKS.items() if all(getattr(row, column) == value for column, value in columns.items())
    )
