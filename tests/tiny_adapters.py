"""Random adapters for the tiny networks, and their files as other trainers write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.checkpoints.adapters import Adapter, Delta, LowRank, Part
from diffusion_perception.core.checkpoints.layers import shapes_of
from diffusion_perception.core.checkpoints.ldm_names import unet_to_ldm
from diffusion_perception.trainer.host import DiffusersBackbone

LAYOUT = ((True, True, True, False), 1)
"""Of the tiny networks, which have one residual block a level."""
KINDS = {
    "attention": lambda name, layer: ".attn" in name,
    "every Linear": lambda name, layer: isinstance(layer, nn.Linear),
    "3x3 convolutions": lambda name, layer: isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3),
    "1x1 convolutions": lambda name, layer: isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1),
}
DELTAS = {
    "norms": lambda name, layer: isinstance(layer, nn.GroupNorm | nn.LayerNorm),
    "whole weights": lambda name, layer: isinstance(layer, nn.Linear | nn.Conv2d),
}
Picks = Callable[[str, nn.Module], bool]


def layers_of(network: UNet2DConditionModel) -> dict[str, nn.Module]:
    return DiffusersBackbone(network).modules()


def fixed(*shape: int, scale: float = 0.1) -> Tensor:
    """Random numbers, the same for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


def low_rank(layer: nn.Module, rank: int = 3, scale: float = 1.0, with_bias: bool = False) -> LowRank:
    out, *inputs = shapes_of({"": layer})[".weight"]
    inputs = inputs[:1] if inputs[1:] == [1, 1] else inputs
    bias = fixed(out) if with_bias and layer.bias is not None else None
    return LowRank(fixed(rank, *inputs), fixed(out, rank), scale, bias)


def delta(layer: nn.Module) -> Delta:
    shape = shapes_of({"": layer})[".weight"]
    shape = shape[:2] if shape[2:] == (1, 1) else shape
    return Delta(fixed(*shape), fixed(shape[0]) if layer.bias is not None else None)


def adapter_of(parts: dict[str, Part], **fields) -> Adapter:
    return Adapter(Path("random.safetensors"), parts, **fields)


def random_adapter(network: UNet2DConditionModel, picks: Picks, **options) -> Adapter:
    picked = {name: layer for name, layer in layers_of(network).items() if picks(name, layer)}
    return adapter_of({name: low_rank(layer, **options) for name, layer in picked.items()})


def random_delta(network: UNet2DConditionModel, picks: Picks) -> Adapter:
    return adapter_of({name: delta(layer) for name, layer in layers_of(network).items() if picks(name, layer)})


def kinds_of_adapters(network: UNet2DConditionModel) -> dict[str, Adapter]:
    conv_in = network.conv_in
    kinds = {name: random_adapter(network, picks) for name, picks in KINDS.items()}
    deltas = {name: random_delta(network, picks) for name, picks in DELTAS.items()}
    widened = {"conv_in": Delta(fixed(conv_in.out_channels, 8, 3, 3), fixed(conv_in.out_channels))}
    shapes = shapes_of(layers_of(network))
    biased = {name[: -len(".bias")]: shape for name, shape in shapes.items() if name.endswith(".bias")}
    return {
        **{name: adapter for name, adapter in {**kinds, **deltas}.items() if adapter.parts},
        "scaled, with biases": random_adapter(network, KINDS["every Linear"], scale=0.25, with_bias=True),
        "biases alone": adapter_of({name: Delta(bias=fixed(*shape)) for name, shape in biased.items()}),
        "a widened conv_in": adapter_of(widened),
        "a widened low-rank conv_in": adapter_of({"conv_in": LowRank(fixed(2, 8, 3, 3), fixed(32, 2))}),
        "everything at once": adapter_of({**deltas["norms"].parts, **kinds["every Linear"].parts, **widened}),
    }


def call(net, channels: int = 4) -> Tensor:
    latent = fixed(2, channels, 8, 12, scale=1.0)
    return net(latent, torch.tensor([801.0, 3.0]), Context(tiny.context()).expand(2))


def kohya(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def processor(name: str) -> str:
    stem, _, projection = name.removesuffix(".0").rpartition(".")
    return f"{stem}.processor.{projection}_lora"


def ldm(name: str) -> str:
    prefixes = unet_to_ldm(*LAYOUT)
    prefix = max((prefix for prefix in prefixes if f"{name}.".startswith(f"{prefix}.")), key=len)
    return prefixes[prefix] + name[len(prefix) :]


SPELLED: dict[str, tuple[Callable[[str], str], str, str]] = {
    "diffusers processors": (processor, "{}.down.weight", "{}.up.weight"),
    "diffusers processors, prefixed": (lambda name: f"unet.{processor(name)}", "{}.down.weight", "{}.up.weight"),
    "diffusers": (lambda name: f"unet.{name}", "{}.lora.down.weight", "{}.lora.up.weight"),
    "diffusers layers": (lambda name: name, "{}.lora_layer.down.weight", "{}.lora_layer.up.weight"),
    "peft": (lambda name: f"base_model.model.{name}", "{}.lora_A.weight", "{}.lora_B.weight"),
    "peft, named": (lambda name: f"base_model.model.{name}", "{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    "peft in diffusers": (lambda name: f"unet.{name}", "{}.lora_A.weight", "{}.lora_B.weight"),
    "peft, doubly prefixed": (lambda name: f"base_model.model.unet.{name}", "{}.lora_A.weight", "{}.lora_B.weight"),
    "kohya": (kohya, "{}.lora_down.weight", "{}.lora_up.weight"),
    "kohya, numbered as LDM": (lambda name: kohya(ldm(name)), "{}.lora_down.weight", "{}.lora_up.weight"),
    "lycoris": (lambda name: "lycoris_" + name.replace(".", "_"), "{}.lora_down.weight", "{}.lora_up.weight"),
    "comfyui": (lambda name: f"diffusion_model.{ldm(name)}", "{}.lora_down.weight", "{}.lora_up.weight"),
}
ONLY_ATTENTION = ("diffusers processors", "diffusers processors, prefixed")


def spelled(adapter: Adapter, spelling: str, alpha: float | None = None) -> dict[str, Tensor]:
    """Its tensors as that trainer names them."""
    rename, down, up = SPELLED[spelling]
    tensors = {}
    for name, part in adapter.parts.items():
        layer = rename(name)
        tensors |= {down.format(layer): part.down, up.format(layer): part.up}
        if alpha is not None:
            tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    return tensors


def saved(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata)
    return path


def assert_same(one: Adapter, other: Adapter) -> None:
    """Part by part, to the last bit."""
    assert one.parts.keys() == other.parts.keys()
    for name, part in one.parts.items():
        assert type(part) is type(other.parts[name]), name
        for field, value in vars(part).items():
            there = vars(other.parts[name])[field]
            assert torch.equal(value, there) if isinstance(value, Tensor) else value == there, (name, field)
