"""Published families on disk, on tiny random networks: each as its publishers lay it out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from diffusion_perception.core.fourier import FourierBlock

DDIM = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "thresholding": False,
    "trained_betas": None,
}
"""Marigold v1-0's, whose file is silent on spacing and zero SNR."""
TRAILING = {**DDIM, "timestep_spacing": "trailing", "rescale_betas_zero_snr": False}
ZERO = {**TRAILING, "rescale_betas_zero_snr": True}
LCM = {**DDIM, "_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0}
SILENT = {"_class_name": "DDIMScheduler", "beta_start": 1.0, "beta_end": 1.0}
AFFINE = {"scale_invariant": True, "shift_invariant": True}
PARTS: dict[str, Any] = {
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
APPEARANCE = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "srgb"},
    "material": {"prediction_space": "stack", "sub_target_names": ["roughness", "metallicity", None]},
    "roughness": {"prediction_space": "linear", "up_to_scale": False},
    "metallicity": {"prediction_space": "linear", "up_to_scale": False},
}
LIGHTING = {
    "target_names": ["albedo", "shading", "residual"],
    "albedo": {"prediction_space": "linear", "up_to_scale": False},
    "shading": {"prediction_space": "linear", "up_to_scale": True},
    "residual": {"prediction_space": "linear", "up_to_scale": True},
}


@dataclass(frozen=True)
class Published:
    """One repository."""

    repository: str
    family: str
    tasks: tuple[str, ...]
    """What it answers, the first where nothing is asked for."""
    index: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    channels: tuple[int, int] = (4, 4)
    classes: int = 0
    fourier: bool = False
    folder: str = "unet"
    run: dict[str, Any] = field(default_factory=dict)
    """Fields of its recipe that its configs, or its authors' code, say."""
    named: bool = False
    """Whether its name and weights tell the family."""
    alone: bool = False
    """Whether its weights alone do."""

    @property
    def network(self) -> UNet2DConditionModel:
        return unet(*self.channels, self.classes, self.fourier)

    @property
    def name(self) -> str:
        """Of the UNet's folder, if it is lifted out of the repository."""
        return self.repository if self.folder == "unet" else self.folder


@cache
def unet(taken: int = 4, given: int = 4, classes: int = 0, fourier: bool = False, seed: int = 0) -> Any:
    """As tiny.unet(), with other ends, a class embedding or a Fourier block (whose hook is the caller's to set)."""
    torch.manual_seed(seed)
    network = UNet2DConditionModel(
        in_channels=taken,
        out_channels=given,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        attention_head_dim=[1, 2, 2, 2],  # pyright: ignore[reportArgumentType]
        cross_attention_dim=tiny.WIDTH,
        use_linear_projection=True,
        class_embed_type="projection" if classes else None,
        projection_class_embeddings_input_dim=classes or None,
    )
    if fourier:
        network.fftblock = FourierBlock(64)
    return network.eval().requires_grad_(False)


def marigold(kind: str, version: str, scheduler: dict[str, Any], steps: int, index: dict[str, Any], **run: Any) -> Any:
    """One of Marigold's repositories of a single map."""
    task = {"normals": "normal"}.get(kind, kind)
    stated = {**PARTS, **index, "default_denoising_steps": steps, "default_processing_resolution": 768}
    if version == "v1-0" and scheduler is DDIM:
        del stated["default_denoising_steps"], stated["default_processing_resolution"]
    made = {"paradigm": "stochastic", "order": "image-first", "noise": "gaussian", "final": "previous"}
    return Published(
        f"marigold-{kind}-{version}", "marigold", (task,), stated, scheduler, (8, 4),
        run={**made, "steps": steps, "prediction_type": "v_prediction", **run},
    )  # fmt: skip


