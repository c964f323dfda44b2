"""LdmBackbone and LdmAutoencoder: core's protocols on the networks of AUTOMATIC1111's WebUI; mirror of webui/forge.py.

All that is called `ldm` is named here alone. This host has no memory management that others could use: what is ours
comes to its card for a call and goes back.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.diffusionmodules.model import Upsample as VaeUpsample
from ldm.modules.diffusionmodules.openaimodel import UNetModel, Upsample
from modules import devices, sd_models, sd_unet, shared
from modules.paths import models_path
from torch import Tensor, nn

from ..core.backbone import Context, Features
from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.ldm_networks import filled, host_config, layers_of, unet_tensors, vae_config, vae_tensors
from ..core.checkpoints.library import Library, Shared
from ..core.checkpoints.resident import NO_UNET
from ..core.checkpoints.tensors import CheckpointError, Weights
from ..core.checkpoints.tiny_vae_file import Held
from ..core.errors import UserError
from ..core.fourier import FourierBlock
from ..core.heads.table import build_head
from ..core.heads.vitpose import without_batch_norm
from ..core.pipeline import Perceiver
from ..core.shortcuts import Way, of_vae, serve, taken
from ..core.tiny_vae import build_light
from ..core.vae_tiles import DECODE, ENCODE, Half, Shortage, at_once_or_in_tiles
from .models import NO_MODEL, PLACE, Models, folders
from .resident import Resident
from .settings import more_folders
from .text import Texts

log = logging.getLogger(__name__)
Result = TypeVar("Result")
LIBRARY = Library(lambda: folders(models_path, more_folders()), PLACE)
TAKEN = (
    *("image_size", "in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks", "context_dim"),
    *("num_heads", "num_head_channels", "use_linear_in_transformer", "adm_in_channels", "num_classes"),
    *("use_spatial_transformer", "use_checkpoint", "legacy"),
)
"""Settings of ComfyUI's UNet that this one knows too."""
SHORT_OF_MEMORY = (
    "There is not enough memory on the card: choose a smaller picture, or unload the WebUI's own model in its settings."
)


