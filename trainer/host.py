"""DiffusersBackbone and DiffusersAutoencoder: core's protocols on diffusers' networks; the mirror of nodes/host.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ..core.backbone import Context, Features, Shapes
from ..core.checkpoints.adapters import Adapter
from ..core.checkpoints.architecture import FOURIER, UNetArchitecture, VAEArchitecture
from ..core.checkpoints.assemble import assemble, text_context
from ..core.checkpoints.bases import one_by_one
from ..core.checkpoints.checkpoint import Checkpoint
from ..core.checkpoints.context import (
    as_context,
    read_context,
    read_tensor,
    text_names,
    text_weights,
    tokenizer_in,
    words_of,
)
from ..core.checkpoints.fingerprint import fingerprint
from ..core.checkpoints.tensors import CheckpointError, Weights, read_object, shown
from ..core.checkpoints.tiny_vae_file import FULL
from ..core.errors import UserError
from ..core.fourier import FourierBlock
from ..core.halves import Half
from ..core.heads.table import build_head
from ..core.heads.vitpose import without_batch_norm
from ..core.shortcuts import Way, of_unet, of_vae, serve, taken
from ..core.tiny_vae import build_light
from .model_choice import ModelChoice
from .perceiver import PicturePerceiver

Module = TypeVar("Module", bound=nn.Module)


class DiffusersBackbone:
    """A UNet2DConditionModel as a Backbone."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        self.in_channels: int = unet.config.in_channels

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        latent = latent.to(self.unet.dtype)
        with taken(of_unet(self.unet) if serve(self.unet, latent) else ()):
            return self.unet(latent, timestep, **self.conditions(context), return_dict=False)[0].float()

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
        with self.shortcuts(image):
            return self.vae.encode(image).latent_dist.mode().float() * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        latent = (latent / self.scaling_factor).to(self.vae.device, self.vae.dtype)
        with self.shortcuts(latent):
            return self.vae.decode(latent, return_dict=False)[0].float()

    def shortcuts(self, given: Tensor) -> AbstractContextManager[None]:
        """Less arithmetic and less memory, where it serves."""
        doubling = (layer for layer in self.vae.modules() if isinstance(layer, Upsample2D))
        return taken([*of_vae(self.vae, doubling), *residuals(self.vae)] if serve(self.vae, given) else ())


def residuals(vae: nn.Module) -> Iterator[Way]:
    """The ways of a VAE's residual blocks, if they are as Stable Diffusion's."""
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D) and isinstance(block.nonlinearity, nn.SiLU):
            resized = block.upsample is not None or block.downsample is not None
            if not resized and block.time_emb_proj is None and block.output_scale_factor == 1:
                yield Way(block, "forward", partial(residual, block))


def residual(block: Any, given: Tensor, temb: None = None) -> Tensor:
    """What a residual block gives, number for number, in 4 new tensors where its own forward makes 8.

    On a CPU a tenth of a VAE's time goes by until the system has given memory.
    """
    inner = block.conv1(F.silu(block.norm1(given), inplace=True))
    inner = block.conv2(F.silu(block.norm2(inner), inplace=True))
    return inner.add_(given if block.conv_shortcut is None else block.conv_shortcut(given))