def intrinsics(kind: str, tasks: tuple[str, ...], properties: dict[str, Any], targets: int, **run: Any) -> Published:
    index = {"_class_name": "MarigoldIntrinsicsPipeline", **PARTS, "target_properties": properties}
    index |= {"default_denoising_steps": 4, "default_processing_resolution": 768}
    made = {"steps": 4, "spacing": "trailing", "zero_snr": True, "targets": targets, "resolution": 768}
    return Published(
        f"marigold-iid-{kind}-v1-1", "marigold-intrinsics", tasks, index, ZERO, (4 + 4 * targets, 4 * targets),
        run={**made, **run}, named=True, alone=True,
    )  # fmt: skip


def rgb_x(repository: str, folder: str = "unet", index: Any = None, scheduler: Any = None, **run: Any) -> Published:
    tasks = ("albedo",) if index else ("albedo", "normal", "roughness", "metallic", "irradiance")
    return Published(
        repository, "rgb-x", tasks, index or {"_class_name": "StableDiffusionAOVMatEstPipeline", **PARTS},
        scheduler or DDIM, (8, 4), folder=folder, named=True,
        run={
            "order": "noise-first", "spacing": "trailing", "zero_snr": True, "final": "previous",
            "prompt": "Albedo (diffuse basecolor)", **run,
        },
    )  # fmt: skip


OLBEDO = {
    "_class_name": "OlbedoIIDPipeline",
    **PARTS,
    "target_properties": {"target_names": ["albedo"], "albedo": {"prediction_space": "linear", "up_to_scale": True}},
    "default_denoising_steps": 4,
    "default_processing_resolution": 2000,
}
E2E = {"spacing": "trailing", "zero_snr": False, "noise": "zeros", "steps": 1, "final": "sample"}
LOTUS = {"prediction_type": "sample", "vector": (0.8414709848078965, 0.0, 0.5403023058681398, 1.0), "resize": "lotus"}
DEPTH = {"_class_name": "MarigoldDepthPipeline", **AFFINE, "prediction_type": "depth"}
FIRST = {"spacing": "leading", "zero_snr": False, "steps_offset": 1, "final_alpha_one": False}
SECOND = {"spacing": "trailing", "zero_snr": True}
# fmt: off
PUBLISHED: tuple[Published, ...] = (
    marigold("depth", "v1-0", DDIM, 10, {"_class_name": "MarigoldPipeline", **AFFINE}, **FIRST, codec=""),
    marigold("depth", "v1-1", ZERO, 4, DEPTH, **SECOND),
    # whose index is called as that of depths
    marigold("normals", "v0-1", DDIM, 10, {"_class_name": "MarigoldPipeline", "use_full_z_range": True}, **FIRST),
    marigold(
        "normals",
        "v1-1",
        ZERO,
        4,
        {"_class_name": "MarigoldNormalsPipeline", "use_full_z_range": True},
        **SECOND,
        axes=("right", "up", "back"),
        codec="unit-vector",
    ),
    marigold("depth", "lcm-v1-0", LCM, 1, {"_class_name": "MarigoldPipeline", **AFFINE}, sampler="lcm"),
    marigold("normals", "lcm-v0-1", LCM, 1, {"_class_name": "MarigoldNormalsPipeline"}, sampler="lcm"),
    intrinsics("appearance", ("albedo", "material", "roughness", "metallic"), APPEARANCE, 2, encoding="srgb"),
    intrinsics("lighting", ("albedo", "shading", "residual"), LIGHTING, 3, encoding="linear"),
    Published(
        "marigold-e2e-ft-depth",
        "e2e-ft",
        ("depth",),
        {"_class_name": "StableDiffusionPipeline", **PARTS},
        TRAILING,
        (8, 4),
        run={**E2E, "target_scale": 0.0},
        named=True,
    ),
    Published(
        "stable-diffusion-e2e-ft-normals",
        "e2e-ft",
        ("normal",),
        {"_class_name": "StableDiffusionPipeline", **PARTS},
        TRAILING,
        (8, 4),
        run={**E2E, "axes": ("left", "up", "back")},
        named=True,
    ),
    rgb_x("rgb-to-x", steps=50, input_gamma=2.2, resolution=1000, resize="rgb-x"),
    rgb_x("Ouroboros", "unet_1", steps=1, input_gamma=2.2, resolution=0, resize="rgb-x"),
    rgb_x(
        "olbedo-rgbx",
        index=OLBEDO,
        scheduler=ZERO,
        steps=4,
        input_gamma=1.0,
        resolution=2000,
        resize="genpercept",
        encoding="linear",
        up_to_scale=True,
        codec="",
    ),
    Published(
        "lotus-depth-d-v2-0-disparity",
        "lotus-d",
        ("disparity",),
        {"_class_name": "DirectRegressionPipeline", **PARTS},
        # what was left of its base
        {**DDIM, "_class_name": "PNDMScheduler", "prediction_type": "epsilon"},
        (4, 4),
        4,
        run={**LOTUS, "timestep": 999, "paradigm": "one-step"},
        named=True,
        alone=True,
    ),
    Published(
        "lotus-normal-g-v1-1",
        "lotus-g",
        ("normal",),
        {"_class_name": "LotusGPipeline", **PARTS},
        {**DDIM, "prediction_type": "sample"},
        (8, 4),
        4,
        run={**LOTUS, "paradigm": "stochastic", "axes": ("left", "up", "back")},
        named=True,
        alone=True,
    ),
    Published(
        "DepthMaster",
        "depthmaster",
        ("disparity",),
        {"_class_name": "MarigoldPipeline", **PARTS, **AFFINE},
        {},
        fourier=True,
        run={"timestep": 1, "prediction_type": "sample", "encoding": "square-root"},
        named=True,
        alone=True,
    ),
    Published(
        "genpercept-models",
        "genpercept",
        ("depth",),
        {"_class_name": "GenPerceptPipeline"},
        {},
        folder="unet_depth_v2",
        run={"timestep": 1, "beta_start": 1.0, "beta_end": 1.0},
        named=True,
    ),
    Published(
        "genpercept",
        "genpercept-v1",
        ("normal",),
        {"_class_name": "GenPerceptPipeline"},
        {},
        folder="unet_normal_v1",
        run={"timestep": 1, "tokens": 0},
        named=True,
    ),
    Published(
        "sd21_depth_wo_rgb_blending_0point00340_0point048",
        "genpercept-stochastic",
        ("depth",),
        channels=(8, 4),
        run={"beta_start": 0.0034, "beta_end": 0.048, "steps": 10, "final": "sample"},
        named=True,
    ),
    Published("genpercept-depth-ablation", "genpercept", ("depth",), {}, SILENT, run={"beta_start": 1.0}),
)
# fmt: on


