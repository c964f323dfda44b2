"""What a run on a UNet writes: its one file, the whole network or an adapter."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from ...core.checkpoints.adapter_file import write_adapter
from ...core.checkpoints.adapters import Adapter, Delta, LowRank, Part
from ...core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ...core.checkpoints.fingerprint import Fingerprint
from ...core.checkpoints.modelspec import modelspec
from ...core.checkpoints.own_file import write_own
from ...core.checkpoints.tensors import DTYPES
from ..config import Config
from .perception import PerceptionModel
from .trainable import LORA


def _plain_name(name: str) -> str:
    """The name that a weight had before LoRA was put beside it."""
    return name.replace(".base_layer.", ".")


def unet_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The UNet's own weights, without LoRA."""
    return {_plain_name(name): weight for name, weight in unet.state_dict().items() if ".lora_" not in name}


def _parts_of(unet: UNet2DConditionModel, kept: Mapping[str, Tensor], scale: float) -> dict[str, Part]:
    """What training added to the UNet, layer by layer."""
    weights = unet.state_dict()
    parts: dict[str, Part] = {}
    for name, down in weights.items():
        layer, found, _ = name.partition(f".lora_A.{LORA}.weight")
        if found:
            up = weights[f"{layer}.lora_B.{LORA}.weight"].flatten(1)
            parts[layer] = LowRank(down.detach().cpu(), up.detach().cpu(), scale)
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in kept):
        parts[layer] = Delta(*(change(weights, kept, f"{layer}.{kind}") for kind in ("weight", "bias")))
    return parts


def change(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], name: str) -> Tensor | None:
    """What training added to one weight; what was widened for training counts as added."""
    if name not in kept:
        return None
    now, before = weights[name].detach().float().cpu(), kept[name].float().cpu()
    if now.ndim == 4 and before.shape[1] < now.shape[1]:
        before = F.pad(before, (0, 0, 0, 0, 0, now.shape[1] - before.shape[1]))
    return now - before


class Written:
    """How a run's weights are written: everything that the file says besides its weights."""

    def __init__(
        self,
        config: Config,
        architecture: UNetArchitecture,
        vae_architecture: VAEArchitecture,
        kept: Mapping[str, Tensor],
        base_fingerprint: Fingerprint,
    ) -> None:
        self.config, self.architecture, self.vae_architecture = config, architecture, vae_architecture
        self.kept, self.base_fingerprint = kept, base_fingerprint

    def checkpoint(self, model: PerceptionModel, path: Path, notes: Mapping[str, object]) -> None:
        """The one file of a run: the whole network, or the adapter of a LoRA run; complete or absent."""
        recipes = list(model.recipes.values())
        contexts = {task: model.contexts[i : i + 1].detach().cpu() for i, task in enumerate(model.tasks)}
        heads = {} if model.head is None else {recipes[0].head: self.tensors(model.head.state_dict())}
        network, lora = self.config.network, self.config.network.unet == "lora"
        spec = modelspec(recipes, self.architecture.base, title=self.config.title, adapter=lora, size=self.config.size)
        metadata = {**spec, NOTES: json.dumps(notes)}
        if lora:
            adapter = Adapter(
                path,
                _parts_of(model.unet, self.kept, (network.alpha or network.rank) / network.rank),
                spelling="own",
                base=self.architecture.base,
                fingerprint=self.base_fingerprint,
                recipes=tuple(recipes),
                licence=self.config.licence,
                data=recipes[0].data,
            )
            write_adapter(path, adapter, heads, contexts, metadata)
        else:
            vae = (self.vae_architecture, self.tensors(model.vae.state_dict()))
            weights = self.tensors(unet_weights(model.unet))
            unet = (replace(self.architecture, in_channels=weights["conv_in.weight"].shape[1]), weights)
            write_own(path, recipes, unet=unet, vae=vae, heads=heads, contexts=contexts, metadata=metadata)

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return narrowed(weights, DTYPES[self.config.save_precision])


def narrowed(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """On the CPU, in this precision; those with numbers too large for it in single precision, which is said."""
    held = {name: weight.detach().cpu() for name, weight in weights.items()}
    made = {name: weight.to(dtype) for name, weight in held.items()}
    large = [name for name in held if bool(held[name].isfinite().all()) and not bool(made[name].isfinite().all())]
    if large:
        logging.getLogger(__name__).warning(
            "%d weights (%s ...) have numbers too large for %s and are saved as float32: "
            'save_precision = "bf16" holds them.', len(large), large[0], dtype,
        )  # fmt: skip
    return {**made, **{name: held[name].float() for name in large}}


NOTES = "diffusion_perception.training"
"""Header field: how a file came about, for people."""
