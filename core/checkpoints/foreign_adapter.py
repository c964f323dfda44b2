"""Spellings: adapters as other trainers write them, read into core.checkpoints.adapters' one form."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..generations import base_of
from .adapter_names import TEXT_ENCODER, Key, Layout, other_method, other_network, reader, spelling_of
from .adapters import Adapter, Delta, LowRank, Part, first
from .fingerprint import Fingerprint, fingerprint
from .strangers import refuse_names
from .tensors import CheckpointError, header_object, read, read_object, read_shapes, shown

ScaleOf = Callable[[str, int], float]
"""(layer, rank) -> what its matrices' product is multiplied by"""


FACTORS = ("scale_weight", "weight_scale")
"""Ends of names beside `weight`, in files of 8 bits: what a weight is to be multiplied by, whole or row by row."""
PEFTS, CONFIG = "adapter_model", "adapter_config.json"
"""How peft calls its file of weights, and what it writes of them beside it."""
MARK = "scaled_fp8"
"""Of files that have them; it holds nothing."""


def read_foreign(file: Path, metadata: Mapping[str, str], layout: Layout) -> Adapter:
    """An adapter that another trainer wrote."""
    held = list(read_shapes(file))
    factors = {factor for name in held for factor in _factors_of(name)}
    names = [name for name in held if name != MARK and name not in factors]
    _refuse_others(file, names)
    ours = [name for name in names if not TEXT_ENCODER.match(name)]
    if names and not ours:
        raise CheckpointError(f"{shown(file)} adapts the text encoder alone, not a UNet: use another file.")
    read_key = reader(layout)
    keys = {name: key for name in ours if (key := read_key(name)) is not None}
    base = {name: key for name, key in keys.items() if key.role == "base"}
    whole = any(key.layer == "conv_in" for key in base.values())
    _refuse_saved_whole(file, ours, keys)
    if len(base) == len(keys) and whole:
        raise CheckpointError(
            f"{shown(file)} is a whole UNet, not an adapter: give it as the model, or make an adapter of it with "
            "`diffusion-perception extract`."
        )
    known = {name: key for name, key in keys.items() if whole or key.role != "base"}
    refuse_unread(file, [name for name in ours if name not in known], len(ours))
    parts = assembled_parts(
        file, {name: key for name, key in keys.items() if key.role != "base"}, _scales(file, metadata)
    )
    adapter = Adapter(
        file,
        parts,
        spelling_of(known.values()),
        fingerprint=_fingerprint_of(file, base) if whole else {},
        licence=metadata.get("modelspec.license", ""),
        text_encoder=len(names) - len(ours),
        strength_unsaid=file.stem == PEFTS and not (file.parent / CONFIG).exists() and not stated(keys.values()),
    )
    width = adapter.context_dim
    return replace(adapter, base="" if width is None else base_of(width))


def stated(keys: Iterable[Key]) -> bool:
    """Whether the tensors themselves tell how strong the adapter is; differences are as strong as they are."""
    roles = {key.role for key in keys}
    return not roles & {"down", "up"} or bool(roles & {"alpha", "scale"})


def _refuse_others(file: Path, names: list[str]) -> None:
    """CheckpointError for adapters of networks and methods that we know of and cannot run, and for what is none."""
    refuse_names(file, names)
    if network := other_network(names):
        raise CheckpointError(
            f"{shown(file)} is an adapter for {network}; this version runs those for Stable Diffusion 1.x and 2.x: "
            "choose one of these."
        )
    if method := other_method(names):
        raise CheckpointError(
            f"{shown(file)} is a {method} adapter; this version runs low-rank ones (LoRA) and differences: convert it."
        )


def _refuse_saved_whole(file: Path, names: list[str], keys: Mapping[str, Key]) -> None:
    """CheckpointError for layers that were trained whole: without their base nobody can tell what they changed.

    A run that saves its base along saves that of every layer it adapts, as no list of further layers does.
    """
    saved = {key.layer for name, key in keys.items() if key.role == "base" and name.endswith(".weight")}
    adapted = {key.layer for key in keys.values() if key.role != "base"}
    whole = [name for name in names if SAVED.search(name)]
    if not adapted <= saved:
        whole += [name for name, key in keys.items() if key.role == "base" and adapted]
    if whole:
        raise CheckpointError(
            f"{shown(file)} also holds weights that were trained whole, by peft's modules_to_save or bias "
            f"({first(sorted(whole))}): merge it into its base (merge_and_unload) and give the result as the model."
        )


SAVED = re.compile(r"\.(modules_to_save|original_module)\.")


def refuse_unread(file: Path, unread: list[str], total: int) -> None:
    if total == 0 or unread:
        found = f"{len(unread)} of its {total} tensors are not of one ({first(unread)})" if total else "it is empty"
        raise CheckpointError(
            f"{shown(file)} should hold an adapter of a Stable Diffusion UNet, but {found}: use another file."
        )


def _fingerprint_of(file: Path, base: Mapping[str, Key]) -> Fingerprint:
    """Of the base that a training run saved along with its adapter."""
    names = {f"{key.layer}.weight": name for name, key in base.items() if name.endswith(".weight")}
    return fingerprint(lambda wanted: read(file, {names[wanted]: wanted})[names[wanted]])