def one_of_each(rows: Iterable[Published]) -> dict[str, Published]:
    """{family: the first of these that is of it}"""
    return {row.family: row for row in reversed([*rows])}


def write(root: Path, row: Published) -> Path:
    """The whole repository."""
    home = root / row.repository
    tiny.write(home / row.folder, row.network)
    tiny.write(home / "vae", tiny.vae())
    if row.index:
        tiny.write_json(home / "model_index.json", row.index)
    if row.scheduler:
        tiny.write_json(home / "scheduler" / "scheduler_config.json", row.scheduler)
    write_texts(home, row)
    return home


def write_texts(home: Path, row: Published) -> None:
    """The empty prompt, and one for each task."""
    tiny.write_context(home, tiny.context(tokens=77))
    save_file({task: prompt(task) for task in row.tasks}, home / "text_embeds.safetensors")


def prompt(task: str) -> Tensor:
    """(1, 77, width), another for every task."""
    return tiny.context(seed=sum(task.encode()), tokens=77)


def diffusers_names(row: Published, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in row.network.state_dict().items()}


def ldm_names(row: Published, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Also what Stable Diffusion's own code has no name for."""
    more = {name: tensor for name, tensor in row.network.state_dict().items() if name.startswith("fftblock.")}
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in more.items()}
    return {name: tensor.to(dtype).contiguous() for name, tensor in {**tiny.ldm(row.network), **named}.items()}
