"""What hosts whose networks have LDM's names need for them: the settings of a UNet, and weights put into a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import UNetArchitecture, VAEArchitecture
from .ldm_names import rename, unet_to_diffusers, unet_to_ldm, vae_to_ldm
from .tensors import CheckpointError, Weights


def host_config(architecture: UNetArchitecture) -> dict[str, Any]:
    """A UNet's settings as hosts name them. CheckpointError for widths and head counts that these cannot express."""
    widths, heads = architecture.widths, architecture.heads
    if any(width % widths[0] for width in widths) or any(width % 32 for width in widths):
        raise CheckpointError(
            f"ComfyUI and WebUIs cannot run a UNet of widths {widths}: each must be a multiple of the first and of 32."
        )
    sizes = {width // count for width, count in zip(widths, heads)}
    if len(set(heads)) > 1 and len(sizes) > 1:
        raise CheckpointError(
            f"ComfyUI and WebUIs cannot run a UNet with {heads} attention heads: they know one number, or one width, "
            "for all."
        )
    one_number = len(set(heads)) == 1
    depth = [int(attends) for attends in architecture.attention]
    return {
        "image_size": 32,
        "in_channels": architecture.in_channels,
        "out_channels": architecture.out_channels,
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [architecture.layers] * len(widths),
        "transformer_depth": [d for d in depth for _ in range(architecture.layers)],
        "transformer_depth_output": [d for d in depth for _ in range(architecture.layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": architecture.context_dim,
        "num_heads": heads[0] if one_number else -1,
        "num_head_channels": -1 if one_number else sizes.pop(),
        # SD2 overflows in half precision without it, and diffusers upcasts there too
        "attn_precision": torch.float32 if architecture.linear_projection else None,
        "use_linear_in_transformer": architecture.linear_projection,
        "adm_in_channels": architecture.vector_dim,
        "num_classes": "sequential" if architecture.vector_dim else None,
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_checkpoint": False,
        "legacy": False,
    }


def vae_config(architecture: VAEArchitecture) -> dict[str, Any]:
    """A VAE's settings as hosts name them."""
    widths = architecture.widths
    return {
        "double_z": True,
        "z_channels": architecture.latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": architecture.layers,
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def unet_tensors(
    tensors: dict[str, Tensor], architecture: UNetArchitecture, network: nn.Module, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A UNet's weights under LDM's names, for this network."""
    names = rename(tensors, unet_to_ldm(architecture.attention, architecture.layers))
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
    if "out.2.weight" not in renamed:
        # a UNet that was trained for a head has no way out of its own; these are never read
        out = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("out.")}
        renamed |= {name: torch.zeros(tensor.shape, dtype=dtype) for name, tensor in out.items()}
    return renamed


def vae_tensors(tensors: dict[str, Tensor], architecture: VAEArchitecture, weights: Weights) -> dict[str, Tensor]:
    """A VAE's weights under LDM's names. CheckpointError if they are not those of a VAE alone."""
    names = rename(tensors, vae_to_ldm(len(architecture.widths), architecture.layers))
    if len(names) != len(tensors):
        unknown = sorted(set(tensors) - set(names))
        raise CheckpointError(f"{weights.path.name} is not a Stable Diffusion VAE: it holds {unknown[0]}.")
    return {ldm: as_convolution(tensors[name], ldm) for name, ldm in names.items()}


def as_convolution(tensor: Tensor, ldm: str) -> Tensor:
    """A host's VAE attention is 1x1 convolutions."""
    return tensor[..., None, None] if ".attn_1." in ldm and tensor.ndim == 2 else tensor


def paths_of(network: nn.Module) -> dict[str, str]:
    """{diffusers name: path in it} of all layers with weights of a UNet whose modules have LDM's names."""
    held = [f"{name}.weight" for name, layer in network.named_modules() if hasattr(layer, "weight")]
    named = unet_to_diffusers(held)
    return {ours.removesuffix(".weight"): path.removesuffix(".weight") for path, ours in named.items()}


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """{diffusers name: layer} of the same."""
    held = dict(network.named_modules())
    return {name: held[path] for name, path in paths_of(network).items()}


def filled(
    module: nn.Module,
    tensors: dict[str, Tensor],
    weights: Weights,
    assign: bool = False,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module with these weights. CheckpointError names what does not fit.

    assign: whether to hold the very tensors, in their own dtype; else they are copied into the module's, which is
    `dtype` for layers that are made only now.
    """
    made, expected = module.state_dict().keys(), _shapes_in(module)
    given = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        raise CheckpointError(
            f"{weights.path.name} is not whole: {len(wrong)} of the weights that its {type(module).__name__} needs are "
            f"missing or of another shape ({wrong[0]} ...); get the file again."
        )
    if not assign:
        tensors = {name: tensor if name in made else tensor.to(dtype) for name, tensor in tensors.items()}
    module.load_state_dict(tensors, assign=assign)
    return module.eval().requires_grad_(False)


UNMADE: tuple[tuple[type[nn.Module], Callable[[Any], tuple[int, ...]]], ...] = (
    (nn.Linear, lambda layer: (layer.out_features, layer.in_features)),
    (nn.Embedding, lambda layer: (layer.num_embeddings, layer.embedding_dim)),
)
"""Layers that hosts which stream weights make without any until a file is loaded, and the shape of what they want."""


def _shapes_in(module: nn.Module) -> dict[str, torch.Size]:
    """Of all weights that a module has or waits for."""
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, layer in module.named_modules():
        for kind, shape in UNMADE:
            if isinstance(layer, kind) and getattr(layer, "weight", None) is None:
                shapes[f"{name}.weight"] = torch.Size(shape(layer))
                if getattr(layer, "comfy_need_lazy_init_bias", False):
                    shapes[f"{name}.bias"] = torch.Size(shape(layer)[:1])
    return shapes
