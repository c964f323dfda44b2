"""LoRA file: an adapter in the names that other tools read, which hold no recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..core.checkpoints.adapters import Adapter, Delta, LowRank, Part
from ..core.checkpoints.tensors import save_tensors
from ..core.errors import UserError

Parts = Mapping[str, Part]


def alpha(part: LowRank) -> Tensor:
    """What these files divide by the rank to get the scale."""
    return torch.tensor(part.scale * part.up.shape[1])


def _refuse_differences(parts: Parts, layout: str) -> None:
    """UserError for what is no low-rank pair of matrices."""
    others = [layer for layer, part in parts.items() if isinstance(part, Delta) or part.bias is not None]
    if others:
        raise UserError(
            f"{len(others)} layers of the adapter are no plain LoRA ({others[0]} ...), for which {layout} has no "
            "names: take --layout kohya, or keep the project's own."
        )


def _as_matrix(part: LowRank) -> Tensor:
    """`up` with as many dimensions as `down`: of convolutions 1x1."""
    return part.up[..., None, None] if part.down.ndim == 4 else part.up


def _in_diffusers_names(parts: Parts) -> dict[str, Tensor]:
    """peft's endings on diffusers' layers."""
    _refuse_differences(parts, "diffusers")
    named = {}
    for layer, part in parts.items():
        assert isinstance(part, LowRank)
        key = f"unet.{layer}"
        named |= {
            f"{key}.lora_A.weight": part.down,
            f"{key}.lora_B.weight": _as_matrix(part),
            f"{key}.alpha": alpha(part),
        }
    return named


def _in_kohya_names(parts: Parts) -> dict[str, Tensor]:
    """Dots become underscores; differences have names there too."""
    named: dict[str, Tensor | None] = {}
    for layer, part in parts.items():
        key = "lora_unet_" + layer.replace(".", "_")
        if isinstance(part, LowRank):
            pair = {"lora_down.weight": part.down, "lora_up.weight": _as_matrix(part), "alpha": alpha(part)}
            named |= {f"{key}.{name}": tensor for name, tensor in pair.items()}
        else:
            named[f"{key}.diff"] = part.weight
        named[f"{key}.diff_b"] = part.bias
    return {name: tensor for name, tensor in named.items() if tensor is not None}


NAMES: dict[str, Callable[[Parts], dict[str, Tensor]]] = {"diffusers": _in_diffusers_names, "kohya": _in_kohya_names}
"""By the layout that `export` is asked for."""


def write_lora(path: Path, adapter: Adapter, layout: str, metadata: Mapping[str, str]) -> None:
    """One .safetensors file, whole or not at all."""
    save_tensors(path, NAMES[layout](adapter.parts), {"format": "pt", **metadata})
