"""ForgeBackbone and ForgeAutoencoder: core's protocols on the networks of the Forge family; mirror of nodes/host.py.

All that is called `backend` is named here alone: Forge Neo changes it often.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from backend import memory_management
from backend.nn.unet import IntegratedUNet2DConditionModel
from backend.nn.vae import IntegratedAutoencoderKL, Upsample
from backend.patcher.base import ModelPatcher
from modules import call_queue, shared
from modules.paths import models_path
from modules_forge import main_thread
from torch import Tensor, nn

from ..core.backbone import Context, Features
from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.context import text_weights
from ..core.checkpoints.ldm_names import rename, unet_to_ldm, vae_to_ldm
from ..core.checkpoints.ldm_networks import as_convolution, filled, host_config
from ..core.checkpoints.library import Library, Shared
from ..core.checkpoints.tensors import CheckpointError, Weights, read_object, shown
from ..core.errors import UserError
from ..core.fourier import FourierBlock
from ..core.generations import LATENT
from ..core.heads.table import build_head
from ..core.heads.vitpose import without_batch_norm
from ..core.image import CELL
from ..core.pipeline import Perceiver
from ..core.shortcuts import of_unet, of_vae, serve, taken
from ..core.tiny_vae import build_light
from .models import Models, folders

Result = TypeVar("Result")
PACK_WEIGHTS = Path(__file__).parent.parent / "weights"
LIBRARY = Library(lambda: folders(models_path, PACK_WEIGHTS), "models/perception")
NOT_TAKEN = ("image_size", "attn_precision", "legacy", "use_temporal_attention", "use_temporal_resblock")
"""Settings of ComfyUI's UNet that this one does not know."""
BYTES_A_CELL, BYTES_A_PIXEL = 20_000, 8_000
"""Of a UNet and of a VAE at work, as ComfyUI estimates them."""


