"""GenPercept's published training runs: those of its code, and of its first paper, arXiv 2403.06090 v1."""

from __future__ import annotations

from typing import Any

from .preset import MIXED, SIGNAL, Preset, over

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
"""Its code, config/main_paper: Adam, no clipping, no EMA; 32 pictures a step."""

SMALL = {"size": [480, 640], "batch_size": 8, "accumulation": 4}
ABLATION = over(GENPERCEPT, {"size": [480, 640], "batch_size": 2, "accumulation": 16, "objective": {"loss": "latent"}})
"""config/ablation."""
WHOLE = {"span": "whole"}
"""Each target stretched to its ends."""
DEPTH_LOSSES = ["mse", "ssi", "vertical-gradient"]
DPT = {
    "network": {"head": "dpt_head_identity"},
    "optimiser": {"decoder_lr": 3e-5},
    "recipe": {"codec": "min-max", "family": "genpercept-dpt"},
}
AXES = {"recipe": {"normal": {"axes": ["left", "up", "back"]}}}
DIS5K = ({"reader": "dis5k"},)
P3M = ({"reader": "p3m10k"},)
INDOORS = ({"reader": "hypersim"},)
COCO = {
    "reader": "coco-keypoints",
    "settings": {"annotations": "annotations/person_keypoints_train2017.json", "images": "train2017"},
}

FIRST: dict[str, Any] = {
    "steps": 30_000,
    "size": [768, 768],
    "batch_size": 4,
    "accumulation": 4,
    "precision": "fp16",
    "seed": 2024,
    "augment": {"flip": 0.5},
    "save_every": 3000,
    "validate_every": 3000,
    "objective": {"loss": "latent", "timesteps": "random"},
    "network": {"unet": "full", "tokens": 77},
    "optimiser": {"name": "adam", "lr": 3e-5, "schedule": "linear"},
    "recipe": {"paradigm": "one-step", "family": "genpercept-v1", "tokens": 77, "resize": "genpercept-v1"},
}
"""The first paper, sec. 3: 16 pictures of 768 a step, 3e-5 falling linearly. What it does not say is as in the code."""
THIRTY_TWO = {"batch_size": 4, "accumulation": 8}


def genpercept(task: str, losses: list[str], *more: dict[str, Any]) -> dict[str, Any]:
    """The code's main run for one task, with its losses between pictures."""
    return over(GENPERCEPT, {"tasks": [task], "objective": {"pixel_losses": {task: losses}}}, *more)


def both(task: str, losses: list[str], *more: dict[str, Any]) -> dict[str, Any]:
    """config/others: with the loss between latents too."""
    return genpercept(task, losses, {"objective": {"loss": "both"}}, *more)


def _small_card(task: str, *more: dict[str, Any]) -> dict[str, Any]:
    """config/train_with_4090: pictures of 480x640, two at once, compared as latents."""
    return over(ABLATION, {"tasks": [task]}, *more)


def _ablation(*more: dict[str, Any]) -> dict[str, Any]:
    """Depth in an experiment of the paper."""
    return over(ABLATION, {"tasks": ["depth"]}, *more)


def first(task: str, *more: dict[str, Any]) -> dict[str, Any]:
    """The first paper's run for a task."""
    return over(FIRST, {"tasks": [task]}, *more)