class LdmBackbone:
    """A host's UNet as a Backbone: the raw network, so that the host's own sampling maths is not applied."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        """dtype: what it computes in."""
        self.network: Any = network
        self.dtype = dtype
        self.in_channels: int = self.network.in_channels

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return self.run(latent, timestep, context, [])

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        captured: list[Tensor] = []
        self.run(latent, timestep, context, captured)
        deepest, deep, middle, fine = (feature.to(latent.device, torch.float32) for feature in captured)
        return deepest, deep, middle, fine

    def modules(self) -> dict[str, nn.Module]:
        return layers_of(self.network)

    def run(self, latent: Tensor, timestep: Tensor, context: Context, captured: list[Tensor]) -> Tensor:
        """One pass. captured: takes what each level gives on the way up."""
        device = self.device()
        with taken(ways(self.network, captured)), precision(self.dtype):
            output = self.call(
                latent.to(device, self.dtype),
                timestep.to(device, torch.float32),
                context.tokens.to(device, self.dtype),
                None if context.vector is None else context.vector.to(device, self.dtype),
            )
        return output.to(latent.device, torch.float32)

    def device(self) -> torch.device:
        """Where it is to compute."""
        return loaded(self.network)

    def call(self, latent: Tensor, timestep: Tensor, tokens: Tensor, vector: Tensor | None) -> Tensor:
        return self.network(latent, timestep, tokens, vector)


def ways(network: Any, captured: list[Tensor]) -> list[Way]:
    """How a UNet computes while it perceives, with nothing of what the host and its extensions put into its way: an
    engine of TensorRT, ControlNets, hypernetworks of the user, merged tokens, and attention that saves memory."""
    exact = network.middle_block[1].use_linear  # those of SD 2 overflow in float16
    attention = [layer for name, layer in network.named_modules() if name.endswith((".attn1", ".attn2"))]
    blocks = [layer for layer in network.modules() if isinstance(layer, BasicTransformerBlock)]
    return [
        Way(network, "forward", partial(_through, network, captured)),
        *(Way(layer, "forward", partial(_attended, layer, exact)) for layer in attention),
        # merging puts a class of its own over a block's, until it is switched off
        *(Way(block, "_forward", partial(BasicTransformerBlock._forward, block)) for block in blocks),
    ]


def _through(
    network: Any,
    captured: list[Tensor],
    latent: Tensor,
    timesteps: Tensor,
    context: Tensor,
    y: Tensor | None = None,
) -> Tensor:
    """A UNet by its blocks, whose hooks fire as ever; at any size, for what goes up takes the size of what went down.

    latent (B, C, h, w), timesteps (B,) in single precision, context (B, L, D), y (B, V) -> (B, 4, h, w).
    """
    embedding = network.time_embed(_sinusoids(timesteps, network.model_channels).to(latent.dtype))
    if y is not None:
        embedding = embedding + network.label_emb(y)
    h, skips = latent, []
    for block in network.input_blocks:
        h = block(h, embedding, context)
        skips.append(h)
    h = network.middle_block(h, embedding, context)
    for block in network.output_blocks:
        h = torch.cat([h, skips.pop()], 1)
        with taken(doubling(block[-1], skips)):
            h = block(h, embedding, context)
        if isinstance(block[-1], Upsample) or not skips:
            captured.append(h)
    return network.out(h)


def doubling(layer: nn.Module, skips: list[Tensor]) -> list[Way]:
    """The way of an upsampler, none of other layers: to the size of what it is joined with, then its convolution."""
    if not isinstance(layer, Upsample):
        return []
    size, conv = skips[-1].shape[-2:], layer.get_submodule("conv")
    return [Way(layer, "forward", lambda x: conv(F.interpolate(x, size=size, mode="nearest")))]


def _sinusoids(timesteps: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width): cosines, then sines, of frequencies from 1 down to 1/10000 (Ho et al. 2020, arXiv 2006.11239,
    after Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _attended(layer: Any, exact: bool, x: Tensor, context: Tensor | None = None, mask: None = None) -> Tensor:
    """An attention (to_q, to_k, to_v, to_out, heads) by PyTorch. x (B, N, C), context (B, L, D) -> (B, N, C).

    exact: with scores in single precision.
    """
    source = x if context is None else context
    projected = layer.to_q(x), layer.to_k(source), layer.to_v(source)
    query, key, value = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in projected)
    if exact:
        with torch.autocast(x.device.type, enabled=False):
            answer = F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(value.dtype)
    else:
        answer = F.scaled_dot_product_attention(query, key, value)
    return layer.to_out(answer.transpose(1, 2).flatten(2))


def precision(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """The host's own mixing for what is in half precision, none for what is not."""
    return devices.without_autocast() if dtype is torch.float32 else devices.autocast()


class Vae(nn.Module):
    """A VAE of the host's halves; its own class takes a package to train with along."""

    def __init__(self, architecture: VAEArchitecture) -> None:
        super().__init__()
        config, channels = vae_config(architecture), architecture.latent_channels
        self.encoder, self.decoder = Encoder(**config), Decoder(**config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, image: Tensor) -> Tensor:
        """The posterior's mean."""
        return self.quant_conv(self.encoder(image)).chunk(2, 1)[0]

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latent))


