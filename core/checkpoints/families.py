"""Published checkpoint families: recognise one by its content, and say its Recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..errors import UserError
from ..generations import LATENT
from ..perception_map import Axis, Encoding
from ..recipe import Recipe
from ..tasks import TASKS
from . import ldm_names
from .adapter_names import PROCESSORS
from .architecture import UNetArchitecture
from .clues import Clues, task_in
from .published import UNSAID, licence_of
from .tensors import INNER_HEAD, pick_vae


def _by_names(clues: Clues) -> tuple[str]:
    """The task of a network that learns whatever it is taught, as names tell it."""
    return (clues.likely_task,)


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
    head_weight: str = ""
    """A weight that tells heads from what others keep in folders of that name."""


@dataclass(frozen=True)
class Family:
    """A row: checkpoints that are recognised and run alike."""

    name: str
    title: str
    channels: int
    """Of the UNet's input: those of one latent is the image's alone, of two has the target's beside it; 0: it predicts
    several latents at once and has all of them beside the image's."""
    recognise: Callable[[Clues], bool]
    """Whether clues of the right channels speak of this family."""
    recipe: Callable[[Clues, str], Recipe]
    """(clues, task) -> how to run it. UserError, without a full stop, if this version cannot."""
    tasks: Callable[[Clues], tuple[str, ...]] = _by_names
    """What one network of it answers, the first where nothing more is said; "" is that its names do not tell."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """{task that may be asked for: the one that is given for it}"""
    vector_dim: int | None = None
    """Width of its class embedding's input, if it has one."""
    fourier: bool = False
    """Whether a Fourier block stands behind the middle of its UNet."""
    licence: Callable[[Clues], str] = lambda clues: licence_of(clues.folder, clues.repository)
    """Of its published weights, as far as that is known."""
    hint: str = ""
    """A word in the names of its published files; for people, where weights cannot tell."""
    preference: int = 0
    """Of several UNets for one task in a folder that of the family with the highest comes first."""
    beside: Beside = Beside()


def genpercept(clues: Clues, task: str) -> Recipe:
    """GenPercept v2: one step at timestep 1, no signal left in the schedule (configs of the authors' repository)."""
    return Recipe(task, family="genpercept", base=clues.architecture.base, tokens=2, **SHARED.get(task, {}))


def _genpercept_dpt(clues: Clues, task: str) -> Recipe:
    """Its UNet features read by a DPT head; the head has no range, so each image is stretched to [0, 1]."""
    if not clues.head:
        raise UserError(f"its head is missing: put {HEADS[0]}/ beside it")
    base = clues.architecture.base
    return Recipe(task, family="genpercept-dpt", base=base, tokens=2, head=clues.head, codec="min-max")


def _genpercept_v1(clues: Clues, task: str) -> Recipe:
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


def _pick_trained_vae(names: list[str]) -> dict[str, str]:
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
    if "coco" in clues.names or (task == "segmentation" and clues.pipeline == "MarigoldPipeline"):
        raise UserError("it paints white what a prompt names, which is no map that this version knows")
    codec = "unit-vector" if clues.index.get("use_full_z_range", True) else "half-sphere"
    normals = {"axes": ("right", "up", "back"), "codec": codec}
    return Recipe(task, **_from_noise(clues, "marigold"), **(normals if task == "normal" else {}))


def _from_noise(clues: Clues, family: str) -> dict[str, Any]:
    """What Marigold's diffusers pipelines read from their configs."""
    release = _release_of(clues)
    configs = {"scheduler": _scheduler_of(clues, release), "index": clues.index}
    for config, key, runs in MARIGOLD_CONFIG:
        found = configs[config].get(key, runs[0])
        if found not in runs:
            needed = " or ".join(map(str, runs))
            raise UserError(f"its {config} says {key}={found}; this version runs Marigold with {needed}")
    scheduler, index = configs["scheduler"], clues.index
    resolution = index.get("default_processing_resolution")
    return {
        "family": family,
        "base": clues.architecture.base,
        "paradigm": "stochastic",
        "steps": index.get("default_denoising_steps") or release.steps,
        **schedule(scheduler),
        "sampler": SAMPLERS[scheduler["_class_name"]],
        "original_steps": scheduler.get("original_inference_steps", 50),
        "timestep_scaling": scheduler.get("timestep_scaling", 10.0),
        "final": "previous",
        "resolution": 768 if resolution is None else resolution,
        "resize": "marigold",
        "tokens": 2,
    }