class ForgeBackbone:
    """A host's UNet as a Backbone: the raw network, so that the host's own sampling maths is not applied."""

    def __init__(self, patcher: ModelPatcher, network: nn.Module, dtype: torch.dtype) -> None:
        """network: what the patcher moves, or a part of it. dtype: what it computes in."""
        self.patcher, self.network, self.dtype = patcher, network, dtype
        self.config: Any = network.config
        self.in_channels: int = self.config["in_channels"]

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return self.run(latent, timestep, context, {})

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        captured: list[Tensor] = []
        blocks = self.config["num_res_blocks"][0] + 1
        ends = {blocks * level for level in range(1, len(self.config["channel_mult"]))}

        def before_output_block(h: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
            # the host calls this before a block: what comes in is what the block before it gave
            if options["block"][1] in ends:
                captured.append(h.float().clone())
            return h, skip

        # the last up block's result is what goes into the layer after it
        hook = self.network.get_submodule("out").register_forward_pre_hook(
            lambda module, inputs: captured.append(inputs[0].float().clone())
        )
        try:
            self.run(latent, timestep, context, {"patches": {"output_block_patch": [before_output_block]}})
        finally:
            hook.remove()
        deepest, deep, middle, fine = (feature.to(latent.device) for feature in captured)
        return deepest, deep, middle, fine

    def modules(self) -> dict[str, nn.Module]:
        held = dict(self.network.named_modules())
        layers, depth = self.config["num_res_blocks"][0], self.config["transformer_depth"]
        attention = tuple(depth[level * layers] > 0 for level in range(len(self.config["channel_mult"])))
        names = rename(held, {ldm: name for name, ldm in unet_to_ldm(attention, layers).items()})
        return {name: held[ldm] for ldm, name in names.items() if getattr(held[ldm], "weight", None) is not None}

    def run(self, latent: Tensor, timestep: Tensor, context: Context, transformer_options: dict[str, Any]) -> Tensor:
        """One pass. transformer_options must be fresh: the network writes into it."""
        cells = latent.shape[0] * latent.shape[-2] * latent.shape[-1]
        device = loaded(self.patcher, cells * BYTES_A_CELL)
        given = latent.to(device, self.dtype)
        with taken(of_unet(self.network) if serve(self.network, given) else ()):
            output = self.network(
                given,
                timestep.to(device, torch.float32),
                context=context.tokens.to(device, self.dtype),
                y=None if context.vector is None else context.vector.to(device, self.dtype),
                transformer_options=transformer_options,
            )
        return output.to(latent.device, torch.float32)


class ForgeAutoencoder:
    """A VAE as an Autoencoder, in single precision; half precision shows as steps in a depth."""

    def __init__(self, patcher: ModelPatcher, scaling_factor: float) -> None:
        self.patcher, self.scaling_factor = patcher, scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        return self.run(self.mean, image, image.shape[-2] * image.shape[-1]) * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        pixels = latent.shape[-2] * latent.shape[-1] * CELL**2
        return self.run(self.patcher.model.decode, latent / self.scaling_factor, pixels)

    def mean(self, image: Tensor) -> Tensor:
        """Of the posterior; the host's own encode() draws from it."""
        network = self.patcher.model
        return network.quant_conv(network.encoder(image)).chunk(2, 1)[0]

    def run(self, half: Callable[[Tensor], Tensor], given: Tensor, pixels: int) -> Tensor:
        """One pass of a half. UserError if the memory does not suffice."""
        device = loaded(self.patcher, given.shape[0] * pixels * BYTES_A_PIXEL)
        given = given.to(device, torch.float32)
        try:
            with vae_shortcuts(self.patcher.model, given):
                return half(given).float()
        except torch.cuda.OutOfMemoryError:
            raise UserError(
                f"There is not enough memory for a picture of {pixels} pixels: choose a smaller one."
            ) from None


def vae_shortcuts(network: nn.Module, given: Tensor) -> AbstractContextManager[None]:
    """Less arithmetic, where it serves."""
    if not serve(network, given):
        return nullcontext()
    return taken(of_vae(network, (layer for layer in network.modules() if isinstance(layer, Upsample))))


class ForgeHead:
    """A head of core.heads as a Head, in single precision."""

    def __init__(self, name: str, weights: Weights) -> None:
        tensors = without_batch_norm(weights.load(torch.float32))
        head = build_head(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
        self.patcher = owned(filled(head, tensors, weights), memory_management.unet_offload_device())

    def __call__(self, features: Features) -> Tensor:
        device = loaded(self.patcher, sum(feature.numel() * 4 for feature in features) * 16)
        deepest, deep, middle, fine = (feature.to(device, torch.float32) for feature in features)
        return self.patcher.model((deepest, deep, middle, fine)).float()


class ForgeLight:
    """A light half of a VAE, in single precision."""

    def __init__(self, weights: Weights) -> None:
        network = filled(build_light(weights.shapes), weights.load(torch.float32), weights)
        self.patcher = owned(network, memory_management.vae_offload_device())

    def __call__(self, given: Tensor) -> Tensor:
        pixels = given.shape[0] * given.shape[-2] * given.shape[-1] * (CELL**2 if given.shape[1] == LATENT else 1)
        device = loaded(self.patcher, pixels * BYTES_A_PIXEL)
        return self.patcher.model(given.to(device, torch.float32)).float()


SHARED = Shared()


class ForgeHost:
    """A WebUI of the Forge family as core's Host: networks that it loads, offloads and evicts."""

    perceiver = Perceiver
    advice = (
        "put its empty_text_embed.safetensors or .npy ({width} wide, {tokens} tokens), or a text_encoder/ folder, "
        "beside it"
    )
    prompt_advice = (
        "put a text_encoder/ and a tokenizer/ folder beside it, or the prompt's embedding ({width} wide, {tokens} "
        "tokens) as {task} in text_embeds.safetensors"
    )

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> ForgeBackbone:
        return SHARED(load_backbone, weights, architecture)

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> ForgeAutoencoder:
        return SHARED(load_autoencoder, weights, architecture)

    def head(self, name: str, weights: Weights) -> ForgeHead:
        return ForgeHead(name, weights)

    def light(self, weights: Weights) -> ForgeLight:
        return SHARED(ForgeLight, weights)

    def words(self, text_encoder: Path, prompt: str) -> list[int]:
        return words(text_encoder.parent / "tokenizer", prompt)

    def encode_prompt(self, text_encoder: Path, tokens: list[int]) -> Tensor:
        return encode_prompt(text_encoder, tokens)

    def empty_prompt(self, base: str, tokens: int) -> None:
        """The host has it of the model that is loaded alone."""


MODELS = Models(LIBRARY, ForgeHost)


def load_backbone(weights: Weights, architecture: UNetArchitecture) -> ForgeBackbone:
    """A UNet that the host owns: loads, offloads and evicts."""
    config = {key: value for key, value in host_config(architecture).items() if key not in NOT_TAKEN}
    dtype = compute_dtype(architecture)
    # without memory of its own: what is read stands in its place
    with torch.device("meta"):
        network = IntegratedUNet2DConditionModel(**config)
        if architecture.fourier:
            network.middle_block.append(FourierBlock(architecture.widths[-1]))
    tensors = weights.load(dtype, copy=True)
    names = rename(tensors, unet_to_ldm(architecture.attention, architecture.layers))
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
    if "out.2.weight" not in renamed:
        # a UNet that was trained for a head has no way out of its own; these are never read
        out = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("out.")}
        renamed |= {name: torch.zeros(tensor.shape, dtype=dtype) for name, tensor in out.items()}
    filled(network, renamed, weights, assign=True)
    return ForgeBackbone(owned(network, memory_management.unet_offload_device()), network, dtype)


def load_autoencoder(weights: Weights, architecture: VAEArchitecture) -> ForgeAutoencoder:
    """A VAE that the host owns, in single precision."""
    widths = architecture.widths
    with torch.device("meta"):
        network = IntegratedAutoencoderKL(
            block_out_channels=[*widths],
            layers_per_block=architecture.layers,
            latent_channels=architecture.latent_channels,
        )
    tensors = weights.load(torch.float32, copy=True)
    names = rename(tensors, vae_to_ldm(len(widths), architecture.layers))
    if len(names) != len(tensors):
        unknown = sorted(set(tensors) - set(names))
        raise CheckpointError(f"{weights.path.name} is not a Stable Diffusion VAE: it holds {unknown[0]}.")
    renamed = {ldm: as_convolution(tensors[name], ldm) for name, ldm in names.items()}
    patcher = owned(filled(network, renamed, weights, assign=True), memory_management.vae_offload_device())
    return ForgeAutoencoder(patcher, architecture.scaling_factor)


PRECISIONS = {
    torch.float16: memory_management.should_use_fp16,
    torch.bfloat16: memory_management.should_use_bf16,
}
"""In the order of preference, and whether the host's card is made for it."""


def compute_dtype(architecture: UNetArchitecture) -> torch.dtype:
    """What a UNet computes in; those of SD 2 overflow in float16, and attention has no precision of its own here."""
    device = memory_management.get_torch_device()
    for dtype, suits in PRECISIONS.items():
        if suits(device) and not (dtype is torch.float16 and architecture.linear_projection):
            return dtype
    return torch.float32


def owned(network: nn.Module, offload: torch.device) -> ModelPatcher:
    """The host's own kind of patcher."""
    return ModelPatcher(network, load_device=memory_management.get_torch_device(), offload_device=offload)


def loaded(patcher: ModelPatcher, memory: float) -> torch.device:
    """The device of a network, which is there now, with room for `memory` bytes of work."""
    memory_management.load_models_gpu([patcher], memory_required=memory)
    return patcher.load_device


def words(tokenizer: Path, prompt: str) -> list[int]:
    """The token ids of a prompt, without start and end. CheckpointError if the folder holds no CLIP tokenizer."""
    from transformers import CLIPTokenizer

    try:
        clip = CLIPTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(tokenizer)} holds no CLIP tokenizer ({type(error).__name__}): get the folder again."
        ) from error
    return clip(prompt, add_special_tokens=False)["input_ids"]


