"""What the example workflows run on that the pack does not bring, and where people get it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusion_perception.core.checkpoints.published import FILE, HUB, PLACES, PUBLISHED, UNSAID

STARTER = "starter.safetensors"
"""What the pack does bring."""
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
CONTROLNETS = {
    "depth": "control_v11f1p_sd15_depth_fp16.safetensors",
    "normal": "control_v11p_sd15_normalbae_fp16.safetensors",
    "pose": "control_v11p_sd15_openpose_fp16.safetensors",
    "segmentation": "control_v11p_sd15_seg_fp16.safetensors",
}
LOTUS = "lotus-depth-d-v1-1.safetensors"
DEPTH_ADAPTER, NORMAL_ADAPTER = "depth-hypersim-notext", "normal-scene100-notext"
POSE = "sdpose_wholebody_fp16.safetensors"
LIGHTING = "marigold-iid-lighting-v1-1"

CONTROLNETS_AT = f"{HUB}/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main"
LINKS = {
    CHECKPOINT: ("checkpoints", f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{CHECKPOINT}"),
    VAE: ("vae", f"{HUB}/stabilityai/sd-vae-ft-mse-original/resolve/main/{VAE}"),
    **{file: ("controlnet", f"{CONTROLNETS_AT}/{file}") for file in CONTROLNETS.values()},
    **{
        place: ("perception", address)
        for row in PUBLISHED
        for place, address in row.places.items()
        if place.endswith(".safetensors")
    },
}
"""{file: (the host's folder for it, its address)}: the editor offers to get files, one by one, and no folders."""
STAND_INS = {CHECKPOINT: "or any SD 1.5 checkpoint", VAE: "or any other VAE of Stable Diffusion 1 or 2"}
"""What does as well."""


def models_of(widgets: Iterable[Any]) -> list[dict[str, str]]:
    """What the editor offers to get where the host lacks it; it shows those alone that a widget of the node names."""
    named = [value for value in widgets if isinstance(value, str) and value in LINKS]
    return [{"name": name, "url": LINKS[name][1], "directory": LINKS[name][0]} for name in named]


def link_of(place: str) -> str:
    """What is published under this name, as a link in Markdown."""
    return f"[{place}]({PLACES[place.lower()][1].places[place]})"


def wanted(name: str) -> str:
    """A line of Markdown: where a file or folder goes, where it comes from, how large and how free it is."""
    if name.lower() not in PLACES:
        folder, address = LINKS[name]
        return ", ".join([f"- models/{folder}: [{name}]({address})", *([STAND_INS[name]] if name in STAND_INS else [])])
    _, row = PLACES[name.lower()]
    kind = "" if row.get == FILE else "the folder "
    said = [word for word in (row.size, row.licence) if word != UNSAID]
    return f"- models/perception: {kind}{', '.join([link_of(name), *said])}"