def schedule(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """What a whole scheduler_config.json says of the steps."""
    return {
        "beta_start": scheduler["beta_start"],
        "beta_end": scheduler["beta_end"],
        "zero_snr": scheduler["rescale_betas_zero_snr"],
        "spacing": scheduler["timestep_spacing"],
        "steps_offset": scheduler["steps_offset"],
        "final_alpha_one": scheduler["set_alpha_to_one"],
        "prediction_type": scheduler["prediction_type"],
    }


class Release(NamedTuple):
    """Marigold's networks of one kind, for those that come without their configs."""

    named: str
    """A pattern of their names."""
    steps: int
    """Where no index says it."""
    scheduler: Mapping[str, Any]
    """What their scheduler_config.json says."""


def _release_of(clues: Clues) -> Release:
    """By its scheduler's class, by its names, or by what it predicts: intrinsic images came with the second only."""
    sampler, several = clues.scheduler.get("_class_name"), clues.architecture.out_channels > LATENT
    names = clues.names.replace("_", "-") + (" v1-1" if several else "")
    suiting = [row for row in RELEASES if sampler in (None, row.scheduler["_class_name"])]
    return next(row for row in (*suiting, RELEASES[-1]) if re.search(row.named, names) or row is RELEASES[-1])


def _scheduler_of(clues: Clues, release: Release) -> dict[str, Any]:
    """Its scheduler_config.json; what the file leaves out is as in diffusers, and all is the release's without one."""
    stated = {"_class_name": "DDIMScheduler", **(clues.scheduler or release.scheduler)}
    return {**SCHEDULERS.get(stated["_class_name"], {}), **stated}


SAMPLERS = {"DDIMScheduler": "ddim", "LCMScheduler": "lcm"}
"""{diffusers' class: a row of core.diffusion.SAMPLERS}"""
DDIM = {
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
LCM = {**DDIM, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SCHEDULERS: dict[str, dict[str, Any]] = {"DDIMScheduler": DDIM, "LCMScheduler": LCM}
"""{diffusers' class: what it takes where its config is silent}"""
FIRST = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
SECOND = {**FIRST, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
RELEASES = (
    Release(r"\blcm\b", 1, {**FIRST, "_class_name": "LCMScheduler"}),
    Release(r"\bv?1[-_.]1\b", 4, SECOND),
    Release("", 10, FIRST),
)
"""The first whose names fit is the one."""


MARIGOLD_CONFIG: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("scheduler", "_class_name", tuple(SAMPLERS)),
    ("scheduler", "beta_schedule", ("scaled_linear",)),
    ("scheduler", "num_train_timesteps", (1000,)),
    ("scheduler", "trained_betas", (None,)),
    ("scheduler", "clip_sample", (False,)),
    ("scheduler", "thresholding", (False,)),
    ("index", "scale_invariant", (True,)),
    ("index", "shift_invariant", (True,)),
)
"""What the recipe has no field for: (which config, its field, the values that can be run, the usual one first)."""


def _is_marigold(clues: Clues) -> bool:
    """Its pipeline says so and its schedule is one of Marigold's: others have been published under its class."""
    known = bool(clues.scheduler) and clues.ending != (True, False)
    return clues.pipeline.startswith("Marigold") and known and not _is_e2e_ft(clues)


def _marigold_intrinsics(clues: Clues, task: str) -> Recipe:
    """Marigold for intrinsic images: several targets from one noise, as its index names them."""
    row = next(row for row in intrinsics(clues) if row.task == task)
    encoding, up_to_scale = _space_of(clues, row.stated)
    return Recipe(
        task,
        **_from_noise(clues, "marigold-intrinsics"),
        targets=clues.architecture.out_channels // LATENT,
        target=row.target,
        channel=row.channel,
        encoding=encoding,
        up_to_scale=up_to_scale,
    )


class Intrinsic(NamedTuple):
    """One map of a network that predicts several latents."""

    task: str
    stated: str
    """What the index calls it."""
    target: int
    channel: int = -1


LINEAR = {"prediction_space": "linear"}
SCALED = {**LINEAR, "up_to_scale": True}
INTRINSICS: dict[int, dict[str, Any]] = {
    2: {
        "target_names": ["albedo", "material"],
        "albedo": {"prediction_space": "srgb"},
        "material": {"prediction_space": "stack", "sub_target_names": ["roughness", "metallicity", None]},
        "roughness": LINEAR,
        "metallicity": LINEAR,
    },
    3: {"target_names": ["albedo", "shading", "residual"], "albedo": LINEAR, "shading": SCALED, "residual": SCALED},
}
"""{how many latents: what the index of Marigold's release says of them}, where there is no index."""


def intrinsics(clues: Clues) -> list[Intrinsic]:
    """The maps that its index names, in its order; what is stacked in the channels of one comes after it."""
    stated = properties(clues)
    count = clues.architecture.out_channels // LATENT
    found = []
    for target, name in enumerate(stated.get("target_names") or ()):
        found.append(Intrinsic(task_in(str(name)), str(name), target))
        inner = stated.get(name, {}).get("sub_target_names")
        parts = [(channel, str(part)) for channel, part in enumerate(inner or ()) if part]
        found += [Intrinsic(task_in(part), part, target, channel) for channel, part in parts]
    return [row for row in found if row.task and row.target < count]


def properties(clues: Clues) -> dict[str, Any]:
    """What an index says of the targets, or would where there is none; {} if nothing can be understood."""
    held = clues.index.get("target_properties")
    if not held:
        return INTRINSICS.get(clues.architecture.out_channels // LATENT, {})
    rows = held if isinstance(held, dict) else {}
    return {name: row for name, row in rows.items() if isinstance(row, list if name == "target_names" else dict)}


def _space_of(clues: Clues, name: str) -> tuple[Encoding, bool]:
    """(encoding, whether up to scale) of one map, as an index states them."""
    row = properties(clues).get(name, {})
    encodings: dict[Any, Encoding] = {"linear": "linear", "srgb": "srgb"}
    return encodings.get(row.get("prediction_space"), ""), bool(row.get("up_to_scale"))


def e2e_ft(clues: Clues, task: str) -> Recipe:
    """E2E-FT (Martin Garcia et al. 2024): Marigold's network in one step from zeros, the sample itself decoded."""
    return Recipe(
        task,
        family="e2e-ft",
        base=clues.architecture.base,
        paradigm="stochastic",
        noise="zeros",
        beta_start=clues.scheduler.get("beta_start", 0.00085),
        beta_end=clues.scheduler.get("beta_end", 0.012),
        spacing="trailing",
        prediction_type=clues.scheduler.get("prediction_type", "v_prediction"),
        tokens=2,
        **E2E_FT_TARGETS.get(task, {}),
    )


E2E_FT_TARGETS: dict[str, dict[str, Any]] = {
    "depth": {"target_scale": 0.0},  # each picture's own range
    "normal": {"axes": ("left", "up", "back"), "codec": "early-unit-vector"},
}


def _is_e2e_ft(clues: Clues) -> bool:
    """By its name, or by a schedule that no other has under the pipeline that it was published with."""
    return "e2e" in clues.names or (clues.ending == (True, False) and clues.pipeline == "StableDiffusionPipeline")


def lotus_d(clues: Clues, task: str) -> Recipe:
    """Lotus-D (He et al. 2024): one pass from the image, which gives the sample itself."""
    return Recipe(task, family="lotus-d", timestep=999, **lotus(clues, task))


def lotus_g(clues: Clues, task: str) -> Recipe:
    """Lotus-G: the same with noise beside the image."""
    return Recipe(task, family="lotus-g", paradigm="stochastic", spacing="trailing", **lotus(clues, task))


def lotus(clues: Clues, task: str) -> dict[str, Any]:
    """What both share. Their schedulers differ between releases and do not matter for one step."""
    vectors = {"axes": ("left", "up", "back"), "codec": "plain-vector"}
    return {
        "base": clues.architecture.base,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "sample",
        "vector": ANNOTATION,
        "tokens": 2,
        "resize": "lotus",
        **(vectors if task == "normal" else {"codec": "late-mean"}),
    }


ANNOTATION = (math.sin(1), math.sin(0), math.cos(1), math.cos(0))
"""The class vector of Lotus and SDPose for maps; another one asks for the picture again."""


def sdpose(clues: Clues, task: str) -> Recipe:
    """SDPose (Liang et al. 2025): Lotus-D's pass over a person, of which a head reads one level of features."""
    points = clues.head_shapes.get("final_layer.weight", (0,))[0]
    if not points:
        raise UserError("its head is missing: put decoder/ beside it")
    if points not in SDPOSE:
        raise UserError(f"its head gives {points} heatmaps; this version knows those of {COUNTS} keypoints")
    return Recipe(
        task,
        family="sdpose",
        base=clues.architecture.base,
        timestep=999,
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="sample",
        vector=ANNOTATION,
        tokens=2,
        resolution=1024,
        head="sdpose",
        codec="raw-heatmaps",
        keypoints=SDPOSE[points],
        crop="stretched",
        decoding="udp",
    )


SDPOSE = {17: "coco-17", 133: "wholebody-133"}
"""{heatmaps of its head: their skeleton}, of SDPose-Body and SDPose-Wholebody."""
SDPOSE_HEADS = ("decoder", INNER_HEAD.rstrip("."))
"""A folder beside the UNet, or tensors among its own."""
COUNTS = " and ".join(map(str, SDPOSE))


def depthmaster(clues: Clues, task: str) -> Recipe:
    """DepthMaster (Song et al. 2025): one pass at timestep 1, which gives the square root of disparity."""
    base = clues.architecture.base
    return Recipe(
        task, family="depthmaster", base=base, prediction_type="sample", encoding="square-root", tokens=2
    )  # fmt: skip


def _rgb_x(clues: Clues, task: str) -> Recipe:
    """RGB-X (Zeng et al. 2024): noise, then the picture in linear light; its prompt names what is wanted."""
    prompt, read = AOVS[task]
    return Recipe(
        task,
        family="rgb-x",
        base=clues.architecture.base,
        paradigm="stochastic",
        order="noise-first",
        final="previous",
        prompt=prompt,
        **{**read, **_rgb_x_run(clues)},
    )


def _rgb_x_run(clues: Clues) -> dict[str, Any]:
    """What it and its fine-tunes do differently.

    RGB-X's demo loads the schedule with zero SNR and trailing steps, which the file does not say. Ouroboros is the same
    in one step at the picture's own size. Olbedo is run by its configs, takes pictures as they are and gives them so.
    """
    if _is_olbedo(clues):
        encoding, up_to_scale = _space_of(clues, "albedo")
        index, resolution = clues.index, clues.index.get("default_processing_resolution")
        return {
            **schedule(_scheduler_of(clues, RELEASES[1])),
            "steps": index.get("default_denoising_steps") or RELEASES[1].steps,
            "resolution": 2000 if resolution is None else resolution,
            "codec": "",
            "encoding": encoding,
            "up_to_scale": up_to_scale,
        }
    single = clues.folder == "unet_1" or "ouroboros" in clues.names
    return {
        "steps": 1 if single else 50,
        "beta_start": clues.scheduler.get("beta_start", 0.00085),
        "beta_end": clues.scheduler.get("beta_end", 0.012),
        "zero_snr": True,
        "spacing": "trailing",
        "prediction_type": clues.scheduler.get("prediction_type", "v_prediction"),
        "resolution": 0 if single else 1000,
        "resize": "rgb-x",
        "input_gamma": 2.2,
    }


AOVS: dict[str, tuple[str, dict[str, Any]]] = {
    "albedo": ("Albedo (diffuse basecolor)", {"codec": "display", "encoding": "gamma-2.2"}),
    # its authors do not say where the axes point; lengths are as they are decoded
    "normal": ("Camera-space Normal", {"codec": "unit-range"}),
    "roughness": ("Roughness", {"channel": 0, "encoding": "linear"}),
    "metallic": ("Metallicness", {"channel": 0, "encoding": "linear"}),
    "irradiance": ("Irradiance (diffuse lighting)", {"codec": "display", "encoding": "gamma-2.2"}),
}
"""{task: (its prompt, how the answer is read)}"""


def _aovs(clues: Clues) -> tuple[str, ...]:
    """Olbedo has been fine-tuned for one of them."""
    return ("albedo",) if _is_olbedo(clues) else tuple(AOVS)


def _is_rgb_x(clues: Clues) -> bool:
    """By its pipeline, or the names of it and its fine-tunes."""
    named = re.search(r"rgb-?(to-|2)?x\b|ouroboros|rgbx", clues.names.replace("_", "-")) is not None
    return named or clues.folder == "unet_1" or "AOVMatEst" in clues.pipeline or _is_olbedo(clues)


def _is_olbedo(clues: Clues) -> bool:
    """By its names, or an index that says of one target what Marigold's says of several."""
    return "olbedo" in f"{clues.names} {clues.pipeline.lower()}" or bool(clues.index.get("target_properties"))


def _genpercept_stochastic(clues: Clues, task: str) -> Recipe:
    """GenPercept's ablation that starts from noise: Marigold's network, its own resize, the last step's sample."""
    start, end = _noise_betas(clues)
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


def _noise_betas(clues: Clues) -> tuple[float, float]:
    """As its scheduler says, or the name of its folder, such as ..._wo_rgb_blending_0point00340_0point048."""
    named = re.search(r"(\d+point\d+)_(\d+point\d+)", clues.names)
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
        guidance_scale=1.0 if "notext" in clues.names else 2.0,
        resolution=512,
        resize="dmp",
        **DMP_TARGETS.get(task, {}),
    )


OMNIDATA: tuple[Axis, Axis, Axis] = ("right", "down", "forward")
"""Where the normals of Omnidata's networks point, which taught others."""
DMP_TARGETS: dict[str, dict[str, Any]] = {
    # trained on metres / 8, with no upper bound
    "depth": {"codec": "unbounded", "target_scale": 8.0, "metric": True},
    "normal": {"axes": OMNIDATA},
    # its code interpolates colours
    "segmentation": {"palette": "dmp", "codec": "unit-range"},
}


def _intrinsic_lora(clues: Clues, task: str) -> Recipe:
    """Intrinsic-LoRA (Du et al. 2023): LoRA on Stable Diffusion 1.5, one step that gives the sample itself."""
    if task not in INTRINSIC_LORA:
        raise UserError(f"it has been trained for {', '.join(INTRINSIC_LORA)}, not for {task}")
    prompt, read = INTRINSIC_LORA[task]
    return Recipe(
        task,
        family="intrinsic-lora",
        base=clues.architecture.base,
        timestep=999,
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="sample",
        prompt=prompt,
        resolution=512,
        resize="intrinsic-lora",
        **read,
    )


INTRINSIC_LORA: dict[str, tuple[str, dict[str, Any]]] = {
    "depth": ("depth map", {"codec": "min-max-mean"}),
    "normal": ("surface normal", {"codec": "unit-vector", "axes": OMNIDATA}),
    "albedo": ("albedo", {}),
    "shading": ("shading", {}),
}
"""{task: (its prompt, how the answer is read)}"""


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "marigold",
            "Marigold (depth, normals)",
            2 * LATENT,
            _is_marigold,
            marigold,
            hint="marigold",
        ),
        Family(
            "marigold-intrinsics",
            "Marigold (intrinsic images)",
            0,
            lambda clues: True,
            _marigold_intrinsics,
            tasks=lambda clues: tuple(row.task for row in intrinsics(clues)) or ("",),
        ),
        Family("e2e-ft", "E2E-FT", 2 * LATENT, _is_e2e_ft, e2e_ft, hint="e2e"),
        Family("rgb-x", "RGB-X", 2 * LATENT, _is_rgb_x, _rgb_x, tasks=_aovs, hint="rgb"),
        Family(
            "sdpose",
            "SDPose",
            LATENT,
            lambda clues: clues.head in SDPOSE_HEADS or "sdpose" in f"{clues.names} {clues.pipeline.lower()}",
            sdpose,
            tasks=lambda clues: ("keypoints",),
            vector_dim=4,
            beside=Beside(heads=("decoder",), head_weight="deconv_layers.0.weight"),
        ),
        Family("lotus-d", "Lotus-D", LATENT, lambda clues: True, lotus_d, vector_dim=4),
        Family("lotus-g", "Lotus-G", 2 * LATENT, lambda clues: True, lotus_g, vector_dim=4),
        Family(
            "depthmaster",
            "DepthMaster",
            LATENT,
            lambda clues: True,
            depthmaster,
            tasks=lambda clues: ("disparity",),
            instead={"depth": "disparity"},
            fourier=True,
        ),
        Family(
            "genpercept-v1",
            "GenPercept v1",
            LATENT,
            lambda clues: clues.folder.endswith("_v1") and _is_genpercept(clues),
            _genpercept_v1,
            preference=1,
        ),
        Family(
            "genpercept-dpt",
            "GenPercept with a DPT head",
            LATENT,
            lambda clues: clues.head in HEADS,
            _genpercept_dpt,
            preference=2,
            beside=Beside(heads=HEADS, says_head=lambda folder: "head" in folder),
        ),
        Family(
            "intrinsic-lora",
            "Intrinsic-LoRA",
            LATENT,
            lambda clues: clues.adapter == PROCESSORS and clues.rank == 8,
            _intrinsic_lora,
            hint="intrinsic",
        ),
        Family(
            "dmp",
            "DMP",
            LATENT,
            lambda clues: clues.adapter == PROCESSORS and clues.rank != 8,
            dmp,
            hint="dmp",
        ),
        Family(
            "genpercept",
            "GenPercept v2",
            LATENT,
            lambda clues: _is_genpercept(clues),
            genpercept,
            hint="genpercept",
            preference=3,
            beside=Beside(decoder=DECODER, pick_vae=_pick_trained_vae, vae="Stable Diffusion 2.1"),
        ),
        Family(
            "genpercept-stochastic",
            "GenPercept from noise (ablation)",
            2 * LATENT,
            lambda clues: "wo_rgb_blending" in clues.names,
            _genpercept_stochastic,
        ),
    )
}
"""In the order in which they are tried."""


