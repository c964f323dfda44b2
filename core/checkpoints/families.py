"""Published checkpoint families: recognise one by its content, and say its Recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..generations import LATENT
from ..recipe import Recipe
from ..tasks import TASKS
from . import ldm_names
from .adapter_names import PROCESSORS
from .architecture import UNetArchitecture
from .tensors import pick_vae


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

    @property
    def pipeline(self) -> str:
        return str(self.index.get("_class_name", ""))

    @property
    def task(self) -> str:
        """The task as its own names and its index state it, "" if they do not."""
        stated = str(self.index.get("prediction_type", ""))
        return task_in(stated, self.folder, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.pipeline))

    @property
    def likely_task(self) -> str:
        """The same, or what the folder around it is called after; a person may know better than that."""
        return self.task or task_in(self.repository)


def task_in(*names: str) -> str:
    """The first task that is a word of these names, "" if none is."""
    words = re.split(r"[^a-z]+", " ".join(names).lower())
    tasks = {word: task.name for task in TASKS.values() for word in (task.name, *task.aliases)}
    return next((tasks[word] for word in words if word in tasks), "")


@dataclass(frozen=True)
class Beside:
    """What a family keeps in folders beside those of its UNets."""

    heads: tuple[str, ...] = ()
    """Folders of heads, the preferred first."""
    says_head: Callable[[str], bool] = lambda folder: False
    """Whether the name of a UNet's folder says that it was trained for a head."""
    decoder: tuple[str, ...] = ()
    """Folders of what stands in place of parts of the VAE."""
    pick_vae: Callable[[list[str]], dict[str, str]] = pick_vae
    """{name in the files of the VAE and of `decoder`: diffusers name}"""
    vae: str = ""
    """Whose VAE the decoder was trained from."""


@dataclass(frozen=True)
class Family:
    """A row: checkpoints that are recognised and run alike."""

    name: str
    title: str
    channels: int
    """Of the UNet's input: those of one latent is the image's alone, of two has the target's beside it."""
    recognise: Callable[[Clues], bool]
    """Whether clues of the right channels speak of this family."""
    recipe: Callable[[Clues, str], Recipe]
    """(clues, task) -> how to run it. UserError, without a full stop, if this version cannot."""
    preference: int = 0
    """Of several UNets for one task in a folder that of the family with the highest comes first."""
    beside: Beside = Beside()


def genpercept(clues: Clues, task: str) -> Recipe:
    """GenPercept v2: one step at timestep 1, no signal left in the schedule (configs of the authors' repository)."""
    return Recipe(task, family="genpercept", base=clues.architecture.base, tokens=2, **SHARED.get(task, {}))


def genpercept_dpt(clues: Clues, task: str) -> Recipe:
    """Its UNet features read by a DPT head; the head has no range, so each image is stretched to [0, 1]."""
    if not clues.head:
        raise UserError(f"its head is missing: put {HEADS[0]}/ beside it")
    base = clues.architecture.base
    return Recipe(task, family="genpercept-dpt", base=base, tokens=2, head=clues.head, codec="min-max")


def genpercept_v1(clues: Clues, task: str) -> Recipe:
    """GenPercept v1: the same network, another resize, 77 tokens, depth stretched per image."""
    extra = {"resize": "genpercept-v1", **SHARED.get(task, {}), **V1.get(task, {})}
    return Recipe(task, family="genpercept-v1", base=clues.architecture.base, **extra)


V1: dict[str, dict[str, Any]] = {
    "depth": {"codec": "late-min-max"},
    "disparity": {"codec": "late-min-max"},
    # v1 ran its masks as segmentations, whose colours it did not interpolate
    "mask": {"resize": "genpercept-v1-nearest"},
    "matte": {"resize": "genpercept-v1-nearest"},
    "segmentation": {"resize": "genpercept-v1-nearest"},
}
HEADS = ("dpt_head_identity", "dpt_head")
DECODER = ("vae_decoder", "vae_post_quant_conv")
"""Folders of its experiments, with the bare tensors of the two parts of a VAE."""


def pick_trained_vae(names: list[str]) -> dict[str, str]:
    """A VAE whose decoding half comes from DECODER, whose names say nothing of where they belong."""
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    whole = pick_vae([name for name in names if name.startswith(parts)])
    bare = [name for name in names if name not in whole]
    placed = {
        name: f"post_quant_conv.{name}" if "." not in name else f"decoder.{ldm_names.modern(name)}" for name in bare
    }
    return {**{old: new for old, new in whole.items() if new not in placed.values()}, **placed}


SHARED: dict[str, dict[str, Any]] = {
    # no sign change stands between its output and DSINE's evaluation, whose normals point left, up and back
    "normal": {"axes": ("left", "up", "back")},
    # its colours are no palette's, and its code interpolates them
    "segmentation": {"codec": "unit-range"},
}


def marigold(clues: Clues, task: str) -> Recipe:
    """Marigold in diffusers layout: everything that differs between its releases stands in its configs."""
    scheduler, index = clues.scheduler, clues.index
    for config, key, needed in MARIGOLD_CONFIG:
        found = getattr(clues, config).get(key, needed)
        if found != needed:
            raise UserError(f"its {config} says {key}={found}; this version runs Marigold with {needed}")
    codec = "unit-vector" if index.get("use_full_z_range", True) else "half-sphere"
    normals = {"axes": ("right", "up", "back"), "codec": codec}
    resolution = index.get("default_processing_resolution")
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
        resolution=768 if resolution is None else resolution,
        resize="marigold",
        tokens=2,
        **(normals if task == "normal" else {}),
    )