def encode_prompt(folder: Path, tokens: list[int]) -> Tensor:
    """(1, L, D) float32 of L token ids, by transformers' CLIP. CheckpointError for weights that are not its own."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = text_weights(folder)
    try:
        encoder: Any = CLIPTextModel(CLIPTextConfig(**read_object(folder / "config.json"))).text_model
    except (TypeError, ValueError) as error:
        told = shown(folder / "config.json")
        raise CheckpointError(f"{told} describes no text encoder ({error}): get the file again.") from error
    filled(encoder, weights.load(torch.float32), weights)
    return encoder(torch.tensor([tokens]))[0].float()


def on_main_thread(function: Callable[[], Result], locked: bool = False) -> Result:
    """What a function gives that moves the host's networks, which only one thread may do. locked: the caller holds
    the lock of the queue."""
    if threading.current_thread() is threading.main_thread():
        return function()
    answers: list[Result] = []
    errors: list[Exception] = []

    def caught() -> None:
        # the host prints what is raised there and tells the caller nothing
        try:
            answers.append(function())
        except Exception as error:  # noqa: BLE001 - raised below, where somebody waits for it
            errors.append(error)

    with nullcontext() if locked else call_queue.queue_lock:
        main_thread.run_and_wait_result(caught)
    if errors:
        raise errors[0]
    return answers[0]


def tick() -> None:
    """To be called after every pass. UserError where the user interrupted."""
    if shared.state.interrupted or shared.state.skipped:
        raise UserError("Perceiving was interrupted.")