class LdmAutoencoder:
    """A VAE as an Autoencoder, in single precision; half precision shows as steps in a depth."""

    def __init__(self, network: nn.Module, scaling_factor: float) -> None:
        self.network: Any = network
        self.scaling_factor = scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        return self.run(ENCODE, self.mean, image) * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        return self.run(DECODE, self.network.decode, latent / self.scaling_factor)

    def mean(self, image: Tensor) -> Tensor:
        """Of the posterior."""
        return self.network.encode(image)

    def run(self, half: Half, network_half: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """One pass of a half; in overlapping tiles, and said so, if memory does not suffice."""
        network, device = self.network, self.device()

        def compute(part: Tensor) -> Tensor:
            part = part.to(device, torch.float32)
            with _vae_shortcuts(network, part):
                return network_half(part).float()

        with in_single_precision(network), devices.without_autocast():
            return at_once_or_in_tiles(half, compute, given, network, SHORTAGE, log.warning)[0]

    def device(self) -> torch.device:
        """Where it is to compute."""
        return loaded(self.network)


SHORTAGE = Shortage(lambda error: isinstance(error, torch.cuda.OutOfMemoryError), devices.torch_gc, UserError)


@contextmanager
def in_single_precision(network: nn.Module) -> Iterator[None]:
    """While this lasts; the weights are the same afterwards bit for bit, since single precision holds all of half."""
    before = next(network.parameters()).dtype
    network.float()
    try:
        yield
    finally:
        network.to(before)


def _vae_shortcuts(network: nn.Module, given: Tensor) -> AbstractContextManager[None]:
    """Less arithmetic, where it serves."""
    if not serve(network, given):
        return nullcontext()
    return taken(of_vae(network, (layer for layer in network.modules() if isinstance(layer, VaeUpsample))))


class LdmHead:
    """A head of core.heads as a Head, in single precision."""

    def __init__(self, name: str, weights: Weights) -> None:
        tensors = without_batch_norm(weights.load(torch.float32))
        head = build_head(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
        self.network = filled(head, tensors, weights)

    def __call__(self, features: Features) -> Tensor:
        device = loaded(self.network)
        deepest, deep, middle, fine = (feature.to(device, torch.float32) for feature in features)
        with devices.without_autocast():
            return self.network((deepest, deep, middle, fine)).float()


class LdmLight:
    """A light half of a VAE, in single precision."""

    def __init__(self, weights: Weights) -> None:
        self.network = filled(build_light(weights.shapes), weights.load(torch.float32), weights)

    def __call__(self, given: Tensor) -> Tensor:
        given = given.to(loaded(self.network), torch.float32)
        with devices.without_autocast():
            return self.network(given).float()


SHARED = Shared()


class LdmHost(Texts):
    """AUTOMATIC1111's WebUI as core's Host."""

    perceiver = Perceiver

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> LdmBackbone:
        return SHARED(load_backbone, weights, architecture)

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> LdmAutoencoder:
        return SHARED(load_autoencoder, weights, architecture)

    def head(self, name: str, weights: Weights) -> LdmHead:
        return LdmHead(name, weights)

    def light(self, weights: Weights) -> LdmLight:
        return SHARED(LdmLight, weights)


class ResidentBackbone(LdmBackbone):
    """The UNet of the model that is loaded, with the user's LoRAs in it."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.model.diffusion_model, devices.dtype_unet)
        self.wrapper = model.model

    def weight(self, name: str) -> Tensor:
        """One by its diffusers name as it was before the user's LoRAs. KeyError if there is none."""
        path, _, kind = name.rpartition(".")
        layer = self.modules()[path]
        before = getattr(layer, "network_weights_backup" if kind == "weight" else "network_bias_backup", None)
        return layer.get_parameter(kind).detach() if before is None else before

    def device(self) -> torch.device:
        return devices.device

    def call(self, latent: Tensor, timestep: Tensor, tokens: Tensor, vector: Tensor | None) -> Tensor:
        # where the host saves memory, what brings the network to the card hangs on this
        return self.wrapper(latent, timestep, c_crossattn=[tokens])


class ResidentAutoencoder(LdmAutoencoder):
    """The VAE of the model that is loaded."""

    def mean(self, image: Tensor) -> Tensor:
        return self.network.encode(image).mode()

    def device(self) -> torch.device:
        return devices.device


def resident(model: Any = None) -> Resident:
    """The model that is loaded, or this one of the host's. CheckpointError, in one sentence, if it cannot perceive."""
    model = shared.sd_model if model is None else model
    if model is None:
        raise CheckpointError(NO_MODEL)
    if sd_unet.current_unet is not None:
        raise CheckpointError(OTHER_UNET)
    if not hasattr(getattr(model.model, "diffusion_model", None), "middle_block"):
        raise CheckpointError(NO_UNET.format(kind=type(model).__name__))
    if not model.lowvram and next(model.model.parameters()).device.type != devices.device.type:
        sd_models.send_model_to_device(model)  # the user had unloaded it
    vae = model.first_stage_model
    autoencoder = ResidentAutoencoder(vae, scaling_factor(model))
    return Resident(ResidentBackbone(model), autoencoder, Held.of(vae.state_dict()), partial(encode, model))


def scaling_factor(model: Any) -> float:
    """What the latents of a model of the host's are multiplied by."""
    return model.scale_factor


def encode(model: Any, prompt: str) -> Tensor:
    """(1, 77, D) float32 of a prompt by its last layer, whichever the user has chosen."""
    chosen = shared.opts.data.get(CLIP_SKIP)
    shared.opts.data[CLIP_SKIP] = 1
    try:
        with devices.autocast():
            return model.get_learned_conditioning([prompt]).float()
    finally:
        if chosen is None:
            del shared.opts.data[CLIP_SKIP]
        else:
            shared.opts.data[CLIP_SKIP] = chosen


CLIP_SKIP = "CLIP_stop_at_last_layers"
"""The host's setting: from which layer, counted from the last, its text encoder answers."""
OTHER_UNET = (
    "Another engine (SD Unet in the WebUI's settings, such as TensorRT) runs in the place of the loaded model, and no "
    "adapter can run beside it: choose None there."
)
MODELS = Models(LIBRARY, LdmHost, resident)


def load_backbone(weights: Weights, architecture: UNetArchitecture) -> LdmBackbone:
    """A UNet of our own."""
    config = {key: value for key, value in host_config(architecture).items() if key in TAKEN}
    attends = [2**level for level, attends in enumerate(architecture.attention) if attends]
    dtype = compute_dtype(architecture)
    # without memory of its own: what is read stands in its place
    with torch.device("meta"):
        network = UNetModel(**config, attention_resolutions=attends)
        if architecture.fourier:
            network.middle_block.append(FourierBlock(architecture.widths[-1]))
    tensors = unet_tensors(weights.load(dtype, copy=True), architecture, network, dtype)
    return LdmBackbone(filled(network, tensors, weights, assign=True), dtype)


def load_autoencoder(weights: Weights, architecture: VAEArchitecture) -> LdmAutoencoder:
    """A VAE of our own, in single precision."""
    with torch.device("meta"):
        network = Vae(architecture)
    tensors = vae_tensors(weights.load(torch.float32, copy=True), architecture, weights)
    return LdmAutoencoder(filled(network, tensors, weights, assign=True), architecture.scaling_factor)


def compute_dtype(architecture: UNetArchitecture) -> torch.dtype:
    """What a UNet of our own computes in: half precision where the host's does, and where it does not overflow."""
    halves = devices.device.type != "cpu" and {devices.dtype_unet, devices.dtype_inference} == {torch.float16}
    return torch.float16 if halves and not architecture.linear_projection else torch.float32


class Guests:
    """Networks of ours that are on the host's card, which knows nothing of them."""

    def __init__(self) -> None:
        self.there: list[nn.Module] = []

    def come(self, network: nn.Module) -> None:
        """To stay until leave(); where the host saves memory, one at a time."""
        if any(network is guest for guest in self.there):
            return
        if shared.cmd_opts.medvram or shared.cmd_opts.lowvram:
            self.leave()
        self.there.append(network)
        network.to(devices.device)

    def leave(self) -> None:
        """Back to the computer's memory."""
        while self.there:
            self.there.pop().to(devices.cpu)
        devices.torch_gc()


GUESTS = Guests()
LOCK = threading.RLock()
"""Held by whoever uses networks of ours."""


def loaded(network: nn.Module) -> torch.device:
    """The device of a network, which is there now."""
    GUESTS.come(network)
    return devices.device


def in_turn(function: Callable[[], Result], locked: bool = False) -> Result:
    """What a function gives that uses networks, which leave the card afterwards. UserError if its memory does not
    suffice. locked: the caller holds the lock of the queue; only then may it use the model that the host has loaded,
    for a ControlNet is asked in the midst of a generation, which holds it, and by itself, where nobody does."""
    with LOCK:
        try:
            # not inference mode: on the way the host may put weights into its networks, which it will change later
            with torch.no_grad():
                return function()
        except torch.cuda.OutOfMemoryError:
            raise UserError(SHORT_OF_MEMORY) from None
        finally:
            GUESTS.leave()