class DiffusersHead:
    """A head of core.heads as a Head."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(self, features: Features) -> Tensor:
        return self.head(features).float()


@dataclass(frozen=True)
class Diffusers:
    """diffusers as core's Host: networks in single precision on one device."""

    device: str = "cpu"
    perceiver = PicturePerceiver
    advice = "put empty_text_embed.safetensors or a text_encoder/ folder beside it, or give --context FILE"
    prompt_advice = (
        "put a text_encoder/ and a tokenizer/ folder beside it, or give --context FILE with the prompt's embedding "
        "({width} wide, {tokens} tokens)"
    )

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> DiffusersBackbone:
        return DiffusersBackbone(load_unet(weights, architecture).to(self.device))

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> DiffusersAutoencoder:
        return DiffusersAutoencoder(load_vae(weights, architecture).to(self.device))

    def head(self, name: str, weights: Weights) -> DiffusersHead:
        tensors = without_batch_norm(weights.load())
        head = build_head(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
        return DiffusersHead(_filled(head, tensors, weights).to(self.device))

    def light(self, weights: Weights) -> Half:
        return _filled(build_light(weights.shapes), weights.load(), weights).to(self.device)

    def words(self, text_encoder: Path, prompt: str) -> list[int]:
        return words_of(open_tokenizer(text_encoder.parent / "tokenizer"), prompt)

    def encode_prompt(self, text_encoder: Path, tokens: list[int]) -> Tensor:
        return encode_prompt(text_encoder, tokens)

    def empty_prompt(self, base: str, tokens: int) -> None:
        """It comes with no checkpoint."""


def load_perceiver(
    checkpoint: Checkpoint, adapter: Adapter | None = None, device: str = "cpu", **given: Any
) -> PicturePerceiver:
    """A checkpoint through diffusers, with an adapter beside the UNet's weights if one is given.

    given: as for core.checkpoints.assemble.assemble. What a person should know of the adapter is logged.
    CheckpointError if a part is missing.
    """
    host, named = Diffusers(device), given.get("context")
    given["context"] = given.get("context") or text_context(checkpoint, host)
    if checkpoint.vae is None:
        raise CheckpointError(f"{shown(checkpoint.path)} comes without a VAE: put a vae/ folder beside it.")
    if adapter is not None:
        refuse_text_encoder(adapter, named)
        for note in adapter.notes(fingerprint(one_by_one(checkpoint.unet))):
            logging.getLogger(__name__).warning(note)
    perceiver = assemble(checkpoint, host, adapter=adapter, **given)
    assert isinstance(perceiver, PicturePerceiver)
    return perceiver


def load_chosen(
    choice: ModelChoice, checkpoint: Checkpoint, adapter: Adapter | None, device: str, **halves: str
) -> PicturePerceiver:
    """What a person chose, as it was opened, with the text embeddings that they name."""
    named = {"context": choice.context, "negative": choice.negative_context}
    texts = {name: named_context(file, checkpoint.architecture) for name, file in named.items() if file}
    return load_perceiver(checkpoint, adapter, device, **texts, **halves)


def open_perceiver(
    model: str | Path = "",
    *,
    task: str = "",
    base: str | Path = "",
    adapter: str | Path = "",
    family: str = "auto",
    overrides: Sequence[str] = (),
    context: str = "",
    negative_context: str = "",
    encoder: str = FULL,
    decoder: str = FULL,
    device: str = "",
) -> PicturePerceiver:
    """A checkpoint, or an adapter on its base, ready to be called with pictures.

    model: a folder in diffusers layout, a published repository's folder, or a file; an adapter, if base is given.
    task: which, where it holds several. overrides: recipe fields, as in ("steps=4", "seed=7"). context,
    negative_context: FILE or FILE:KEY of text embeddings. encoder, decoder: full, light, or a file. device: cpu, cuda,
    mps; the best there is if left out. UserError, in one sentence, for what a person can mend.
    """
    sits_on = base or (model if adapter else "")
    beside = adapter or (model if base else "")
    if model and base and adapter:
        raise UserError("Name a model, or an adapter and the base it sits on, not all three.")
    choice = ModelChoice(
        Path(model) if model and not beside else None,
        Path(beside) if beside else None,
        Path(sits_on) if sits_on else None,
        *(family, task, overrides, context, negative_context),
    )
    return load_chosen(choice, *choice.open(), device_named(device), encoder=encoder, decoder=decoder)


def device_named(name: str) -> str:
    """The device, or the best there is if none is named. UserError if this machine has no such."""
    try:
        return str(torch.empty(0, device=name or _best_device()).device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Device {name!r} cannot be used ({reason}): leave --device out for the best one.") from None


def _best_device() -> str:
    """A GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def refuse_text_encoder(adapter: Adapter, context: object) -> None:
    """CheckpointError for an adapter whose context none of the text encoders here can make."""
    if adapter.text_encoder and not context:
        raise CheckpointError(
            f"{adapter.name} also adapts the text encoder ({adapter.text_encoder} tensors), which is not done here: "
            "make the embedding with that encoder and give it as --context FILE."
        )


def load_unet(weights: Weights, architecture: UNetArchitecture) -> UNet2DConditionModel:
    """The network, in single precision. CheckpointError if the weights do not fit it."""
    tensors = weights.load(torch.float32)
    with torch.device("meta"):
        unet = make_unet(architecture)
    if "conv_out.weight" not in tensors:
        # a UNet that was trained for a head has no way out of its own; these are never read
        parameters = dict(unet.named_parameters())
        unread = [name for name in parameters if name.startswith(("conv_out", "conv_norm_out"))]
        tensors |= {name: torch.zeros(parameters[name].shape) for name in unread}
    return _filled(unet, tensors, weights)


def make_unet(architecture: UNetArchitecture) -> UNet2DConditionModel:
    """The network, untrained; a Fourier block, if it has one, is its submodule `fftblock`."""
    known = {field: value for field, value in architecture.config().items() if field != FOURIER}
    unet = UNet2DConditionModel.from_config(known)
    if architecture.fourier:
        unet.fftblock = FourierBlock(architecture.widths[-1])
        # a partial, unlike a closure, leads a copy of the network to the copy's own block
        unet.get_submodule("mid_block").register_forward_hook(partial(_passed_on, unet.fftblock))
    return unet


def _passed_on(block: nn.Module, before: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook: what the module before it gives, through the block."""
    return block(output)


def load_vae(weights: Weights, architecture: VAEArchitecture) -> AutoencoderKL:
    """The VAE, in single precision. CheckpointError if the weights do not fit it."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(architecture.config())
    return _filled(vae, weights.load(torch.float32), weights)


def _filled(module: Module, tensors: dict[str, Tensor], weights: Weights) -> Module:
    """The module with these float32 weights. CheckpointError names what does not fit."""
    _check_fits(module, _shapes_of(module), _shapes_in(tensors), weights)
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return module.eval().requires_grad_(False)


def _check_fits(module: nn.Module, expected: Shapes, given: Shapes, weights: Weights) -> None:
    """CheckpointError names what a module lacks, has in another shape, or does not know."""
    missing = sorted(name for name in expected if given.get(name) != expected[name])
    unexpected = sorted(set(given) - set(expected))
    if missing or unexpected:
        raise CheckpointError(
            f"{shown(weights.path)} does not fit its {type(module).__name__}: {len(missing)} weights are missing or "
            f"misshapen, {len(unexpected)} are unknown ({(missing + unexpected)[0]} ...); download or export it again."
        )


def _shapes_of(module: nn.Module) -> Shapes:
    return _shapes_in(module.state_dict())


def _shapes_in(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def named_context(text: str, architecture: UNetArchitecture) -> Context:
    """FILE or FILE:KEY."""
    path, key = _file_and_key(text)
    return as_context(read_context(path, key), architecture, path)


def named_tensor(text: str, what: str) -> Tensor:
    """float32, of FILE or FILE:KEY; what: what it is, for people."""
    return read_tensor(*_file_and_key(text), what)


def _file_and_key(text: str) -> tuple[Path, str]:
    """The key is "" where none is named."""
    path, _, key = text.rpartition(":") if ":" in text and not Path(text).exists() else (text, "", "")
    return Path(path), key


def open_tokenizer(tokenizer: Path) -> Any:
    """CLIP's, by transformers. CheckpointError if the folder holds none."""
    from transformers import CLIPTokenizer

    return tokenizer_in(CLIPTokenizer.from_pretrained, tokenizer)


def encode_prompt(folder: Path, tokens: list[int]) -> Tensor:
    """(1, L, D) float32 of L token ids, by transformers' CLIP. CheckpointError as open_text_encoder."""
    encoder = open_text_encoder(folder)
    with torch.no_grad():
        return encoder(torch.tensor([tokens]))[0]


def open_text_encoder(folder: Path) -> Any:
    """CLIP's, by transformers, in float32: token ids (B, L) -> embeddings (B, L, D) and more. CheckpointError for
    weights that are not its own, where transformers would make up what is missing."""
    from transformers import CLIPTextModel

    weights, expected = text_weights(folder), _text_network(folder)
    known = _shapes_of(expected)
    _check_fits(expected, {new: known[old] for old, new in text_names(list(known)).items()}, weights.shapes, weights)
    # .float(): transformers keeps the dtype of the file since version 5
    return CLIPTextModel.from_pretrained(folder, local_files_only=True).float()


def _text_network(folder: Path) -> nn.Module:
    """The text encoder that config.json describes, without weights. CheckpointError if it describes none."""
    from transformers import CLIPTextConfig, CLIPTextModel

    read_object(folder / "config.json")  # says in one sentence what is wrong with it
    try:
        with torch.device("meta"):
            return CLIPTextModel(CLIPTextConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # its releases each raise others of a wrong value
        raise CheckpointError(
            f"{shown(folder / 'config.json')} describes no text encoder ({error}): get the file again."
        ) from error
