"""DiffusersBackbone and DiffusersAutoencoder: core's protocols on diffusers' networks; the mirror of nodes/host.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ..core.backbone import Context, Features, Shapes
from ..core.checkpoints.adapters import Adapter
from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.attachment import Adapted
from ..core.checkpoints.bases import one_by_one
from ..core.checkpoints.checkpoint import Checkpoint, as_context, empty_prompt, read_context, text_names, text_weights
from ..core.checkpoints.fingerprint import fingerprint
from ..core.checkpoints.tensors import CheckpointError, Weights, read_json, shown
from ..core.checkpoints.tiny_vae_file import FULL, chosen
from ..core.halves import Half, with_light
from ..core.heads.table import build_head
from ..core.heads.vitpose import without_batch_norm
from ..core.pipeline import Perceiver
from ..core.tiny_vae import build_light

Module = TypeVar("Module", bound=nn.Module)


class DiffusersBackbone:
    """A UNet2DConditionModel as a Backbone."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        self.in_channels: int = unet.config.in_channels

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return self.unet(latent.to(self.unet.dtype), timestep, **self.conditions(context), return_dict=False)[0].float()

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        captured: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda module, inputs, output: captured.append(output.float()))
            for block in self.unet.up_blocks
        ]
        try:
            self(latent, timestep, context)
        finally:
            for hook in hooks:
                hook.remove()
        deepest, deep, middle, fine = captured
        return deepest, deep, middle, fine

    def modules(self) -> dict[str, nn.Module]:
        held = self.unet.named_modules()
        return {name: module for name, module in held if getattr(module, "weight", None) is not None}

    def conditions(self, context: Context) -> dict[str, Tensor | None]:
        labels = None if context.vector is None else context.vector.to(self.unet.device, self.unet.dtype)
        return {"encoder_hidden_states": context.tokens.to(self.unet.device, self.unet.dtype), "class_labels": labels}


class DiffusersAutoencoder:
    """An AutoencoderKL as an Autoencoder."""

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae = vae
        self.scaling_factor: float = vae.config.scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        image = image.to(self.vae.device, self.vae.dtype)
        return self.vae.encode(image).latent_dist.mode().float() * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        latent = (latent / self.scaling_factor).to(self.vae.device, self.vae.dtype)
        return self.vae.decode(latent, return_dict=False)[0].float()


class DiffusersHead:
    """A head of core.heads as a Head."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(self, features: Features) -> Tensor:
        return self.head(features).float()


def load(checkpoint: Checkpoint, context: str = "", device: str = "cpu") -> Perceiver:
    """Everything that a checkpoint's recipe needs, in single precision. CheckpointError if a part is missing."""
    recipe = checkpoint.recipe
    return Perceiver(
        recipe=recipe,
        backbone=DiffusersBackbone(load_unet(checkpoint.unet, checkpoint.architecture).to(device)),
        context=context_of(checkpoint, context),
        autoencoder=load_autoencoder(checkpoint, device),
        head=load_head(checkpoint, device),
    )


def lightened(
    perceiver: Perceiver, checkpoint: Checkpoint, encoder: str = FULL, decoder: str = FULL, device: str = "cpu"
) -> Perceiver:
    """With the halves of the VAE that are chosen: full, light, or a file. CheckpointError if there is no such."""
    return with_light(
        perceiver,
        load_light(chosen("encoder", encoder, checkpoint.recipe, checkpoint.encoder, checkpoint.vae), device),
        load_light(chosen("decoder", decoder, checkpoint.recipe, checkpoint.decoder, checkpoint.vae), device),
    )


def load_light(weights: Weights | None, device: str = "cpu") -> Half | None:
    """A light half of the VAE, in single precision."""
    return None if weights is None else filled(build_light(weights.shapes), weights.load(), weights).to(device)


def load_adapted(checkpoint: Checkpoint, adapter: Adapter, context: str = "", device: str = "cpu") -> Perceiver:
    """The same with an adapter beside the UNet's weights; what a person should know of the pair is logged."""
    refuse_text_encoder(adapter, context)
    perceiver = load(checkpoint, context, device)
    for note in adapter.notes(fingerprint(one_by_one(checkpoint.unet))):
        logging.getLogger(__name__).warning(note)
    return replace(perceiver, backbone=Adapted(perceiver.backbone, adapter))


def refuse_text_encoder(adapter: Adapter, context: str) -> None:
    """CheckpointError for an adapter whose context none of the text encoders here can make."""
    if adapter.text_encoder and not context:
        raise CheckpointError(
            f"{adapter.name} also adapts the text encoder ({adapter.text_encoder} tensors), which is not done here: "
            "make the embedding with that encoder and give it as --context FILE."
        )


