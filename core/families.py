"""Published checkpoint families: recognise one by its content, and say its Recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .architecture import UNetArchitecture
from .recipe import Recipe
from .tasks import TASKS, task_named


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

    @property
    def pipeline(self) -> str:
        return str(self.index.get("_class_name", ""))

    @property
    def task(self) -> str:
        """The task as its names and index state it, "" if they do not."""
        stated = str(self.index.get("prediction_type", ""))
        words = re.split(r"[^a-z]+", " ".join((stated, self.folder, self.pipeline_words, self.repository)).lower())
        names = {word: task.name for task in TASKS.values() for word in (task.name, *task.aliases)}
        return next((names[word] for word in words if word in names), "")

    @property
    def pipeline_words(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.pipeline)


@dataclass(frozen=True)
class Family:
    """A row: checkpoints that are recognised and run alike."""

    name: str
    title: str
    recognise: Callable[[Clues], bool]
    recipe: Callable[[Clues, str], Recipe]
    """(clues, task) -> how to run it."""
    default_task: str = ""


def genpercept(clues: Clues, task: str) -> Recipe:
    """GenPercept v2: one step at timestep 1, no image signal left in the schedule (configs of the authors' repository)."""
    return Recipe(task, family="genpercept", base=clues.architecture.base, tokens=2, **SHARED.get(task, {}))


def genpercept_dpt(clues: Clues, task: str) -> Recipe:
    """Its UNet features read by a DPT head; the head has no range, so each image is stretched to [0, 1]."""
    return Recipe(
        task, family="genpercept-dpt", base=clues.architecture.base, tokens=2, head=clues.head or HEADS[0], codec="min-max"
    )


def genpercept_v1(clues: Clues, task: str) -> Recipe:
    """GenPercept v1: the same network, another resize, 77 tokens, depth stretched per image."""
    codec = "late-min-max" if task in ("depth", "disparity") else ""
    extra = {**SHARED.get(task, {}), "resize": "genpercept-v1", "codec": codec}
    return Recipe(task, family="genpercept-v1", base=clues.architecture.base, **extra)


HEADS = ("dpt_head_identity", "dpt_head")
SHARED: dict[str, dict[str, Any]] = {
    # no sign change stands between its output and DSINE's evaluation, whose normals point left, up and back
    "normal": {"axes": ("left", "up", "back")},
    "segmentation": {"palette": "ade20k"},
}


def marigold(clues: Clues, task: str) -> Recipe:
    """Marigold in diffusers layout: everything that differs between its releases stands in its configs."""
    scheduler, index = clues.scheduler, clues.index
    kind = scheduler.get("_class_name", "DDIMScheduler")
    if kind != "DDIMScheduler":
        raise ValueError(f"its scheduler is {kind}; this version runs Marigold checkpoints with DDIMScheduler")
    normals = {"axes": ("right", "up", "back"), "codec": "unit-vector" if index.get("use_full_z_range", True) else "half-sphere"}
    return Recipe(
        task,
        family="marigold",
        base=clues.architecture.base,
        paradigm="stochastic",
        steps=index.get("default_denoising_steps") or 10,
        beta_start=scheduler.get("beta_start", 0.00085),
        beta_end=scheduler.get("beta_end", 0.012),
        zero_snr=scheduler.get("rescale_betas_zero_snr", False),
        spacing=scheduler.get("timestep_spacing", "leading"),
        steps_offset=scheduler.get("steps_offset", 1),
        final_alpha_one=scheduler.get("set_alpha_to_one", False),
        prediction_type=scheduler.get("prediction_type", "v_prediction"),
        final="previous",
        resolution=index.get("default_processing_resolution") or 768,
        resize="marigold",
        tokens=2,
        **(normals if task == "normal" else {}),
    )


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "marigold",
            "Marigold (depth, normals)",
            lambda clues: clues.architecture.in_channels == 8 and clues.pipeline.startswith("Marigold"),
            marigold,
        ),
        Family(
            "genpercept-v1",
            "GenPercept v1",
            lambda clues: clues.folder.endswith("_v1") and is_genpercept(clues),
            genpercept_v1,
        ),
        Family(
            "genpercept-dpt",
            "GenPercept with a DPT head",
            lambda clues: bool(clues.head) and is_genpercept(clues),
            genpercept_dpt,
            default_task="disparity",
        ),
        Family("genpercept", "GenPercept v2", lambda clues: is_genpercept(clues), genpercept),
    )
}


def is_genpercept(clues: Clues) -> bool:
    """Image latent only, and either its folder, its pipeline or a schedule without signal says so."""
    if clues.architecture.in_channels != 4 or clues.architecture.vector_dim:
        return False
    named = re.fullmatch(r"unet_[a-z_]+_v[12]", clues.folder) is not None
    silent = clues.scheduler.get("beta_start") == clues.scheduler.get("beta_end") == 1.0
    return named or silent or clues.pipeline == "GenPerceptPipeline"


def recognise(clues: Clues) -> Family | None:
    """The first family that these clues fit."""
    return next((family for family in FAMILIES.values() if family.recognise(clues)), None)


def family_named(name: str) -> Family:
    if name not in FAMILIES:
        raise ValueError(f"Unknown family {name!r}: this version knows {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def recipe_for(family: Family, clues: Clues, task: str) -> Recipe:
    """The recipe of a checkpoint of a family. ValueError if nothing says its task, or its task is another."""
    stated = clues.task or family.default_task
    wanted = task_named(task).name if task else stated
    if not wanted:
        raise ValueError(f"nothing in it says its task: name one of {', '.join(TASKS)}")
    if clues.task and wanted != clues.task:
        raise ValueError(f"it was trained for {clues.task}, not for {wanted}")
    return family.recipe(clues, wanted)
