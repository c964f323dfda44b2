"""HostBackbone and HostAutoencoder: core's protocols on ComfyUI's networks; the mirror of trainer/host.py."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import comfy.clip_model
import comfy.ldm.modules.attention as attention
import comfy.ldm.modules.diffusionmodules.model as vae_layers
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import server
import torch
from comfy.latent_formats import SD15
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ..core.backbone import Context, Features
from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.attachment import Adapted, uncompiled
from ..core.checkpoints.context import PUT_PROMPT, PUT_TEXT, text_weights, tokenizer_in, words_of
from ..core.checkpoints.ldm_names import rename, unet_to_ldm
from ..core.checkpoints.ldm_networks import filled, host_config, unet_tensors, vae_config, vae_tensors
from ..core.checkpoints.library import Shared
from ..core.checkpoints.networks import Networks
from ..core.checkpoints.resident import NO_UNET, resident_networks
from ..core.checkpoints.tensors import CheckpointError, Weights, read_object, shown
from ..core.checkpoints.tiny_vae_file import Held
from ..core.errors import UserError
from ..core.fourier import FourierBlock
from ..core.generations import LATENT
from ..core.halves import Halves
from ..core.heads.table import build_head
from ..core.heads.vitpose import without_batch_norm
from ..core.image import CELL
from ..core.pipeline import Perceiver
from ..core.seen_pictures import SeenPictures
from ..core.shortcuts import Way, of_unet, of_vae, serve, suiting, taken
from ..core.tiny_vae import build_light
from ..core.vae_tiles import DECODE, ENCODE, Half, Shortage, at_once_or_in_tiles

log = logging.getLogger(__name__)
management = comfy.model_management


class HostBackbone:
    """A host's UNet as a Backbone: the raw network, so that the host's own sampling maths is not applied."""

    def __init__(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        self.patcher = patcher
        self.in_channels: int = self.config["in_channels"]

    @property
    def config(self) -> dict[str, Any]:
        return self.patcher.model.model_config.unet_config

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

    @property
    def network(self) -> nn.Module:
        """The UNet as it was before torch.compile, whose code would not see what is put beside the weights later."""
        return uncompiled(self.patcher.model.diffusion_model)

    def modules(self) -> dict[str, nn.Module]:
        held = dict(self.network.named_modules())
        names = rename(held, {ldm: name for name, ldm in self.prefixes.items()})
        return {name: held[ldm] for ldm, name in names.items() if hasattr(held[ldm], "weight")}

    @property
    def prefixes(self) -> dict[str, str]:
        """{prefix by its diffusers name: the host's}"""
        layers, depth = self.config["num_res_blocks"][0], self.config["transformer_depth"]
        return unet_to_ldm(
            tuple(depth[level * layers] > 0 for level in range(len(self.config["channel_mult"]))), layers
        )

    def weight(self, name: str) -> Tensor:
        """A weight by its diffusers name as it was before the user's LoRAs. KeyError if there is none."""
        key = f"diffusion_model.{rename([name], self.prefixes)[name]}"
        if key in self.patcher.backup:
            return self.patcher.backup[key].weight
        return self.network.get_parameter(key.removeprefix("diffusion_model.")).detach()

    def run(self, latent: Tensor, timestep: Tensor, context: Context, transformer_options: dict[str, Any]) -> Tensor:
        """One pass. transformer_options must be fresh: the network writes into it."""
        model, dtype = self.patcher.model, compute_dtype(self.patcher.model)
        with loaded(self.patcher, model.memory_required([latent.shape[0], *latent.shape[1:]])) as device:
            vector = None if context.vector is None else context.vector.to(device, dtype)
            latent_there = latent.to(device, dtype)
            self.patcher.pre_run()
            try:
                with _unet_shortcuts(self.network, latent_there, transformer_options):
                    output = self.network(
                        latent_there,
                        timestep.to(device, torch.float32),
                        context=context.tokens.to(device, dtype),
                        y=vector,
                        transformer_options=transformer_options,
                    )
            finally:
                self.patcher.cleanup()
            return output.to(latent.device, torch.float32)


def _unet_shortcuts(
    network: nn.Module, latent: Tensor, transformer_options: dict[str, Any]
) -> AbstractContextManager[None]:
    """Less arithmetic, where it serves, and PyTorch's attention in the place of the host's default on a CPU."""
    if not serve(network, latent):
        return nullcontext()
    if attention.optimized_attention is attention.attention_sub_quad:
        transformer_options["optimized_attention_override"] = _by_pytorch
    return taken(of_unet(network))


def _by_pytorch(function: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
    """What the host calls in the place of an attention function of its own."""
    return attention.attention_pytorch(*given, **named)


SEEN = SeenPictures()
"""By the nodes that ran last: several that perceive one picture share its encode, a quarter of the work of each."""
FULL_PRECISION = "full"
PRECISIONS: dict[str, Callable[[comfy.sd.VAE], torch.dtype]] = {
    FULL_PRECISION: lambda vae: torch.float32,
    "as the host runs it": lambda vae: management.vae_dtype(vae.device, vae.working_dtypes),
}
"""What a VAE may compute in. Half precision takes half the memory and shows as steps in a depth."""


class HostAutoencoder:
    """A host's VAE as an Autoencoder: below its cropping and clamping, in single precision if nothing else is said."""

    def __init__(
        self,
        vae: comfy.sd.VAE,
        scaling_factor: float = SD15().scale_factor,
        precision: str = FULL_PRECISION,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        """precision: a row of PRECISIONS. say: told in a sentence when a picture had to be taken in tiles."""
        channels = getattr(vae, "latent_channels", None)
        if channels != LATENT or getattr(vae, "latent_dim", 2) != 2:
            raise UserError(
                f"This VAE has {channels} latent channels: connect one of a Stable Diffusion 1.x or 2.x model, with 4."
            )
        if vae.first_stage_model is None:
            raise UserError("The checkpoint that this VAE comes from holds none: connect one from Load VAE.")
        self.vae = vae
        self.scaling_factor = scaling_factor
        self.dtype = PRECISIONS[precision](vae)
        self.say = say

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        return self.vae.patcher

    def encode(self, image: Tensor) -> Tensor:
        seen = SEEN.latent(self.vae.first_stage_model, self.how, image)
        return (self.run(ENCODE, image) if seen is None else seen.to(self.vae.device)) * self.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        return self.run(DECODE, latent / self.scaling_factor)

    @property
    def how(self) -> tuple[torch.dtype, bool, Any]:
        """What a latent depends on besides the network and the picture: precision, arithmetic, other packs' patches."""
        return self.dtype, suiting.get(), getattr(self.patcher, "patches_uuid", None)

    def run(self, half: Half, given: Tensor) -> Tensor:
        """One pass of a half; in overlapping tiles, and said so, if memory does not suffice."""
        self.vae.throw_exception_if_invalid()
        network = self.vae.first_stage_model
        memory = getattr(self.vae, f"memory_used_{half.name}")(given.shape, self.dtype)

        def compute(part: Tensor) -> Tensor:
            part = part.to(self.vae.device, self.dtype)
            with _vae_shortcuts(network, part):
                return getattr(network, half.name)(part).float()

        with loaded(self.vae.patcher, memory), casting(network):
            result, at_once = at_once_or_in_tiles(half, compute, given, network, SHORTAGE, self.say)
        if half is ENCODE and at_once:
            SEEN.keep(network, self.how, given, result)
        return result


def _vae_shortcuts(network: nn.Module, given: Tensor) -> AbstractContextManager[None]:
    """Less arithmetic, where it serves."""
    if not serve(network, given):
        return nullcontext()
    layers = list(network.modules())
    slow = (layer for layer in layers if getattr(layer, "optimized_attention", None) is vae_layers.normal_attention)
    doubling = (layer for layer in layers if isinstance(layer, vae_layers.Upsample))
    return taken(
        [
            *of_vae(network, doubling),
            *(Way(layer, "optimized_attention", vae_layers.pytorch_attention) for layer in slow),
        ]
    )


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the host takes an error for that."""
    if hasattr(management, "is_oom"):
        return management.is_oom(error)
    return isinstance(error, management.OOM_EXCEPTION)


SHORTAGE = Shortage(
    _is_out_of_memory, lambda: management.soft_empty_cache(), lambda text: management.OOM_EXCEPTION(text)
)
"""The host's names are read when they are called."""


class HostHead:
    """A head of core.heads as a Head, moved and cast by the host."""

    def __init__(self, name: str, weights: Weights) -> None:
        tensors = without_batch_norm(weights.load())
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        head = filled(build_head(name, shapes, comfy.ops.manual_cast), tensors, weights)
        self.patcher = _owned(head, management.unet_offload_device())

    def __call__(self, features: Features) -> Tensor:
        memory = sum(feature.numel() * feature.element_size() for feature in features) * 16
        with loaded(self.patcher, memory) as device:
            return self.patcher.model(tuple(feature.to(device) for feature in features)).float()


class HostLight:
    """A light half of a VAE, moved by the host, in single precision."""

    def __init__(self, weights: Weights) -> None:
        network = filled(build_light(weights.shapes, comfy.ops.manual_cast), weights.load(), weights)
        self.patcher = _owned(network, management.vae_offload_device())

    def __call__(self, given: Tensor) -> Tensor:
        # what is live at full size is a few dozen times its own picture
        pixels = given.shape[0] * given.shape[-2] * given.shape[-1] * (CELL**2 if given.shape[1] == LATENT else 1)
        with loaded(self.patcher, pixels * BYTES_A_PIXEL) as device:
            return self.patcher.model(given.to(device, torch.float32)).float()


BYTES_A_PIXEL = 4 * 64 * 3
"""Of a light half at work: TAESD, the larger kind, holds three maps of 64 channels at full size."""


class HostPerceiver(Perceiver):
    """A Perceiver whose networks the host counts as in use by the graph that holds it."""

    def get_models(self) -> list[comfy.model_patcher.ModelPatcher]:
        """Their patchers; the name is what the host asks for."""
        backbone = self.backbone.net if isinstance(self.backbone, Adapted) else self.backbone
        vae = self.autoencoder
        halves = (vae.full, vae.light_encoder, vae.light_decoder) if isinstance(vae, Halves) else (vae,)
        networks: list[Any] = [network for network in (backbone, *halves, self.head) if network is not None]
        return [network.patcher for network in networks]


SHARED = Shared()


class ComfyHost:
    """ComfyUI as core's Host: networks that it loads, offloads and evicts."""

    perceiver = HostPerceiver
    advice, prompt_advice = PUT_TEXT, PUT_PROMPT

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> HostBackbone:
        return SHARED(load_backbone, weights, architecture)

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> HostAutoencoder:
        return SHARED(load_autoencoder, weights, architecture)

    def head(self, name: str, weights: Weights) -> HostHead:
        return HostHead(name, weights)

    def light(self, weights: Weights) -> HostLight:
        return SHARED(HostLight, weights)

    def words(self, text_encoder: Path, prompt: str) -> list[int]:
        return words_of(tokenizer_in(_tokenizer, text_encoder.parent / "tokenizer"), prompt)

    def encode_prompt(self, text_encoder: Path, tokens: list[int]) -> Tensor:
        return encode_prompt(text_weights(text_encoder), read_object(text_encoder / "config.json"), tokens)

    def empty_prompt(self, base: str, tokens: int) -> Tensor | None:
        return _sd2_empty_prompt() if (base, tokens) == ("sd21", 2) else None


class ResidentHost(ComfyHost):
    """The same with a model that is loaded already."""

    advice = "connect a conditioning, such as an empty prompt"
    prompt_advice = "type {prompt} into a CLIP Text Encode of the same checkpoint and connect that as conditioning"

    def __init__(self, backbone: HostBackbone) -> None:
        self.resident = backbone

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> HostBackbone:
        return self.resident


# How the host moves networks


def _owned(network: nn.Module, offload: torch.device) -> comfy.model_patcher.ModelPatcher:
    """The host's own kind of patcher. Its name is read when called: main.py binds it anew after all imports."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(network, load_device=management.get_torch_device(), offload_device=offload)


def streams(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether weights stay in memory as the file has them and are cast on their way to the device."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


class Latest(NamedTuple):
    """The network that came to its device last, by its patcher's id, and the room that was made for its work."""

    patcher: int = 0
    memory: float = 0


latest = Latest()


@contextmanager
def loaded(patcher: comfy.model_patcher.ModelPatcher, memory: float) -> Iterator[torch.device]:
    """The device of a network, with the network on it and room for `memory` bytes of work.

    Passes that follow one another load it once: each time the host would walk all its layers, and say so in its log.
    """
    global latest
    on_top = management.current_loaded_models[:1]
    # the host keeps the last one first; what others brought since is seen there
    if not (on_top and on_top[0].model is patcher and latest.patcher == id(patcher) and memory <= latest.memory):
        management.load_models_gpu([patcher], memory_required=memory)
        latest = Latest(id(patcher), memory)
    with _current_device(patcher.load_device):
        yield patcher.load_device


def _current_device(device: torch.device) -> AbstractContextManager[None]:
    """With several GPUs kernels of the host run on PyTorch's current one, whatever their tensors are on."""
    if hasattr(management, "cuda_device_context"):
        return management.cuda_device_context(device)
    return nullcontext()


@contextmanager
def casting(network: nn.Module) -> Iterator[None]:
    """Layers of the host cast their weights to the input's dtype while this lasts; nothing is copied or kept."""
    layers: list[Any] = [layer for layer in network.modules() if getattr(layer, "comfy_cast_weights", None) is False]
    for layer in layers:
        layer.comfy_cast_weights = True
    try:
        yield
    finally:
        for layer in layers:
            layer.comfy_cast_weights = False


def compute_dtype(model: comfy.model_base.BaseModel) -> torch.dtype:
    """What the network computes in; the dtype of its weights may be an 8-bit one."""
    if hasattr(model, "get_dtype_inference"):
        return model.get_dtype_inference()
    return model.manual_cast_dtype or model.get_dtype()


class PerceptionModel(comfy.supported_models_base.BASE):
    """A host's model config for any UNet of the SD 1.x / 2.x kind; the host's own detection knows only some of them."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = SD15
    memory_usage_factor = 1.0


def load_backbone(weights: Weights, architecture: UNetArchitecture) -> HostBackbone:
    """A UNet that the host owns: loads, offloads and evicts."""
    outlines = weights.outlines()
    parameters = sum(outline.numel() for outline in outlines.values())
    config = PerceptionModel(host_config(architecture))
    dtype = management.unet_dtype(
        model_params=parameters,
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(outlines),
    )
    device, at_first = management.get_torch_device(), management.unet_inital_load_device(parameters, dtype)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.IMG_TO_IMG, device=at_first)
    if architecture.fourier:
        _add_fourier(model.diffusion_model, architecture.widths[-1], dtype)
    # the patcher comes first: it decides whether weights stay as they are in the file
    patcher = _owned(model, management.unet_offload_device())
    # what the network was made with is never filled, and so takes no memory, where what is read can stand in its place
    fresh = not streams(patcher) and torch.device(at_first).type == "cpu"
    tensors = weights.load(dtype, copy=True) if fresh else weights.load()
    renamed = unet_tensors(tensors, architecture, model.diffusion_model, dtype)
    filled(model.diffusion_model, renamed, weights, assign=fresh or streams(patcher), dtype=dtype)
    return HostBackbone(patcher)


def _add_fourier(network: nn.Module, width: int, dtype: torch.dtype) -> None:
    """Put a Fourier block behind the middle block's own layers: the host calls it as one of them, with features."""
    middle: Any = network.get_submodule("middle_block")
    device = next(middle.parameters()).device
    block = FourierBlock(width, comfy.ops.manual_cast).to(device, dtype)
    if hasattr(management, "archive_model_dtypes"):
        # hosts that stream weights note what each is cast to when they make a network, and this came later
        management.archive_model_dtypes(block)
    middle.append(block)


def load_autoencoder(weights: Weights, architecture: VAEArchitecture) -> HostAutoencoder:
    """A VAE that the host owns, in single precision."""
    settings = {"ddconfig": vae_config(architecture), "embed_dim": architecture.latent_channels}
    renamed = vae_tensors(weights.load(), architecture, weights)
    vae = comfy.sd.VAE(sd=renamed, config={"params": settings}, dtype=torch.float32)
    return HostAutoencoder(vae, architecture.scaling_factor)


def resident(patcher: comfy.model_patcher.ModelPatcher, clean: bool) -> HostBackbone:
    """The UNet of a MODEL as a Backbone: the very patcher that came, or without the user's LoRAs.

    CheckpointError for models that are no Stable Diffusion UNet.
    """
    model = patcher.model
    config = getattr(model.model_config, "unet_config", {})
    if not {"context_dim", "num_res_blocks", "transformer_depth", "channel_mult"} <= config.keys():
        raise CheckpointError(NO_UNET.format(kind=type(model.model_config).__name__))
    return HostBackbone(_without_loras(patcher) if clean and _has_loras(patcher) else patcher)


def resident_base(backbone: HostBackbone, vae: comfy.sd.VAE) -> Networks:
    """What an adapter is opened on, where the networks are in memory and not on disk."""
    return resident_networks(backbone.modules(), weights_of(vae))


def weights_of(vae: comfy.sd.VAE) -> Weights:
    """Of a VAE that is loaded, under the host's names."""
    return Held.of(vae.first_stage_model.state_dict())


def scaling_factor(patcher: comfy.model_patcher.ModelPatcher) -> float:
    """What the model's latents are multiplied by."""
    return patcher.model.latent_format.scale_factor


BESIDE = "bypass"
"""In the names of what the host calls injections: LoRAs that run beside the weights instead of in them."""


def _has_loras(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """In the weights, around them, or beside them."""
    wrapped = getattr(patcher, "weight_wrapper_patches", {})
    return bool(patcher.patches or wrapped or any(BESIDE in name for name in patcher.injections))


def _without_loras(patcher: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """The same weights without LoRAs. The host rewrites them for it, and once more for the next generation."""
    clean = patcher.clone()
    clean.patches = {}
    clean.patches_uuid = uuid.uuid4()
    clean.weight_wrapper_patches = {}
    clean.injections = {name: held for name, held in clean.injections.items() if BESIDE not in name}
    return clean


def _tokenizer(folder: str) -> Any:
    """The host's, of CLIP."""
    return comfy.sd1_clip.SDTokenizer(tokenizer_path=folder).tokenizer


def encode_prompt(weights: Weights, config: dict[str, Any], tokens: list[int]) -> Tensor:
    """(1, L, D) float32 of L token ids, by the host's CLIP in single precision.

    weights: named as `text_names` does. CheckpointError if they are not the encoder's, or config.json describes none.
    """
    try:
        encoder = comfy.clip_model.CLIPTextModel_(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    except KeyError as error:
        told = shown(weights.path.with_name("config.json"))
        raise CheckpointError(f"{told} describes no text encoder ({error} is missing): get the file again.") from error
    # the module's memory is as it was found: nothing of it may stay unfilled
    filled(encoder, {name: tensor.float() for name, tensor in weights.load().items()}, weights)
    # hosts add all their positions at once; CLIP is causal, so that what follows the prompt is not seen by it
    positions = encoder.embeddings.position_embedding.weight.shape[0]
    filling = [tokens[-1]] * (positions - len(tokens))
    return encoder(torch.tensor([tokens + filling]))[0][:, : len(tokens)].float()


def _sd2_empty_prompt() -> Tensor | None:
    """(1, 2, 1024) of SD2's empty prompt, which the host ships for Lotus; None if a host no longer does."""
    try:
        from comfy_extras.nodes_lotus import LotusConditioning
    except ImportError:
        return None
    return LotusConditioning.execute().result[0][0][0].float()


def ticker(total: int) -> Any:
    """For a node's execution: what to call after every pass. It moves the progress bar, and raises what the host
    raises when the user cancels."""
    global latest
    latest = Latest()  # other nodes ran since
    bar = comfy.utils.ProgressBar(total)

    def tick() -> None:
        management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return tick


class Said(NamedTuple):
    """What a node has said in a run, in whichever of its executions: a list of images executes it once for each."""

    place: tuple[str, str] = ("", "")
    """The run and the node."""
    texts: tuple[str, ...] = ()


said = Said()


def say(text: str) -> None:
    """Show it on the node that is executing, in the browser that runs the graph; nothing outside an execution.

    It stands below what the node said before: a browser shows only the last message, so that each holds all.
    """
    global said
    executing, there = get_executing_context(), server.PromptServer.instance
    if executing is None:
        return
    place = (executing.prompt_id, executing.node_id)
    before = said.texts if said.place == place else ()
    said = Said(place, tuple(dict.fromkeys((*before, text))))
    there.send_progress_text("\n".join(said.texts), executing.node_id, sid=there.client_id)


def nothing(why: str) -> Any:
    """In place of an output: what it is connected to does not execute, and says why instead."""
    return ExecutionBlocker(why)


def output_device() -> torch.device:
    """Where the host wants a node's results."""
    return management.intermediate_device()