def load_unet(weights: Weights, architecture: UNetArchitecture) -> UNet2DConditionModel:
    """The network, in single precision. CheckpointError if the weights do not fit it."""
    tensors = weights.load()
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(architecture.config())
    if "conv_out.weight" not in tensors:
        # a UNet that was trained for a head has no way out of its own; these are never read
        parameters = dict(unet.named_parameters())
        unread = [name for name in parameters if name.startswith(("conv_out", "conv_norm_out"))]
        tensors |= {name: torch.zeros(parameters[name].shape) for name in unread}
    return filled(unet, tensors, weights)


def load_autoencoder(checkpoint: Checkpoint, device: str = "cpu") -> DiffusersAutoencoder:
    """The checkpoint's VAE. CheckpointError if it came without one."""
    if checkpoint.vae is None or checkpoint.vae_architecture is None:
        raise CheckpointError(f"{shown(checkpoint.path)} comes without a VAE: put a vae/ folder beside it.")
    return DiffusersAutoencoder(load_vae(checkpoint.vae, checkpoint.vae_architecture).to(device))


def load_vae(weights: Weights, architecture: VAEArchitecture) -> AutoencoderKL:
    """The VAE, in single precision. CheckpointError if the weights do not fit it."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(architecture.config())
    return filled(vae, weights.load(), weights)


def load_head(checkpoint: Checkpoint, device: str = "cpu") -> DiffusersHead | None:
    """The head that the recipe names, if it names one."""
    if checkpoint.head is None:
        return None
    tensors = without_batch_norm(checkpoint.head.load())
    head = build_head(checkpoint.recipe.head, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return DiffusersHead(filled(head, tensors, checkpoint.head).to(device))


def filled(module: Module, tensors: dict[str, Tensor], weights: Weights) -> Module:
    """The module with these float32 weights. CheckpointError names what does not fit."""
    check_fits(module, shapes_of(module), shapes_in(tensors), weights)
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return module.eval().requires_grad_(False)


def check_fits(module: nn.Module, expected: Shapes, given: Shapes, weights: Weights) -> None:
    """CheckpointError names what a module lacks, has in another shape, or does not know."""
    missing = sorted(name for name in expected if given.get(name) != expected[name])
    unexpected = sorted(set(given) - set(expected))
    if missing or unexpected:
        raise CheckpointError(
            f"{shown(weights.path)} does not fit its {type(module).__name__}: {len(missing)} weights are missing or "
            f"misshapen, {len(unexpected)} are unknown ({(missing + unexpected)[0]} ...); download or export it again."
        )


def shapes_of(module: nn.Module) -> Shapes:
    return shapes_in(module.state_dict())


def shapes_in(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def context_of(checkpoint: Checkpoint, given: str = "") -> Context:
    """The text context: as given, else from the file, else by the text encoder beside it."""
    if given:
        return named_context(given, checkpoint.architecture)
    if checkpoint.context is not None:
        return checkpoint.context
    if checkpoint.text_encoder is not None:
        tokens = encode_empty_prompt(checkpoint.text_encoder, padded=checkpoint.recipe.tokens == 0)
        return as_context(tokens, checkpoint.architecture, checkpoint.text_encoder)
    raise CheckpointError(
        f"{shown(checkpoint.path)} comes without a text context: put empty_text_embed.safetensors or a text_encoder/ "
        "folder beside it, or give --context FILE."
    )


def named_context(text: str, architecture: UNetArchitecture) -> Context:
    """FILE or FILE:KEY."""
    path, _, key = text.rpartition(":") if ":" in text and not Path(text).exists() else (text, "", "")
    return as_context(read_context(Path(path), key), architecture, Path(path))


def encode_empty_prompt(folder: Path, padded: bool = False) -> Tensor:
    """(1, 2 or 77, D) float32 of the empty prompt, by transformers' CLIP. CheckpointError for weights that are not its
    own, where transformers would make up what is missing."""
    from transformers import CLIPTextModel

    weights, expected = text_weights(folder), text_network(folder)
    known = shapes_of(expected)
    check_fits(expected, {new: known[old] for old, new in text_names(list(known)).items()}, weights.shapes, weights)
    # .float(): transformers keeps the dtype of the file since version 5
    encoder = CLIPTextModel.from_pretrained(folder, local_files_only=True).float()
    with torch.no_grad():
        return encoder(torch.tensor([empty_prompt(folder, padded)]))[0]


def text_network(folder: Path) -> nn.Module:
    """The text encoder that config.json describes, without weights. CheckpointError if it describes none."""
    from transformers import CLIPTextConfig, CLIPTextModel

    read_json(folder / "config.json")  # says in one sentence what is wrong with it
    try:
        with torch.device("meta"):
            return CLIPTextModel(CLIPTextConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # its releases each raise others of a wrong value
        raise CheckpointError(
            f"{shown(folder / 'config.json')} describes no text encoder ({error}): get the file again."
        ) from error
