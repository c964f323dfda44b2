"""Presets: the papers' training recipes by name, as the part of a config that they decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A row."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def over(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other, section by section."""
    laid: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            nested = isinstance(value, Mapping) and isinstance(laid.get(key), Mapping)
            laid[key] = over(laid[key], value) if nested else value
    return laid


GENPERCEPT: dict[str, Any] = {
    "steps": 30_000,
    "size": [768, 768],
    "batch_size": 4,
    "accumulation": 8,
    "precision": "fp16",
    "seed": 2024,
    "augment": {"flip": 0.5, "image_filter": "nearest-exact"},
    "save_every": 3000,
    "validate_every": 3000,
    # the published code is not deterministic in its data either: t is drawn, though inference always says 1
    "objective": {"loss": "pixel", "timesteps": "random"},
    "network": {"unet": "full", "tokens": 2},
    "optimiser": {
        "name": "adam",
        "lr": 3e-5,
        "schedule": "exponential",
        "warmup": 100,
        "decay_steps": 25_000,
        "final_ratio": 0.01,
    },
    "recipe": {"paradigm": "one-step", "family": "genpercept", "tokens": 2, "resolution": 768},
}
"""GenPercept v2 (genpercept_dmp.md 4.1): Adam, no clipping, no EMA; 32 pictures a step."""

SMALL = {"size": [480, 640], "batch_size": 8, "accumulation": 4}
ABLATION = over(GENPERCEPT, {"size": [480, 640], "batch_size": 2, "accumulation": 16, "objective": {"loss": "latent"}})
SIGNAL = {"beta_start": 0.00085, "beta_end": 0.012}
WHOLE = {"span": "whole"}
"""Each target stretched to its ends."""
DEPTH_LOSSES = ["mse", "ssi", "vertical-gradient"]

DMP: dict[str, Any] = {
    "steps": 50_000,
    "size": [512, 512],
    "batch_size": 8,
    "precision": "fp16",
    "seed": 42,
    "augment": {"flip": 0.0},
    "save_every": 1000,
    "objective": {"loss": "latent", "timesteps": "random", "sample_latents": True},
    "network": {"unet": "lora", "rank": 4, "tokens": 77},
    "optimiser": {
        "name": "adamw",
        "lr": 1e-4,
        "weight_decay": 1e-2,
        "max_norm": 1.0,
        "schedule": "cosine",
    },
    "recipe": {
        "paradigm": "deterministic",
        "family": "dmp",
        "steps": 5,
        **SIGNAL,
        "final": "previous",
        "resolution": 512,
        "resize": "dmp",
    },
}
"""DMP (genpercept_dmp.md 4.4): LoRA of rank 4 in all attention, v-prediction, five steps from the image."""

AS_STORED: dict[str, Any] = {"augment": {"flip": 0.5}, "target": {"span": "unit"}}
"""Its 8-bit maps were stretched to their ends before they were stored: they are learnt as they are."""


def genpercept(task: str, losses: list[str], **more: Any) -> dict[str, Any]:
    """GenPercept for one task, with its losses between pictures."""
    return over(GENPERCEPT, {"tasks": [task], "objective": {"pixel_losses": {task: losses}}}, more)


LIGHT: dict[str, Any] = {
    "size": [256, 256],
    "batch_size": 4,
    "steps": 5000,
    "augment": {"flip": 0.5},
    "optimiser": {
        "name": "adamw",
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 100,
        "final_ratio": 0.02,
        "max_norm": 1.0,
        "ema": 0.995,
    },
}
"""A light half of a VAE; base.path names the checkpoint that it is for."""