ROWS: dict[str, Preset] = {
    "genpercept-depth": Preset("GenPercept v2, depth", genpercept("depth", DEPTH_LOSSES, SMALL), MIXED),
    "genpercept-disparity": Preset("GenPercept v2, disparity", genpercept("disparity", DEPTH_LOSSES), MIXED),
    "genpercept-disparity-dpt": Preset(
        "GenPercept v2, disparity by a DPT head",
        genpercept("disparity", DEPTH_LOSSES, {"batch_size": 8, "accumulation": 4}, DPT),
        MIXED,
    ),
    "genpercept-normal": Preset("GenPercept v2, normals", genpercept("normal", ["angular"], AXES), MIXED),
    "genpercept-mask": Preset(
        "GenPercept v2, dichotomous segmentation", genpercept("mask", ["mse"], {"target": WHOLE}), DIS5K
    ),
    "genpercept-matte": Preset("GenPercept v2, matting", genpercept("matte", ["mse"], {"target": WHOLE}), P3M),
    "genpercept-segmentation": Preset(
        "GenPercept v2, segmentation", genpercept("segmentation", ["mse"], {"target": WHOLE}), INDOORS
    ),
    "genpercept-both": Preset(
        "GenPercept v2, masks with the latent loss beside that of pictures",
        both("mask", ["mse"], {"target": WHOLE}),
        DIS5K,
    ),
    "genpercept-both-normal": Preset("The same for normals", both("normal", ["angular"], AXES), MIXED),
    "genpercept-both-matte": Preset("The same for mattes", both("matte", ["mse"], {"target": WHOLE}), P3M),
    "genpercept-4090-depth": Preset("GenPercept v2 on a card of 24 GB, depth", _small_card("depth"), MIXED),
    "genpercept-4090-disparity": Preset("The same for disparity", _small_card("disparity"), MIXED),
    "genpercept-4090-disparity-dpt": Preset(
        "The same for disparity by a DPT head",
        _small_card(
            "disparity",
            {"batch_size": 1, "accumulation": 32},
            {"objective": {"loss": "pixel", "pixel_losses": {"disparity": DEPTH_LOSSES}}},
            DPT,
        ),
        MIXED,
    ),
    "genpercept-4090-normal": Preset("The same for normals", _small_card("normal", AXES), MIXED),
    "genpercept-4090-mask": Preset("The same for masks", _small_card("mask", {"target": WHOLE}), DIS5K),
    "genpercept-4090-matte": Preset("The same for mattes", _small_card("matte", {"target": WHOLE}), P3M),
    "genpercept-4090-segmentation": Preset(
        "The same for segmentation", _small_card("segmentation", {"target": WHOLE}), INDOORS
    ),
    "genpercept-v1-depth": Preset(
        "GenPercept's first paper, depth by a DPT head: VNL, HDN, MSE and L1",
        first(
            "depth",
            {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["vnl", "hdn-range", "mse", "l1"]}}},
            {"network": {"head": "dpt_head_identity"}, "recipe": {"codec": "min-max"}},
        ),
        MIXED,
    ),
    "genpercept-v1-normal": Preset("GenPercept's first paper, normals", first("normal", AXES), INDOORS),
    "genpercept-v1-mask": Preset(
        "GenPercept's first paper, dichotomous segmentation", first("mask", THIRTY_TWO, {"target": WHOLE}), DIS5K
    ),
    "genpercept-v1-matte": Preset(
        "GenPercept's first paper, matting: trained on 1000 steps, run in 51",
        first(
            "matte",
            THIRTY_TWO,
            {
                "steps": 20_000,
                "target": WHOLE,
                "recipe": {"paradigm": "deterministic", "steps": 51, **SIGNAL, "family": "", "resize": "genpercept"},
            },
        ),
        P3M,
    ),
    "genpercept-v1-segmentation": Preset(
        "GenPercept's first paper, segmentation, first stage: colours, compared as latents",
        first("segmentation"),
        INDOORS,
    ),
    "genpercept-v1-segmentation-upernet": Preset(
        "Its second stage: UperNet on the first stage's file, which base.path names",
        first(
            "segmentation",
            {"objective": {"loss": "pixel"}, "network": {"head": "upernet"}, "optimiser": {"decoder_lr": 3e-5}},
        ),
        INDOORS,
    ),
    "genpercept-v1-keypoints": Preset(
        "GenPercept's first paper, people's keypoints by ViTPose's head",
        first(
            "keypoints",
            {
                "size": [1024, 768],
                "objective": {"loss": "pixel"},
                "network": {"head": "vitpose_classic"},
                "recipe": {"resolution": 1024},
            },
        ),
        (COCO,),
    ),
    "genpercept-latent": Preset(
        "GenPercept's ablation baseline: depth between latents", _ablation({"batch_size": 16, "accumulation": 2}), MIXED
    ),
    "genpercept-pixel": Preset(
        "GenPercept's ablation: depth between pictures",
        _ablation(SMALL, {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}}}),
        MIXED,
    ),
    "genpercept-fixed-timestep": Preset(
        "GenPercept's ablation: always told the timestep of inference",
        _ablation({"objective": {"timesteps": "fixed"}}),
        MIXED,
    ),
    "genpercept-lora": Preset(
        "GenPercept's ablation: LoRA of rank 16", _ablation({"network": {"unet": "lora", "rank": 16}}), MIXED
    ),
    "genpercept-dpt": Preset(
        "GenPercept's ablation: a DPT head on the UNet",
        _ablation(
            {"batch_size": 16, "accumulation": 2},
            {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}}},
            DPT,
        ),
        MIXED,
    ),
    "genpercept-frozen": Preset(
        "GenPercept's ablation: a DPT head on the frozen UNet",
        _ablation(
            {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}}}, DPT, {"network": {"unet": "frozen"}}
        ),
        MIXED,
    ),
    "genpercept-scratch": Preset(
        "GenPercept's ablation: an untrained UNet of the same shape",
        _ablation({"base": {"architecture": "sd21"}}),
        MIXED,
    ),
    "genpercept-encoder": Preset(
        "GenPercept's first paper, Table 9: a VAE that saw nothing but the training set, which base.vae names",
        first("depth"),
        INDOORS,
    ),
    "genpercept-decoder": Preset(
        "GenPercept's ablation: the VAE's decoder learns too",
        _ablation(
            {"batch_size": 4, "accumulation": 8},
            {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["mse"]}}},
            {"network": {"decoder": True}, "optimiser": {"decoder_lr": 3e-5}},
        ),
        MIXED,
    ),
    "genpercept-blending": Preset(
        "GenPercept's ablation: ten deterministic steps from the image (rgb blending)",
        _ablation({"recipe": {"paradigm": "deterministic", "steps": 10, **SIGNAL, "family": ""}}),
        MIXED,
    ),
}
