"""PerceptionModel: the networks of a run, which of their weights learn, and what is written of them in the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from ...core.backbone import Context
from ...core.checkpoints.adapter_file import write_adapter
from ...core.checkpoints.adapters import Adapter, Delta, LowRank, Part
from ...core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ...core.checkpoints.fingerprint import Fingerprint
from ...core.checkpoints.modelspec import modelspec
from ...core.checkpoints.own_file import write_own
from ...core.checkpoints.tensors import CheckpointError
from ...core.measure.losses import at_least_float32
from ...core.pipeline import Perceiver
from ...core.recipe import Recipe
from .. import objective
from ..captions import Captions
from ..config import Config, ConfigError, Network
from ..config import Objective as Settings
from ..data.batches import Batch
from ..host import DiffusersAutoencoder, DiffusersBackbone, DiffusersHead
from ..latents import Latents

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LORA = "default"
"""What peft calls the adapter."""


class PerceptionModel(nn.Module):
    """One UNet for all tasks of a run; called with a batch it gives what its losses sum up to."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        contexts: Mapping[str, Tensor],
        recipes: Mapping[str, Recipe],
        settings: Settings,
        head: nn.Module | None = None,
        latents: Latents | None = None,
        captions: Captions | None = None,
    ) -> None:
        """contexts: (1, L, D) for each task, all of one length; latents: where they are kept, if they are; captions:
        what knows the pictures' texts, if they have any."""
        super().__init__()
        self.latents, self.captions = latents, captions
        self.unet, self.vae, self.head = unet, vae, head
        self.recipes, self.settings = dict(recipes), settings
        self.tasks = tuple(recipes)
        # one weight for all tasks: every process uses it in every pass, whatever task that is for
        self.contexts = nn.Parameter(torch.cat([contexts[task] for task in self.tasks]), requires_grad=False)
        self.terms = {task: objective.terms_of(recipe, settings) for task, recipe in recipes.items()}

    def forward(self, batch: Batch) -> Tensor:
        """The entries of objective.totals: (N,)."""
        return objective.totals(self, batch, self.terms[batch.task], self.settings)

    def rehearse(self, batch: Batch) -> Tensor:
        """A pass through every network that a step runs, with a gradient and without losses."""
        image = self.encode(batch.image, batch, "image")
        timesteps, tokens = torch.ones(len(batch), device=image.device), self.tokens(batch.task, len(batch))
        if self.head is not None:
            return self.read_head(image, timesteps, tokens, batch.image.shape[-2:]).sum()
        self.encode(batch.target, batch, "target")
        output = self.output(image.repeat(1, self.unet.config.in_channels // image.shape[1], 1, 1), timesteps, tokens)
        return (output if self.settings.loss == "latent" else self.decode(output)).sum()

    def weights(self, batch: Batch) -> objective.Counted:
        """What those entries are to be divided by."""
        return objective.weights(batch, self.terms[batch.task])

    @property
    def dtype(self) -> torch.dtype:
        """In which losses are computed."""
        return self.contexts.dtype

    def tokens(self, task: str, count: int) -> Tensor:
        """A task's context for a batch, (B, L, D)."""
        return self.contexts[self.tasks.index(task)].expand(count, -1, -1)

    def told(self, batch: Batch) -> Tensor:
        """The context of each picture of a batch, (B, L, D): its caption, or its task's."""
        if batch.prompts and self.captions is not None:
            return self.captions(batch.prompts).to(self.contexts)
        return self.tokens(batch.task, len(batch))

    def output(self, shown: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """One pass of the UNet, in its own precision."""
        timesteps = timesteps.to(shown.device)
        return self.unet(shown.to(self.unet.dtype), timesteps, tokens.to(self.unet.dtype), return_dict=False)[0]

    def encode(self, picture: Tensor, batch: Batch, purpose: str) -> Tensor:
        """Pictures -> scaled latents: the posterior's mean, or drawn from it where the settings say so."""
        # without weights that learn there is nothing to remember for the way back
        learns = any(weight.requires_grad for weight in self.vae.quant_conv.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.encode_known(picture, batch, purpose)

    def encode_known(self, picture: Tensor, batch: Batch, purpose: str) -> Tensor:
        if self.latents is None or not batch.marks:
            return self.encode_anew(picture, batch, purpose)
        names, stamps = zip(*(mark.of(purpose, batch.task) for mark in batch.marks))
        return self.latents.encode(picture, names, lambda unknown: self.encode_anew(unknown, batch, purpose), stamps)

    def encode_anew(self, picture: Tensor, batch: Batch, purpose: str) -> Tensor:
        posterior = self.vae.encode(picture.to(self.vae.dtype)).latent_dist
        latent = at_least_float32(posterior.mean)
        if self.settings.sample_latents:
            sources = [objective.source(seed, purpose) for seed in batch.seeds.tolist()]
            draws = [torch.randn(latent.shape[1:], generator=source) for source in sources]
            latent = latent + at_least_float32(posterior.std) * torch.stack(draws).to(latent)
        return latent * self.vae.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents -> pictures (B, 3, 8h, 8w), not clamped; gradients flow through."""
        scaled = latent / self.vae.config.scaling_factor
        return at_least_float32(self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0])

    def read_head(self, latent: Tensor, timesteps: Tensor, tokens: Tensor, size: torch.Size) -> Tensor:
        """What the head makes of the UNet's features, at the pictures' size."""
        assert self.head is not None
        features: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda module, inputs, output: features.append(at_least_float32(output)))
            for block in self.unet.up_blocks
        ]
        try:
            self.output(latent, timesteps, tokens)
        finally:
            for hook in hooks:
                hook.remove()
        picture = at_least_float32(self.head(tuple(features)))
        if picture.shape[-2:] == size:
            return picture
        return F.interpolate(picture, size, mode="bilinear", align_corners=False)

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that move, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def perceiver(self, task: str) -> Perceiver:
        """What is run in inference, on the very same weights."""
        index = self.tasks.index(task)
        return Perceiver(
            recipe=self.recipes[task],
            backbone=DiffusersBackbone(self.unet),
            context=Context(self.contexts[index : index + 1].detach()),
            autoencoder=DiffusersAutoencoder(self.vae),
            head=None if self.head is None else DiffusersHead(self.head),
        )


# Which weights learn


def choose(model: PerceptionModel, config: Config) -> None:
    """Let learn what the config says. ConfigError if that is nothing."""
    network = config.network
    model.requires_grad_(False)
    if network.unet == "full":
        model.unet.requires_grad_(True)
    elif network.unet == "lora":
        add_lora(model.unet, network)
    if model.head is not None:
        model.head.requires_grad_(True)
        for unread in (model.unet.conv_norm_out, model.unet.conv_out):
            unread.requires_grad_(False)
    if network.decoder:
        model.vae.decoder.requires_grad_(True)
        model.vae.post_quant_conv.requires_grad_(True)
    if network.encoder:
        model.vae.encoder.requires_grad_(True)
        model.vae.quant_conv.requires_grad_(True)
    model.contexts.requires_grad_(config.learns_context)
    if network.checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.vae.enable_gradient_checkpointing()
    if not model.learning():
        raise ConfigError(
            "Nothing would learn: the UNet is frozen, and there is no head, decoder or context to train; "
            'set network.unet to "lora" or "full".'
        )


def whole_weights(unet: UNet2DConditionModel, network: Network) -> dict[str, Tensor]:
    """The weights that are trained whole beside LoRA, as they are before. ConfigError for layers that do not exist."""
    if network.unet != "lora":
        return {}
    weights = dict(unet.named_parameters())
    for layer in network.whole:
        if not any(is_inside(layer, name) for name in weights):
            raise ConfigError(f"The UNet has no layer {layer!r} to train whole: give diffusers names, such as conv_in.")
    chosen = {
        name: weight for name, weight in weights.items() if any(is_inside(layer, name) for layer in network.whole)
    }
    return {name: weight.detach().clone() for name, weight in chosen.items()}


def add_lora(unet: UNet2DConditionModel, network: Network) -> None:
    """Put LoRA beside the layers that the config names. ConfigError for layers that do not exist."""
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for ending in network.lora_layers:
        if not any(is_ending(ending, layer) for layer in layers):
            raise ConfigError(f"The UNet has no layer {ending!r} to put LoRA beside: give endings of diffusers names.")
    chosen = [layer for layer in layers if any(is_ending(ending, layer) for ending in network.lora_layers)]
    lora = LoraConfig(
        r=network.rank,
        lora_alpha=network.alpha or network.rank,  # pyright: ignore[reportArgumentType]
        init_lora_weights="gaussian",
        target_modules=[layer for layer in chosen if not any(is_inside(whole, layer) for whole in network.whole)],
    )
    unet.add_adapter(lora, adapter_name=LORA)
    for name, weight in unet.named_parameters():
        if any(is_inside(layer, name) for layer in network.whole):
            weight.requires_grad_(True)


def is_inside(layer: str, name: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def is_ending(ending: str, layer: str) -> bool:
    return layer == ending or layer.endswith(f".{ending}")


# What is written


def plain_name(name: str) -> str:
    """The name that a weight had before LoRA was put beside it."""
    return name.replace(".base_layer.", ".")


def unet_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The UNet's own weights, without LoRA."""
    return {plain_name(name): weight for name, weight in unet.state_dict().items() if ".lora_" not in name}


def parts_of(unet: UNet2DConditionModel, kept: Mapping[str, Tensor], scale: float) -> dict[str, Part]:
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
                parts_of(model.unet, self.kept, (network.alpha or network.rank) / network.rank),
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


def widened(unet: UNet2DConditionModel, channels: int) -> UNet2DConditionModel:
    """The UNet with that many input channels: its weights repeated and divided, so that its scale stays (Marigold)."""
    have = unet.config.in_channels
    if have == channels:
        return unet
    if channels % have:
        raise CheckpointError(
            f"The base takes {have} input channels, its paradigm shows it {channels}: take another base."
        )
    old = unet.conv_in
    unet.conv_in = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    weight = old.weight.detach().repeat(1, channels // have, 1, 1) * (have / channels)
    unet.conv_in.load_state_dict({"weight": weight, "bias": old.bias})
    unet.register_to_config(in_channels=channels)
    return unet


def groups(model: nn.Module, config: Config) -> Iterator[dict[str, object]]:
    """Parameter groups, each with its peak learning rate: networks, what decodes, contexts."""
    optimiser = config.optimiser
    decoder = optimiser.decoder_lr
    rates = {"unet": optimiser.lr, "vae": decoder, "head": decoder, "contexts": optimiser.context_lr, "light": 0.0}
    sorted_by: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        part = name.split(".")[0]
        decay = optimiser.weight_decay if weight.ndim > 1 and part != "contexts" else 0.0
        sorted_by.setdefault((rates[part] or optimiser.lr, decay), []).append(weight)
    for (rate, decay), weights in sorted_by.items():
        yield {"params": weights, "lr": rate, "peak": rate, "weight_decay": decay}
