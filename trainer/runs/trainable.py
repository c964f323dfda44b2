"""Trainable: which weights of a run learn, and how fast."""

from __future__ import annotations

from collections.abc import Iterator

from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from ...core.checkpoints.tensors import CheckpointError
from ..config import Config, ConfigError, Network
from .perception import PerceptionModel

LORA = "default"
"""What peft calls the adapter."""


def choose(model: PerceptionModel, config: Config) -> None:
    """Let learn what the config says. ConfigError if that is nothing."""
    network = config.network
    model.requires_grad_(False)
    if network.unet == "full":
        model.unet.requires_grad_(True)
    elif network.unet == "lora":
        _add_lora(model.unet, network)
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
        if not any(_is_inside(layer, name) for name in weights):
            raise ConfigError(f"The UNet has no layer {layer!r} to train whole: give diffusers names, such as conv_in.")
    chosen = {
        name: weight for name, weight in weights.items() if any(_is_inside(layer, name) for layer in network.whole)
    }
    return {name: weight.detach().clone() for name, weight in chosen.items()}


def _add_lora(unet: UNet2DConditionModel, network: Network) -> None:
    """Put LoRA beside the layers that the config names. ConfigError for layers that do not exist."""
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for ending in network.lora_layers:
        if not any(_is_ending(ending, layer) for layer in layers):
            raise ConfigError(f"The UNet has no layer {ending!r} to put LoRA beside: give endings of diffusers names.")
    chosen = [layer for layer in layers if any(_is_ending(ending, layer) for ending in network.lora_layers)]
    lora = LoraConfig(
        r=network.rank,
        lora_alpha=network.alpha or network.rank,  # pyright: ignore[reportArgumentType]
        init_lora_weights="gaussian",
        target_modules=[layer for layer in chosen if not any(_is_inside(whole, layer) for whole in network.whole)],
    )
    unet.add_adapter(lora, adapter_name=LORA)
    for name, weight in unet.named_parameters():
        if any(_is_inside(layer, name) for layer in network.whole):
            weight.requires_grad_(True)


def _is_inside(layer: str, name: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def _is_ending(ending: str, layer: str) -> bool:
    return layer == ending or layer.endswith(f".{ending}")


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