MARIGOLD_CONFIG: tuple[tuple[str, str, Any], ...] = (
    ("scheduler", "_class_name", "DDIMScheduler"),
    ("scheduler", "beta_schedule", "scaled_linear"),
    ("scheduler", "num_train_timesteps", 1000),
    ("scheduler", "trained_betas", None),
    ("scheduler", "clip_sample", False),
    ("scheduler", "thresholding", False),
    ("index", "scale_invariant", True),
    ("index", "shift_invariant", True),
)
"""What the recipe has no field for: (which config, its field, the value that can be run)."""


def genpercept_stochastic(clues: Clues, task: str) -> Recipe:
    """GenPercept's ablation that starts from noise: Marigold's network, its own resize, the last step's sample."""
    start, end = noise_betas(clues)
    return Recipe(
        task,
        family="genpercept-stochastic",
        base=clues.architecture.base,
        paradigm="stochastic",
        steps=10,
        beta_start=start,
        beta_end=end,
        tokens=2,
        ensemble_edge=50,
        **SHARED.get(task, {}),
    )


SLIPS = {"0point05440": "0point5440"}
"""What the names of its folders say: what is meant."""


def noise_betas(clues: Clues) -> tuple[float, float]:
    """As its scheduler says, or the name of its folder, such as ..._wo_rgb_blending_0point00340_0point048."""
    named = re.search(r"(\d+point\d+)_(\d+point\d+)", clues.repository)
    words = named.groups() if named else ("0point00085", "0point012")
    start, end = (float(SLIPS.get(word, word).replace("point", ".")) for word in words)
    return clues.scheduler.get("beta_start", start), clues.scheduler.get("beta_end", end)


def dmp(clues: Clues, task: str) -> Recipe:
    """DMP: LoRA on Stable Diffusion 1.4, five deterministic steps from the image; prompted unless its name says not."""
    return Recipe(
        task,
        family="dmp",
        base=clues.architecture.base,
        paradigm="deterministic",
        steps=5,
        beta_start=0.00085,
        beta_end=0.012,
        final="previous",
        guidance_scale=1.0 if "notext" in f"{clues.folder} {clues.repository}".lower() else 2.0,
        resolution=512,
        resize="dmp",
        **DMP_TARGETS.get(task, {}),
    )


DMP_TARGETS: dict[str, dict[str, Any]] = {
    # trained on metres / 8, with no upper bound
    "depth": {"codec": "unbounded", "target_scale": 8.0, "metric": True},
}


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "marigold",
            "Marigold (depth, normals)",
            2 * LATENT,
            lambda clues: clues.pipeline.startswith("Marigold"),
            marigold,
        ),
        Family(
            "genpercept-v1",
            "GenPercept v1",
            LATENT,
            lambda clues: clues.folder.endswith("_v1") and is_genpercept(clues),
            genpercept_v1,
            preference=1,
        ),
        Family(
            "genpercept-dpt",
            "GenPercept with a DPT head",
            LATENT,
            lambda clues: clues.head in HEADS,
            genpercept_dpt,
            preference=2,
            beside=Beside(heads=HEADS, says_head=lambda folder: "head" in folder),
        ),
        Family("dmp", "DMP", LATENT, lambda clues: clues.adapter == PROCESSORS, dmp),
        Family(
            "genpercept",
            "GenPercept v2",
            LATENT,
            lambda clues: is_genpercept(clues),
            genpercept,
            preference=3,
            beside=Beside(decoder=DECODER, pick_vae=pick_trained_vae, vae="Stable Diffusion 2.1"),
        ),
        Family(
            "genpercept-stochastic",
            "GenPercept from noise (ablation)",
            2 * LATENT,
            lambda clues: "wo_rgb_blending" in clues.repository,
            genpercept_stochastic,
        ),
    )
}
"""In the order in which they are tried."""


def is_genpercept(clues: Clues) -> bool:
    """Its folder, its pipeline or a schedule without signal says so."""
    named = re.fullmatch(r"unet_[a-z_]+_v[12]", clues.folder) is not None
    silent = clues.scheduler.get("beta_start") == clues.scheduler.get("beta_end") == 1.0
    return named or silent or clues.pipeline == "GenPerceptPipeline"


def recognise(clues: Clues) -> Family | None:
    """The first family that these clues fit."""
    return next((family for family in FAMILIES.values() if fits(family, clues) and family.recognise(clues)), None)


def fits(family: Family, clues: Clues) -> bool:
    """Whether its UNet takes what the family feeds it."""
    return clues.architecture.in_channels == family.channels and clues.architecture.vector_dim is None


def with_heads(folder: str) -> list[Family]:
    """The families whose UNets for a head lie in folders of this name."""
    return [family for family in FAMILIES.values() if family.beside.heads and family.beside.says_head(folder)]


def family_named(name: str) -> Family:
    """The row of that name. UserError if there is none."""
    if name not in FAMILIES:
        raise UserError(f"Unknown family {name!r}: this version knows {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def recipe_for(family: Family, clues: Clues, task: str) -> Recipe:
    """The recipe of a checkpoint of a family; task: "" as trained.

    UserError, without a full stop, if nothing says its task, its task is another, or its network is no such one.
    """
    if not fits(family, clues):
        found = clues.architecture.in_channels
        labels = " and a class embedding" if clues.architecture.vector_dim else ""
        raise UserError(f"its UNet has {found} input channels{labels} where {family.channels} are expected")
    wanted = task or clues.likely_task
    if not wanted:
        raise UserError(f"nothing in it says its task: name one of {', '.join(TASKS)}")
    if clues.task and wanted != clues.task:
        raise UserError(f"it was trained for {clues.task}, not for {wanted}")
    return family.recipe(clues, wanted)
