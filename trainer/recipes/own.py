"""Runs of this project's own: VAEs, and light halves of them."""

from __future__ import annotations

from typing import Any

from .preset import Preset, over

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

ROWS: dict[str, Preset] = {
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
