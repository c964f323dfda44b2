"""Marigold's training runs, and those that fine-tune its networks end to end (E2E-FT)."""

from __future__ import annotations

from typing import Any

from .genpercept import ABLATION
from .preset import MIXED, SIGNAL, Preset, over

STEPS_FROM_NOISE: dict[str, Any] = {
    "paradigm": "stochastic",
    "family": "marigold",
    **SIGNAL,
    "final": "previous",
    "resize": "marigold",
}
SECOND: dict[str, Any] = over(
    ABLATION,
    {
        "precision": "no",
        "validate_every": 500,
        "save_every": 500,
        "objective": {"noise": "pyramid"},
        "recipe": {**STEPS_FROM_NOISE, "steps": 4, "zero_snr": True, "spacing": "trailing"},
    },
)
"""Marigold's code, config/train_marigold_*.yaml: Adam, 32 pictures a step, two at once, on a schedule whose last step
holds no signal."""
WEATHER = {
    "jitter": 0.3,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.2,
    "blur": 0.3,
    "blur_sigma": 4.0,
}

END_TO_END: dict[str, Any] = {
    "steps": 20_000,
    "size": [480, 640],
    "batch_size": 2,
    "accumulation": 16,
    "precision": "no",
    "augment": {"flip": 0.5},
    "save_every": 2000,
    "validate_every": 2000,
    "objective": {"loss": "pixel", "timesteps": "final"},
    "network": {"unet": "full", "tokens": 77, "checkpointing": True},
    "optimiser": {
        "name": "adamw",
        "lr": 3e-5,
        "weight_decay": 1e-2,
        "max_norm": 1.0,
        "schedule": "exponential",
        "warmup": 100,
        "decay_steps": 20_000,
        "final_ratio": 0.01,
    },
    "recipe": {
        "paradigm": "stochastic",
        "family": "e2e-ft",
        "noise": "zeros",
        **SIGNAL,
        "spacing": "trailing",
        "tokens": 77,
    },
}
"""E2E-FT's code, training/scripts: one pass at timestep 999, the picture beside zeros, compared as pictures."""
WEATHERS = ["morning", "fog", "rain", "sunset", "overcast"]
CAMERAS = (MIXED[0], {**MIXED[1], "settings": {"cameras": ["Camera_0", "Camera_1"], "variations": WEATHERS}})
"""Of Virtual KITTI both cameras, and neither what was turned nor what is as in KITTI itself."""


def _end_to_end(task: str, loss: str, *more: dict[str, Any]) -> dict[str, Any]:
    """One of its two modalities."""
    return over(END_TO_END, {"tasks": [task], "objective": {"pixel_losses": {task: [loss]}}}, *more)


ROWS: dict[str, Preset] = {
    "marigold-depth": Preset(
        "Marigold as GenPercept ran it: ten stochastic steps from noise of several resolutions",
        over(
            ABLATION,
            {"tasks": ["depth"], "objective": {"noise": "pyramid"}, "recipe": {**STEPS_FROM_NOISE, "steps": 10}},
        ),
        MIXED,
    ),
    "marigold-v1-1-depth": Preset("Marigold v1.1, depth", over(SECOND, {"tasks": ["depth"]}), MIXED),
    "marigold-v1-1-normal": Preset(
        "Marigold v1.1, normals",
        over(
            SECOND,
            {
                "tasks": ["normal"],
                "augment": WEATHER,
                "optimiser": {"lr": 6e-5},
                "recipe": {"normal": {"axes": ["right", "up", "back"]}},
            },
        ),
        (
            {"reader": "hypersim", "weight": 0.5, "settings": {"split": "all"}},
            {"reader": "interiorverse", "weight": 0.49},
            {"reader": "sintel-normals", "weight": 0.01},
        ),
    ),
    "e2e-ft-depth": Preset(
        "E2E-FT, depth, from Stable Diffusion 2 or a checkpoint of Marigold's",
        _end_to_end("depth", "ssi:1", {"recipe": {"target_scale": 0.0}, "target": {"span": "quantile"}}),
        CAMERAS,
    ),
    "e2e-ft-normal": Preset(
        "E2E-FT, normals, likewise",
        _end_to_end(
            "normal", "angular", {"recipe": {"normal": {"axes": ["left", "up", "back"], "codec": "early-unit-vector"}}}
        ),
        CAMERAS,
    ),
}