def _is_genpercept(clues: Clues) -> bool:
    """Its folder, its pipeline or a schedule without signal says so."""
    named = re.fullmatch(r"unet_[a-z_]+_v[12]", clues.folder) is not None
    silent = clues.scheduler.get("beta_start") == clues.scheduler.get("beta_end") == 1.0
    return named or silent or clues.pipeline == "GenPerceptPipeline"


def recognise(clues: Clues) -> Family | None:
    """The first family that these clues fit."""
    return next(
        (family for family in FAMILIES.values() if takes_inputs(family, clues) and family.recognise(clues)), None
    )


def takes_inputs(family: Family, clues: Clues) -> bool:
    """Whether its UNet takes what the family feeds it, and gives what the family reads."""
    net = clues.architecture
    several = net.out_channels > LATENT
    taken = net.in_channels == (family.channels or LATENT + net.out_channels) and several == (not family.channels)
    return taken and net.vector_dim == family.vector_dim and net.fourier == family.fourier


def with_heads(folder: str) -> list[Family]:
    """The families whose UNets for a head lie in folders of this name."""
    return [family for family in FAMILIES.values() if family.beside.heads and family.beside.says_head(folder)]


def family_named(name: str) -> Family:
    """The row of that name. UserError if there is none."""
    if name not in FAMILIES:
        raise UserError(f"Unknown family {name!r}: this version knows {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def family_title(name: str) -> str:
    """What people call the family of that name, also one that this version does not know."""
    return FAMILIES[name].title if name in FAMILIES else name or UNSAID


def recipe_for(family: Family, clues: Clues, task: str) -> Recipe:
    """The recipe of a checkpoint of a family; task: "" as trained, of several the first.

    UserError, without a full stop, if nothing says its task, its task is another, or its network is no such one.
    """
    if not takes_inputs(family, clues):
        raise UserError(_misfit(family, clues.architecture))
    held = tuple(filter(None, family.tasks(clues)))
    wanted = family.instead.get(task, task) or next(iter(held), "")
    if not wanted:
        apart = "its names and its index speak of different tasks"
        why = apart if clues.contradicted else "nothing in it says its task"
        raise UserError(f"{why}: name one of {', '.join(TASKS)}")
    known = tuple(filter(None, (clues.task,))) if family.tasks is _by_names else held
    if known and wanted not in known:
        raise UserError(f"it was trained for {', '.join(known)}, not for {wanted}")
    recipe = family.recipe(clues, wanted)
    return recipe if recipe.licence else replace(recipe, licence=family.licence(clues))


def _misfit(family: Family, net: UNetArchitecture) -> str:
    """Why a network is none of a family's."""
    parts = (
        ("a class embedding", net.vector_dim, family.vector_dim),
        ("a Fourier block", net.fourier, family.fourier),
    )
    found = " and ".join((f"{net.in_channels} input channels", *(part for part, held, _ in parts if held)))
    channels = str(family.channels or f"{3 * LATENT} or more")
    wanted = " and ".join((channels, *(part for part, _, needed in parts if needed)))
    return f"its UNet has {found} where {wanted} are expected"