PRESETS: dict[str, Preset] = {
    "genpercept-depth": Preset("GenPercept v2, depth", genpercept("depth", DEPTH_LOSSES, **SMALL)),
    "genpercept-disparity": Preset("GenPercept v2, disparity", genpercept("disparity", DEPTH_LOSSES)),
    "genpercept-disparity-dpt": Preset(
        "GenPercept v2, disparity by a DPT head",
        genpercept(
            "disparity",
            DEPTH_LOSSES,
            batch_size=8,
            accumulation=4,
            network={"head": "dpt_head_identity"},
            optimiser={"decoder_lr": 3e-5},
            recipe={"codec": "min-max", "family": "genpercept-dpt"},
        ),
    ),
    "genpercept-normal": Preset(
        "GenPercept v2, normals",
        genpercept("normal", ["angular"], recipe={"normal": {"axes": ["left", "up", "back"]}}),
    ),
    "genpercept-mask": Preset("GenPercept v2, dichotomous segmentation", genpercept("mask", ["mse"], target=WHOLE)),
    "genpercept-matte": Preset("GenPercept v2, matting", genpercept("matte", ["mse"], target=WHOLE)),
    "genpercept-segmentation": Preset("GenPercept v2, segmentation", genpercept("segmentation", ["mse"], target=WHOLE)),
    "genpercept-both": Preset(
        "GenPercept v2 with the latent loss beside that of pictures",
        genpercept("mask", ["mse"], objective={"loss": "both"}, target=WHOLE),
    ),
    "genpercept-latent": Preset(
        "GenPercept's ablation baseline: depth between latents",
        over(ABLATION, {"tasks": ["depth"], "batch_size": 16, "accumulation": 2}),
    ),
    "genpercept-fixed-timestep": Preset(
        "GenPercept's ablation: always told the timestep of inference",
        over(ABLATION, {"tasks": ["depth"], "objective": {"timesteps": "fixed"}}),
    ),
    "genpercept-lora": Preset(
        "GenPercept's ablation: LoRA of rank 16",
        over(ABLATION, {"tasks": ["depth"], "network": {"unet": "lora", "rank": 16}}),
    ),
    "genpercept-frozen": Preset(
        "GenPercept's ablation: a DPT head on the frozen UNet",
        over(
            ABLATION,
            {
                "tasks": ["depth"],
                "objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}},
                "network": {"unet": "frozen", "head": "dpt_head_identity"},
                "optimiser": {"decoder_lr": 3e-5},
                "recipe": {"codec": "min-max", "family": "genpercept-dpt"},
            },
        ),
    ),
    "genpercept-scratch": Preset(
        "GenPercept's ablation: an untrained UNet of the same shape",
        over(ABLATION, {"tasks": ["depth"], "base": {"architecture": "sd21"}}),
    ),
    "genpercept-decoder": Preset(
        "GenPercept's ablation: the VAE's decoder learns too",
        over(
            ABLATION,
            {
                "tasks": ["depth"],
                "batch_size": 4,
                "accumulation": 8,
                "objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}},
                "network": {"decoder": True},
                "optimiser": {"decoder_lr": 3e-5},
            },
        ),
    ),
    "genpercept-blending": Preset(
        "GenPercept's ablation: ten deterministic steps from the image (rgb blending)",
        over(
            ABLATION, {"tasks": ["depth"], "recipe": {"paradigm": "deterministic", "steps": 10, **SIGNAL, "family": ""}}
        ),
    ),
    "marigold-depth": Preset(
        "Marigold: ten stochastic steps from noise of several resolutions",
        over(
            ABLATION,
            {
                "tasks": ["depth"],
                "objective": {"noise": "pyramid"},
                "recipe": {
                    "paradigm": "stochastic",
                    "family": "marigold",
                    "steps": 10,
                    **SIGNAL,
                    "final": "previous",
                    "resize": "marigold",
                },
            },
        ),
    ),
    "dmp-normal": Preset("DMP, normals", over(DMP, {"tasks": ["normal"]})),
    "dmp-depth": Preset(
        "DMP, depth in metres up to 8",
        over(DMP, {"tasks": ["depth"], "recipe": {"codec": "unbounded", "target_scale": 8.0, "metric": True}}),
    ),
    "dmp-albedo": Preset("DMP, albedo", over(DMP, AS_STORED, {"tasks": ["albedo"]})),
    "dmp-shading": Preset("DMP, shading", over(DMP, AS_STORED, {"tasks": ["shading"]})),
    "dmp-segmentation": Preset("DMP, segmentation", over(DMP, {"tasks": ["segmentation"], "augment": {"flip": 0.5}})),
    "dmp-x": Preset(
        "DMP's ablation: the network predicts the image (x)",
        over(DMP, {"tasks": ["normal"], "recipe": {"prediction_type": "epsilon"}}),
    ),
    "dmp-y": Preset(
        "DMP's ablation: the network predicts the target (y)",
        over(DMP, {"tasks": ["normal"], "recipe": {"prediction_type": "sample"}}),
    ),
    "light-decoder": Preset("A light decoder for the VAE of a checkpoint", over(LIGHT, {"learn": "decoder"})),
    "light-encoder": Preset("A light encoder for the VAE of a checkpoint", over(LIGHT, {"learn": "encoder"})),
    "vae": Preset(
        "A small VAE for pictures and their targets",
        {
            "learn": "vae",
            "size": [128, 128],
            "batch_size": 8,
            "steps": 20_000,
            "augment": {"flip": 0.5, "shape": "crop", "least_crop": 0.5},
            "optimiser": {
                "name": "adamw",
                "lr": 4e-4,
                "schedule": "cosine",
                "warmup": 200,
                "final_ratio": 0.05,
                "max_norm": 1.0,
            },
        },
    ),
}