def assembled_parts(file: Path, keys: Mapping[str, Key], scale_of: ScaleOf) -> dict[str, Part]:
    """The parts that the named tensors make. CheckpointError where they do not belong together."""
    tensors = read(file, {each: each for name in keys for each in (name, *_factors_of(name))})
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, key in keys.items():
        roles = layers[key.layer]
        if key.role in roles:
            raise CheckpointError(f"{shown(file)} holds several adapters: {name} is one too many for its layer.")
        roles[key.role] = _in_full(file, name, tensors)
    for layer, roles in layers.items():
        if not all(bool(tensor.isfinite().all()) for tensor in roles.values()):
            raise CheckpointError(
                f"{shown(file)} gives no numbers: its weights of {layer} hold NaN; get the file again."
            )
    return {layer: _part_of(file, layer, layers[layer], scale_of) for layer in sorted(layers)}


def _factors_of(name: str) -> tuple[str, ...]:
    """What the factor of a weight of 8 bits may be called."""
    return tuple(name.removesuffix("weight") + factor for factor in FACTORS) if name.endswith(".weight") else ()


def _in_full(file: Path, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A tensor in numbers that can be calculated with: of 8 bits in half precision, which has them all, or scaled."""
    tensor = tensors[name]
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.half()
    factor = next((tensors[factor].float() for factor in _factors_of(name) if factor in tensors), None)
    if factor is None:
        return tensor
    if factor.numel() not in (1, *tensor.shape[:1]):
        raise CheckpointError(f"{shown(file)} cannot be used: {name} has {factor.numel()} factors for its rows.")
    return tensor.float() * factor.reshape(-1, *[1] * (tensor.ndim - 1))


def _part_of(file: Path, layer: str, roles: Mapping[str, Tensor], scale_of: ScaleOf) -> Part:
    """One layer's tensors by their roles -> its part."""
    whole = next((role for role, tensor in roles.items() if not tensor.is_floating_point() and role != "alpha"), "")
    if whole:
        found = str(roles[whole].dtype).removeprefix("torch.")
        raise CheckpointError(f"{shown(file)} cannot be used: it keeps {layer} as {found}; get it as fp16.")
    if roles.keys() <= {"weight", "bias"}:
        weight = roles.get("weight")
        return Delta(None if weight is None else flat(weight), roles.get("bias"))
    if not {"down", "up"} <= roles.keys() or "weight" in roles:
        held = ", ".join(sorted(roles))
        raise CheckpointError(f"{shown(file)} cannot be used: of {layer} it holds {held}, which make no adapter.")
    return _low_rank(file, layer, roles, scale_of)


def _low_rank(file: Path, layer: str, roles: Mapping[str, Tensor], scale_of: ScaleOf) -> LowRank:
    """The part of one layer's two matrices, or three."""
    down, up, middle = flat(roles["down"]), flat(roles["up"]), roles.get("middle")
    if not _multiply(down, up, middle):
        shapes = f"{tuple(roles['down'].shape)} and {tuple(roles['up'].shape)}"
        raise CheckpointError(f"{shown(file)} cannot be used: the matrices {shapes} of {layer} do not multiply.")
    rank = down.shape[0]
    scale = scale_of(layer, rank)
    if "alpha" in roles:
        scale = number(file, layer, roles["alpha"]) / max(rank, 1)
    if "scale" in roles:
        scale = number(file, layer, roles["scale"])
    if middle is not None:
        # Tucker form of a convolution: 1x1 down, k x k in the middle, 1x1 up
        down = torch.einsum("rskl,si->rikl", middle.float(), down.float()).to(down.dtype)
    return LowRank(down, up, scale, roles.get("bias"))


def _multiply(down: Tensor, up: Tensor, middle: Tensor | None) -> bool:
    """Whether (rank, in, ...), perhaps (rank, rank, k, k), and (out, rank) fit one another."""
    if up.ndim != 2 or down.ndim not in (2, 4):
        return False
    if middle is None:
        return up.shape[1] == down.shape[0]
    return middle.ndim == 4 and down.ndim == 2 and middle.shape[:2] == (up.shape[1], down.shape[0])


def number(file: Path, layer: str, tensor: Tensor) -> float:
    """What a tensor of one element holds."""
    if tensor.numel() != 1:
        raise CheckpointError(
            f"{shown(file)} cannot be used: the strength of {layer} should be one number, and is {tensor.numel()}."
        )
    return float(tensor)


def flat(tensor: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix that it is."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _scales(file: Path, metadata: Mapping[str, str]) -> ScaleOf:
    """As peft's config beside the file or diffusers' in its header says; 1 where neither does."""
    config = peft_config(file, metadata)
    general, alphas = config.get("lora_alpha") or 0, config.get("alpha_pattern") or {}
    stated = (general, *alphas.values()) if isinstance(alphas, dict) else (None,)
    if not all(isinstance(alpha, (int, float)) and math.isfinite(alpha) for alpha in stated):
        raise CheckpointError(f"{shown(file)} comes with a config whose alphas are no numbers: get it again.")
    if not general:
        return lambda layer, rank: 1.0

    def scale_of(layer: str, rank: int) -> float:
        alpha = next((value for end, value in alphas.items() if _is_meant(layer, end)), general)
        return alpha / (math.sqrt(max(rank, 1)) if config.get("use_rslora") else max(rank, 1))

    return scale_of


def _is_meant(layer: str, pattern: str) -> bool:
    """peft: a pattern is the end of a layer's name."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", layer) is not None
    except re.error:
        return False


def peft_config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if file.stem == PEFTS:
        return read_object(file.parent / CONFIG)
    config = header_object(metadata, "lora_adapter_metadata", file)
    return {name.removeprefix("unet."): value for name, value in config.items()}
