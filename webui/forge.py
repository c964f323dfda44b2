"""ForgeBackbone and ForgeAutoencoder: core's protocols on the networks of the Forge family; mirror of nodes/host.py.

All that is called `backend` is named here alone: Forge Neo changes it often.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from backend import memory_management
from backend.nn.unet import IntegratedUNet2DConditionModel
from backend.nn.vae import IntegratedAutoencoderKL, Upsample
from backend.patcher.base import ModelPatcher
from modules import call_queue, sd_models, shared
from modules.paths import models_path
from modules_forge import main_thread
from torch import Tensor, nn

from ..core.backbone import Context, Features
from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.ldm_networks import filled, host_config, layers_of, paths_of, unet_tensors, vae_tensors
from ..core.checkpoints.library import Library, Shared
from ..core.checkpoints.resident import NO_UNET
from ..core.checkpoints.tensors import CheckpointError, Weights
from ..core.checkpoints.tiny_vae_file import Held
from ..core.errors import UserError
from ..core.fourier import FourierBlock
from ..core.generations import LATENT
from ..core.heads.table import build_head
from ..core.heads.vitpose import without_batch_norm
from ..core.image import CELL
from ..core.pipeline import Perceiver
from ..core.shortcuts import of_unet, of_vae, serve, taken
from ..core.tiny_vae import build_light
from ..core.vae_tiles import DECODE, ENCODE, Half, Shortage, at_once_or_in_tiles
from .models import NO_MODEL, PLACE, Models, folders
from .resident import Resident
from .settings import more_folders
from .text import Texts

log = logging.getLogger(__name__)
Result = TypeVar("Result")
LIBRARY = Library(lambda: folders(models_path, more_folders()), PLACE)
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
        return layers_of(self.network)

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
        return self.run(ENCODE, self.mean, image) * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        return self.run(DECODE, self.patcher.model.decode, latent / self.scaling_factor)

    def mean(self, image: Tensor) -> Tensor:
        """Of the posterior; the host's own encode() draws from it."""
        network = self.patcher.model
        return network.quant_conv(network.encoder(image)).chunk(2, 1)[0]

    def run(self, half: Half, network_half: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """One pass of a half; in overlapping tiles, and said so, if memory does not suffice."""
        network = self.patcher.model
        pixels = given.shape[-2] * given.shape[-1] * (CELL // half.units[0]) ** 2
        device = loaded(self.patcher, given.shape[0] * pixels * BYTES_A_PIXEL)

        def compute(part: Tensor) -> Tensor:
            part = part.to(device, torch.float32)
            with _vae_shortcuts(network, part):
                return network_half(part).float()

        with casting(network):
            return at_once_or_in_tiles(half, compute, given, network, SHORTAGE, log.warning)[0]


SHORTAGE = Shortage(
    lambda error: isinstance(error, torch.cuda.OutOfMemoryError), memory_management.soft_empty_cache, UserError
)


@contextmanager
def casting(network: nn.Module) -> Iterator[None]:
    """Layers of the host cast their weights to the input's dtype while this lasts; nothing is copied or kept."""
    layers: list[Any] = [layer for layer in network.modules() if getattr(layer, CASTS, None) is False]
    for layer in layers:
        setattr(layer, CASTS, True)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, CASTS, False)


CASTS = "parameters_manual_cast"
"""What says so in a layer of the host."""


def _vae_shortcuts(network: nn.Module, given: Tensor) -> AbstractContextManager[None]:
    """Less arithmetic, where it serves."""
    if not serve(network, given):
        return nullcontext()
    return taken(of_vae(network, (layer for layer in network.modules() if isinstance(layer, Upsample))))


class ForgeHead:
    """A head of core.heads as a Head, in single precision."""

    def __init__(self, name: str, weights: Weights) -> None:
        tensors = without_batch_norm(weights.load(torch.float32))
        head = build_head(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
        self.patcher = _owned(filled(head, tensors, weights), memory_management.unet_offload_device())

    def __call__(self, features: Features) -> Tensor:
        device = loaded(self.patcher, sum(feature.numel() * 4 for feature in features) * 16)
        deepest, deep, middle, fine = (feature.to(device, torch.float32) for feature in features)
        return self.patcher.model((deepest, deep, middle, fine)).float()


class ForgeLight:
    """A light half of a VAE, in single precision."""

    def __init__(self, weights: Weights) -> None:
        network = filled(build_light(weights.shapes), weights.load(torch.float32), weights)
        self.patcher = _owned(network, memory_management.vae_offload_device())

    def __call__(self, given: Tensor) -> Tensor:
        pixels = given.shape[0] * given.shape[-2] * given.shape[-1] * (CELL**2 if given.shape[1] == LATENT else 1)
        device = loaded(self.patcher, pixels * BYTES_A_PIXEL)
        return self.patcher.model(given.to(device, torch.float32)).float()


SHARED = Shared()


class ForgeHost(Texts):
    """A WebUI of the Forge family as core's Host: networks that it loads, offloads and evicts."""

    perceiver = Perceiver

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> ForgeBackbone:
        return SHARED(load_backbone, weights, architecture)

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> ForgeAutoencoder:
        return SHARED(load_autoencoder, weights, architecture)

    def head(self, name: str, weights: Weights) -> ForgeHead:
        return ForgeHead(name, weights)

    def light(self, weights: Weights) -> ForgeLight:
        return SHARED(ForgeLight, weights)


class ResidentBackbone(ForgeBackbone):
    """The UNet of the model that is loaded, with the user's LoRAs in it."""

    def weight(self, name: str) -> Tensor:
        """One by its diffusers name as it was before the user's LoRAs. KeyError if there is none."""
        layer, _, kind = name.rpartition(".")
        path = paths_of(self.network)[layer]
        # Neo keeps them as ComfyUI does, the older ones where they merge
        kept = self.patcher.backup if hasattr(self.patcher, "backup") else self.patcher.lora_loader.backup
        before = kept.get(f"diffusion_model.{path}.{kind}")
        if before is None:
            return self.network.get_submodule(path).get_parameter(kind).detach()
        return getattr(before, "weight", before).detach()


def resident(model: Any = None) -> Resident:
    """The model that is loaded, or this one of the host's. CheckpointError, in one sentence, if it cannot perceive."""
    if model is None:
        try:
            sd_models.forge_model_reload()  # what the page has chosen
        except ValueError as error:
            raise CheckpointError(NO_MODEL) from error
        model = shared.sd_model
    held = getattr(model, "forge_objects", None)
    if held is None:
        raise CheckpointError(NO_MODEL)
    network: Any = getattr(held.unet.model, "diffusion_model", None)
    if not isinstance(network, IntegratedUNet2DConditionModel):
        raise CheckpointError(NO_UNET.format(kind=type(model).__name__))
    if _is_packed(network):
        raise CheckpointError(PACKED)
    backbone = ResidentBackbone(held.unet, network, network.computation_dtype)
    vae = held.vae.first_stage_model
    autoencoder = ForgeAutoencoder(held.vae.patcher, scaling_factor(model))
    return Resident(backbone, autoencoder, Held.of(vae.state_dict()), partial(encode, model))


def _is_packed(network: nn.Module) -> bool:
    """Whether weights stand in blocks of few bits: the host's layers of these kinds do not know their own shapes."""
    linear = (layer for layer in network.modules() if type(layer).__name__ == "Linear")
    return not all(hasattr(layer, "in_features") for layer in linear)


PACKED = (
    "The loaded model's weights are packed (GGUF, NF4 or FP4), and no adapter can run beside them: choose another "
    "Diffusion in Low Bits in the WebUI's page, or load the fp16 file of the same model."
)


def scaling_factor(model: Any) -> float:
    """What the latents of a model of the host's are multiplied by."""
    vae = model.forge_objects.vae.first_stage_model
    # Neo keeps it with what else it knows of latents
    return vae.scaling_factor if hasattr(vae, "scaling_factor") else vae.latent_format.scale_factor


def encode(model: Any, prompt: str) -> Tensor:
    """(1, 77, D) float32 of a prompt by its last layer, whichever the user has chosen."""
    engine = model.text_processing_engine
    chosen = engine.clip_skip
    model.set_clip_skip(1)
    try:
        return model.get_learned_conditioning([prompt]).float()
    finally:
        model.set_clip_skip(chosen)


MODELS = Models(LIBRARY, ForgeHost, resident)


def load_backbone(weights: Weights, architecture: UNetArchitecture) -> ForgeBackbone:
    """A UNet that the host owns: loads, offloads and evicts."""
    config = {key: value for key, value in host_config(architecture).items() if key not in NOT_TAKEN}
    dtype = compute_dtype(architecture)
    # without memory of its own: what is read stands in its place
    with torch.device("meta"):
        network = IntegratedUNet2DConditionModel(**config)
        if architecture.fourier:
            network.middle_block.append(FourierBlock(architecture.widths[-1]))
    tensors = unet_tensors(weights.load(dtype, copy=True), architecture, network, dtype)
    filled(network, tensors, weights, assign=True)
    return ForgeBackbone(_owned(network, memory_management.unet_offload_device()), network, dtype)


def load_autoencoder(weights: Weights, architecture: VAEArchitecture) -> ForgeAutoencoder:
    """A VAE that the host owns, in single precision."""
    with torch.device("meta"):
        network = IntegratedAutoencoderKL(
            block_out_channels=[*architecture.widths],
            layers_per_block=architecture.layers,
            latent_channels=architecture.latent_channels,
        )
    tensors = vae_tensors(weights.load(torch.float32, copy=True), architecture, weights)
    patcher = _owned(filled(network, tensors, weights, assign=True), memory_management.vae_offload_device())
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


def _owned(network: nn.Module, offload: torch.device) -> ModelPatcher:
    """The host's own kind of patcher."""
    return ModelPatcher(network, load_device=memory_management.get_torch_device(), offload_device=offload)


def loaded(patcher: ModelPatcher, memory: float) -> torch.device:
    """The device of a network, which is there now, with room for `memory` bytes of work."""
    memory_management.load_models_gpu([patcher], memory_required=memory)
    return patcher.load_device


def in_turn(function: Callable[[], Result], locked: bool = False) -> Result:
    """What a function gives that moves the host's networks, which only one thread may do. locked: the caller holds
    the lock of the queue."""
    # as the host runs its own networks, whose weights it may have made so
    function = torch.inference_mode()(function)
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
