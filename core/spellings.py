"""Spellings: adapters as other trainers write them, read into core.adapters' one form."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapter_keys import TEXT_ENCODER, Key, Layout, other_method, other_network, reader
from .adapters import Adapter, Delta, LowRank, Part, first
from .fingerprint import Fingerprint, fingerprint
from .weights import CheckpointError, read, read_json, read_shapes, shown

ScaleOf = Callable[[str, int], float]
"""(layer, rank) -> what its matrices' product is multiplied by"""


@dataclass(frozen=True)
class Spelling:
    """A way of naming an adapter's tensors, told by what stands in the names."""

    name: str
    clue: re.Pattern[str]


SPELLINGS = (
    Spelling("peft with its base", re.compile(r"\.base_layer\.")),
    Spelling("diffusers processors", re.compile(r"\.processor\..+_lora\.(down|up)\.weight$")),
    Spelling("kohya", re.compile(r"^(lora_unet_|lycoris_)")),
    Spelling("peft", re.compile(r"\.lora_[AB]\.")),
    Spelling("diffusers", re.compile(r"\.(lora|lora_layer|lora_linear_layer)\.(down|up)\.weight$")),
    Spelling("comfyui", re.compile(r"^diffusion_model\.")),
    Spelling("differences", re.compile(r"\.(diff|diff_b|w_norm|b_norm)$")),
)


def read_foreign(file: Path, metadata: Mapping[str, str], layout: Layout) -> Adapter:
    """An adapter that another trainer wrote."""
    names = list(read_shapes(file))
    refuse_others(file, names)
    ours = [name for name in names if not TEXT_ENCODER.match(name)]
    if names and not ours:
        raise CheckpointError(f"{shown(file)} adapts the text encoder alone, not a UNet: use another file.")
    read_key = reader(layout)
    keys = {name: key for name in ours if (key := read_key(name)) is not None}
    base = {name: key for name, key in keys.items() if key.role == "base"}
    whole = any(key.layer == "conv_in" for key in base.values())
    if len(base) == len(keys) and whole:
        raise CheckpointError(
            f"{shown(file)} is a whole UNet, not an adapter: give it as the model, or make an adapter of it with "
            "`diffusion-perception extract`."
        )
    known = {name: key for name, key in keys.items() if whole or key.role != "base"}
    refuse_unread(file, [name for name in ours if name not in known], len(ours))
    parts = assemble(file, {name: key for name, key in keys.items() if key.role != "base"}, scales(file, metadata))
    adapter = Adapter(
        file,
        parts,
        next(spelling.name for spelling in SPELLINGS if any(spelling.clue.search(name) for name in known)),
        fingerprint=fingerprint_of(file, base) if whole else {},
        licence=metadata.get("modelspec.license", ""),
        text_encoder=len(names) - len(ours),
    )
    width = adapter.context_dim
    return replace(adapter, base={768: "sd15", 1024: "sd21", None: ""}.get(width, "custom"))


def refuse_others(file: Path, names: list[str]) -> None:
    """CheckpointError for adapters of networks and methods that we know of and cannot run."""
    if network := other_network(names):
        raise CheckpointError(
            f"{shown(file)} is an adapter for {network}; this version runs those for Stable Diffusion 1.x and 2.x."
        )
    if method := other_method(names):
        raise CheckpointError(
            f"{shown(file)} is a {method} adapter; this version runs low-rank ones (LoRA) and differences: convert it."
        )


def refuse_unread(file: Path, unread: list[str], total: int) -> None:
    if total == 0 or unread:
        found = f"{len(unread)} of its {total} tensors are not of one ({first(unread)})" if total else "it is empty"
        raise CheckpointError(
            f"{shown(file)} should hold an adapter of a Stable Diffusion UNet, but {found}: use another file."
        )


def fingerprint_of(file: Path, base: Mapping[str, Key]) -> Fingerprint:
    """Of the base that a training run saved along with its adapter."""
    names = {f"{key.layer}.weight": name for name, key in base.items() if name.endswith(".weight")}
    return fingerprint(lambda wanted: read(file, {names[wanted]: wanted})[names[wanted]])


def assemble(file: Path, keys: Mapping[str, Key], scale_of: ScaleOf) -> dict[str, Part]:
    """The parts that the named tensors make. CheckpointError where they do not belong together."""
    tensors = read(file, {name: key.layer for name, key in keys.items()})
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, (layer, role) in keys.items():
        if role in layers[layer]:
            raise CheckpointError(f"{shown(file)} holds several adapters: {name} is one too many for its layer.")
        layers[layer][role] = tensors[name]
    return {layer: part_of(file, layer, layers[layer], scale_of) for layer in sorted(layers)}


def part_of(file: Path, layer: str, roles: Mapping[str, Tensor], scale_of: ScaleOf) -> Part:
    """One layer's tensors by their roles -> its part."""
    if roles.keys() <= {"weight", "bias"}:
        weight = roles.get("weight")
        return Delta(None if weight is None else flat(weight), roles.get("bias"))
    if not {"down", "up"} <= roles.keys() or "weight" in roles:
        held = ", ".join(sorted(roles))
        raise CheckpointError(f"{shown(file)} cannot be used: of {layer} it holds {held}, which make no adapter.")
    down, up = flat(roles["down"]), flat(roles["up"])
    rank = down.shape[0]
    scale = scale_of(layer, rank)
    if "alpha" in roles:
        scale = roles["alpha"].item() / max(rank, 1)
    if "scale" in roles:
        scale = roles["scale"].item()
    if "middle" in roles:
        # Tucker form of a convolution: 1x1 down, k x k in the middle, 1x1 up
        down = torch.einsum("rskl,si->rikl", roles["middle"].float(), down.float()).to(down.dtype)
    if up.ndim != 2 or down.ndim not in (2, 4) or up.shape[1] != rank:
        shapes = f"{tuple(roles['down'].shape)} and {tuple(roles['up'].shape)}"
        raise CheckpointError(f"{shown(file)} cannot be used: the matrices {shapes} of {layer} do not multiply.")
    return LowRank(down, up, scale, roles.get("bias"))


def flat(tensor: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix that it is."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def scales(file: Path, metadata: Mapping[str, str]) -> ScaleOf:
    """As peft's config beside the file or diffusers' in its header says; 1 where neither does."""
    config = peft_config(file, metadata)
    if not config.get("lora_alpha"):
        return lambda layer, rank: 1.0
    alphas = config.get("alpha_pattern") or {}

    def scale_of(layer: str, rank: int) -> float:
        # peft: a pattern is the end of a layer's name
        ends = (value for end, value in alphas.items() if re.match(rf"(.*\.)?({end})$", layer))
        alpha = next(ends, config["lora_alpha"])
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    return scale_of


def peft_config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if file.stem == "adapter_model":
        return read_json(file.parent / "adapter_config.json")
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    return {name.removeprefix("unet."): value for name, value in config.items()}
