"""DMP's training runs: LoRA in all attention, five steps from the picture, with a caption a picture or without."""

from __future__ import annotations

from typing import Any

from .preset import SIGNAL, Preset, over

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
"""Its train.py: LoRA of rank 4 in all attention, v-prediction, one empty prompt for all (--disable_prompts)."""
FLIPPED = {"augment": {"flip": 0.5}}
"""--random_flip, which all tasks but normals are given."""
AS_STORED: dict[str, Any] = {"target": {"span": "unit"}}
"""Its 8-bit maps were stretched to their ends before they were stored: they are learnt as they are."""
IN_METRES: dict[str, Any] = {"recipe": {"codec": "unbounded", "target_scale": 8.0, "metric": True}}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "normal": ("normals", {}),
    "depth": ("depth in metres up to 8", over(FLIPPED, IN_METRES)),
    "albedo": ("albedo", over(FLIPPED, AS_STORED)),
    "shading": ("shading", over(FLIPPED, AS_STORED)),
    "segmentation": ("segmentation", FLIPPED),
}
"""{task: (for people, what is its own)}"""
CAPTIONED = {"captions": "metadata.jsonl"}


def dmp(task: str) -> dict[str, Any]:
    return over(DMP, TASKS[task][1], {"tasks": [task]})


ROWS: dict[str, Preset] = {
    **{f"dmp-{task}": Preset(f"DMP, {title}, without captions", dmp(task)) for task, (title, _) in TASKS.items()},
    **{
        f"dmp-{task}-captions": Preset(f"DMP, {title}, with a caption a picture", dmp(task), (CAPTIONED,))
        for task, (title, _) in TASKS.items()
    },
    "dmp-x": Preset(
        "DMP's ablation: the network predicts the image (x)",
        over(dmp("normal"), {"recipe": {"prediction_type": "epsilon"}}),
    ),
    "dmp-y": Preset(
        "DMP's ablation: the network predicts the target (y)",
        over(dmp("normal"), {"recipe": {"prediction_type": "sample"}}),
    ),
}
