"""Strangers: published models that lie where checkpoints do and cannot be run here, told by their content, a row each.

A row says what a file or folder is, why it is not run, and what to do instead. Names of tensors decide wherever there
are any; what index or config call a network only where its tensors are those of a plain UNet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..backbone import Shapes
from ..generations import GENERATIONS, INPAINTING, LATENT
from .adapter_names import OTHERS, adapts
from .clues import Clues
from .tensors import CheckpointError, Weights, find_files, pick_unet, pick_vae, read_object, read_shapes, shown


@dataclass(frozen=True)
class Seen:
    """What can be told of a model without reading its weights."""

    names: tuple[str, ...] = ()
    """Of all tensors in its files, as they are called there."""
    unet: Shapes = field(default_factory=dict)
    """Of the UNet among them, under diffusers names; empty if there is none."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """config.json of the UNet."""
    index: Mapping[str, Any] = field(default_factory=dict)
    """model_index.json of the folder around it."""
    place: str = ""
    """Its folder or file and the folder around that, in lower case."""
    beside: frozenset[str] = frozenset()
    """What lies in the folder around the UNet's folder."""

    @property
    def pipeline(self) -> str:
        return str(self.index.get("_class_name", ""))

    @property
    def kind(self) -> str:
        """The class of the UNet as its config says it."""
        return str(self.config.get("_class_name", ""))

    @property
    def channels(self) -> tuple[int, int]:
        """Into and out of the UNet, 0 where it is not known."""
        into, out = self.unet.get("conv_in.weight", ()), self.unet.get("conv_out.weight", ())
        return (into[1] if len(into) > 1 else 0), (out[0] if out else 0)

    @property
    def labels(self) -> int:
        """Width of the class embedding's input, 0 if there is none."""
        return (*self.unet.get("class_embedding.linear_1.weight", ()), 0, 0)[1]


Tells = Callable[[Seen], bool]


class Stranger(NamedTuple):
    """A row."""

    title: str
    """With its article, after "... is"."""
    reason: str
    """Why it is not run; after "which"."""
    instead: str
    """What to do."""
    tells: Tells
    """Whether what was seen is this."""
    called: str = ""
    """Pattern of a file in it that cannot be opened safely, or of its pipeline, where a folder holds no UNet at all."""
    perceives: bool = False
    """Whether people put it where checkpoints to perceive with lie."""


def named(pattern: str) -> Tells:
    """Whether a tensor is called so."""
    compiled = re.compile(pattern)
    return lambda seen: any(map(compiled.search, seen.names))


def alone(pattern: str) -> Tells:
    """The same, in files without a UNet."""
    is_named = named(pattern)
    return lambda seen: not seen.unet and is_named(seen)


def _is_geowizard(seen: Seen) -> bool:
    """Its two networks have the tensors of a plain one: v1 with ten labels, v2 with Lotus' four."""
    called = "geowizard" in seen.place or seen.pipeline == "DepthNormalEstimationPipeline"
    second = seen.labels == LATENT and (called or seen.place.split("/")[0] == "unet_v2")
    return seen.channels[0] == 2 * LATENT and (seen.labels == 10 or second or called)


def _is_stable_x(seen: Seen) -> bool:
    """A plain UNet that reads what the ControlNet beside it makes of the picture."""
    guided = "controlnet" in seen.index or "controlnet" in seen.beside
    return guided and re.search(r"(?i)yoso|stable_?(normal|delight)", seen.pipeline) is not None


def _is_see_through(seen: Seen) -> bool:
    """Its index is Marigold's, without a place for the UNet, which is of a class of its own."""
    elsewhere = seen.pipeline.startswith("Marigold") and "vae" in seen.index and "unet" not in seen.index
    return elsewhere or seen.kind == "UNetFrameConditionModel"


def _is_depthfm(seen: Seen) -> bool:
    """Its file also keeps the settings of its network, or is called after it."""
    fields = {"noising_step", "ldm_hparams", "empty_text_embedding"}
    called = re.search(r"depth[-_]?fm", seen.place) is not None and seen.channels[0] == 2 * LATENT
    return bool(fields.intersection(seen.names)) or called


def _is_transformer(seen: Seen) -> bool:
    """Its blocks stand in one row; those of a UNet, whole or torn, are in turn parts of larger ones."""
    blocks = named(r"(^|\.)((transformer_)?blocks|layers)\.\d+\.(attn\d?|self_attn|cross_attn|attention|img_mod)\.")
    return blocks(seen) and not named(r"(down|up|mid|input|output|middle)_blocks?[._]|text_model|visual|vision")(seen)


IMAGE_ENCODER = r"^cond_stage_model\.(model\.)?(visual|vision_model)\."
DEPTH = "take a checkpoint of Marigold, Lotus or GenPercept for depth or normals"
NORMALS = "take a checkpoint of Marigold, Lotus or E2E-FT for normals"
ALBEDO = "take a checkpoint of Marigold IID or RGB-X for albedo and shading"
MASKS = "take a checkpoint of GenPercept for masks and mattes"
BASES = "choose a checkpoint that was trained from Stable Diffusion 1.x or 2.x"

PERCEIVING: tuple[Stranger, ...] = (
    Stranger(
        "SDMatte",
        "conditions its middle block on the latent of a box, points or a mask, as this version does not",
        MASKS,
        named(r"(^|\.)(aux_conv_in|bbox_embedding|point_embedding)\."),
        r"(?i)(lite)?sdmatte.*\.(pth|pt|ckpt)",
    ),
    Stranger(
        "DiffDIS",
        "exchanges tokens between a mask and its edges, at several sizes of the picture, as this version does not",
        MASKS,
        # mid_extra_cross and use_swci are what its config calls the two additions
        lambda seen: (
            named(r"(^|\.)(rgb_proj1?|rgb_conv)\.\d")(seen)
            or bool(seen.config.get("mid_extra_cross") or seen.config.get("use_swci"))
        ),
        r"DiffDISPipeline",
    ),
    Stranger(
        "a latent bridge matching model (LBM)",
        "is a network of SDXL's shape that reads no text, and is not run by this version",
        DEPTH,
        alone(r"^(denoiser\.|vae\.vae_model\.)"),
    ),
    Stranger(
        "IDArb",
        "attends across views and maps at once, as this version does not",
        ALBEDO,
        lambda seen: named(r"\.(attn_mv|norm_mv)\.")(seen) or seen.kind == "UNetDR2DConditionModel",
        r"IDArbDiffusionPipeline",
    ),
    Stranger(
        "GeoWizard",
        "attends across a depth and a normal map that are made together, as this version does not",
        DEPTH,
        _is_geowizard,
        r"DepthNormalEstimationPipeline",
    ),
    Stranger(
        "StableNormal, YOSO or StableDelight",
        "guides its UNet by a ControlNet, as this version does not",
        NORMALS,
        _is_stable_x,
        r"(?i)(yoso|stable_?(normal|delight)).*pipeline",
    ),
    Stranger(
        "Jasmine",
        "refines its depth by a recurrent network behind the VAE, which this version does not run",
        DEPTH,
        lambda seen: (
            named(r"(^|\.)(gru\.conv[zrq][12]|ss_head\.|depth_encoder\.convd1)")(seen)
            or any(name.startswith("gru") for name in seen.beside)
        ),
    ),
    Stranger(
        "RollingDepth",
        "attends across the frames of a video, as this version does not",
        DEPTH,
        lambda seen: seen.pipeline == "RollingDepthPipeline",
        r"RollingDepthPipeline",
    ),
    Stranger(
        "See-through's depth model",
        "runs a UNet of its own over the layers of a drawing, as this version does not",
        "use its own nodes, or take a checkpoint of Marigold for depth",
        _is_see_through,
    ),
    Stranger(
        "DepthFM",
        "integrates a flow that starts from the picture, as this version does not",
        DEPTH,
        _is_depthfm,
        r"(?i)depth[-_]?fm.*\.(ckpt|pt|pth)",
    ),
    Stranger(
        "Kocsis' Intrinsic Image Diffusion",
        "reads the picture through encoders of its own (11 input channels), which this version does not run",
        ALBEDO,
        lambda seen: seen.channels == (11, 8),
        r"(?i)iid_e\d+\.(pth|ckpt)",
    ),
    Stranger(
        "DepthLab",
        "completes a depth map that is given to it, as this version does not",
        DEPTH,
        lambda seen: seen.channels == (12, LATENT),
    ),
    Stranger(
        "IntrinsicAnything, or another model that a CLIP embedding of the picture guides",
        "needs that embedding, which this version does not make",
        ALBEDO,
        lambda seen: bool(seen.unet) and named(IMAGE_ENCODER)(seen),
    ),
)
"""Models that perceive, by ways that are not built here."""

MAKING: tuple[Stranger, ...] = (
    *(
        Stranger(
            f"an adapter for {name}",
            "fits no Stable Diffusion 1.x or 2.x",
            "choose an adapter for one of these, with --adapter or in Apply Adapter",
            lambda seen, pattern=pattern: not seen.unet and adapts(seen.names) and named(pattern.pattern)(seen),
        )
        for pattern, name in OTHERS
    ),
    Stranger(
        "an adapter",
        "holds no network of its own",
        "give it with --adapter or in Apply Adapter, and its base as the model",
        lambda seen: not seen.unet and adapts(seen.names),
    ),
    Stranger(
        "a ControlNet",
        "makes pictures from maps and does not perceive",
        "load it with ComfyUI's Load ControlNet Model",
        lambda seen: (
            named(
                r"(^|\.)(controlnet_cond_embedding|controlnet_(down|mid)_blocks?|controlnet_blocks|input_hint_block)\."
                r"|^lora_controlnet$|^lllite_"
            )(seen)
            or alone(r"^control_model\.")(seen)
        ),
        r".*ControlNet.*Pipeline",
    ),
    Stranger(
        "a T2I adapter",
        "makes pictures from maps and does not perceive",
        "load it with ComfyUI's Load ControlNet Model",
        named(r"^(adapter\.)?body\.\d+\.(block1|in_conv|resnets\.\d+\.block1)\."),
    ),
    Stranger(
        "an IP-Adapter",
        "makes pictures after a picture and does not perceive",
        "load it with the nodes for IP-Adapters, from models/ipadapter",
        alone(r"^(image_proj|ip_adapter|image_proj_model|adapter_modules)\."),
    ),
    Stranger(
        "a motion module of AnimateDiff",
        "makes videos and does not perceive",
        "load it with AnimateDiff's own nodes",
        named(r"(^|\.)motion_modules\."),
    ),
    Stranger(
        "a Stable Video Diffusion model",
        "has layers in time that this version does not run",
        BASES,
        named(r"(^|\.)(time_stack|temporal_transformer_blocks|temporal_res_block|time_mixer)\."),
    ),
    Stranger(
        "a FLUX or HunyuanVideo model",
        "is a transformer without a UNet",
        BASES,
        alone(r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\."),
        r"Flux.*Pipeline",
        perceives=True,
    ),
    Stranger(
        "a Stable Diffusion 3 model",
        "is a transformer without a UNet",
        BASES,
        alone(r"(^|\.)(joint_blocks\.\d|transformer_blocks\.\d+\.norm1_context\.)"),
        r"StableDiffusion3.*Pipeline",
        perceives=True,
    ),
    Stranger(
        "a Wan, Qwen-Image or other diffusion transformer",
        "has no UNet",
        BASES,
        _is_transformer,
        r"(Wan|Qwen|HunyuanVideo|PixArt|Sana|LTX|Lumina|CogVideo|ZImage).*Pipeline|transformer",
        perceives=True,
    ),
    Stranger(
        "an upscaler",
        "enlarges pictures and does not perceive",
        "load it with ComfyUI's Load Upscale Model",
        alone(
            r"^(params_ema\.|params\.)?(model\.1\.sub\.\d|body\.\d+\.rdb\d\.|RRDB_trunk\.|layers\.\d+\.residual_group\.)"
        ),
    ),
    Stranger(
        "TAESD or another tiny VAE",
        "holds no UNet",
        "put it into models/vae_approx and choose it as the light half, or give it as --decoder or --encoder",
        alone(r"^(taesd_)?((encoder|decoder)\.)?(layers\.)?\d+\.conv\.0\.weight$"),
    ),
    Stranger(
        "a VAE alone",
        "holds no UNet",
        "connect it to a checkpoint, and choose that one here",
        lambda seen: not seen.unet and bool(pick_vae(list(seen.names))),
    ),
    Stranger(
        "a textual inversion",
        "is a word for prompts and not a network",
        "use it in a prompt, from models/embeddings",
        lambda seen: len(seen.names) < 5 and named(r"^(emb_params|clip_[lg]|<.+>|string_to_param.*)$")(seen),
    ),
    Stranger(
        "a text encoder, or CLIP",
        "holds no UNet",
        "put its folder beside the UNet's as text_encoder/, and choose the checkpoint here",
        alone(r"(^|\.)(text_model\.encoder|vision_model\.encoder|transformer\.resblocks|encoder\.block\.\d+\.layer)\."),
    ),
)
"""Models that make pictures, or are parts of such."""

STRANGERS = (*PERCEIVING, *MAKING)
"""In the order in which they are tried."""


def refuse_stranger(weights: Weights, config: Mapping[str, Any], path: Path) -> None:
    """CheckpointError if the network in these files, or what lies there in its place, is a row of STRANGERS."""
    folder = path if os.path.isdir(path) else None
    seen = Seen(
        names=_names_in(weights),
        unet=weights.shapes,
        config=config,
        index=read_object(folder.parent / "model_index.json") if folder else {},
        place=f"{path.name}/{path.parent.name}".lower(),
        beside=frozenset(_names_inside(folder.parent)) if folder and folder.name.startswith("unet") else frozenset(),
    )
    _say(path, next((row for row in STRANGERS if row.tells(seen)), None))


def refuse_names(path: Path, names: Iterable[str]) -> None:
    """CheckpointError if what was given as an adapter is none, and a row of STRANGERS."""
    held = tuple(names)
    seen = Seen(names=held, unet=dict.fromkeys(pick_unet(list(held)).values(), ()))
    if adapts(held):
        return
    _say(path, next((row for row in STRANGERS if row.tells(seen)), None))


def refuse_closed(path: Path) -> None:
    """CheckpointError for a folder without a UNet that holds, or is, what a row is called: its content cannot tell."""
    held = [str(read_object(path / "model_index.json").get("_class_name", "")), *_names_inside(path)]
    _say(path, next((row for row in STRANGERS if any(re.fullmatch(row.called, name) for name in held if name)), None))


def refuse_pickle(path: Path) -> None:
    """CheckpointError for a pickle that is called as a row is: so that nobody converts it in vain."""
    if path.suffix in (".pt", ".pth", ".ckpt") and os.path.isfile(path):
        _say(path, next((row for row in STRANGERS if re.fullmatch(row.called, path.name)), None))


def _say(path: Path, row: Stranger | None) -> None:
    if row is not None:
        raise CheckpointError(f"{shown(path)} is {row.title}, which {row.reason}: {row.instead}.")


def _names_in(weights: Weights) -> tuple[str, ...]:
    """Of every tensor in a network's files. A pickle is read whole, so not again where nothing was left aside of it."""
    if weights.path.suffix == ".bin" and "conv_in.weight" in weights.names:
        return tuple(weights.names)
    return tuple(name for file in weights.files for name in read_shapes(file))


def _names_inside(folder: Path) -> list[str]:
    """What lies in a folder, nothing where it cannot be looked into."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def claims_to_perceive(names: Iterable[str]) -> bool:
    """Whether tensors without a UNet are those of a model that people put where checkpoints lie: so it is told."""
    seen = Seen(names=tuple(names))
    return not adapts(seen.names) and any(row.tells(seen) for row in STRANGERS if row in PERCEIVING or row.perceives)


class Plain(NamedTuple):
    """A row: a UNet of Stable Diffusion as it was published, which has the tensors of one that perceives."""

    title: str
    channels: int
    makes: str
    pipelines: str
    """Pattern of what its index may call it."""
    always: bool = False
    """Whether the channels tell it alone."""


PLAIN = (
    Plain("{base}", LATENT, "pictures from text", r"(Stable|Latent).*Diffusion(Img2Img)?Pipeline"),
    Plain("{base} to make pictures after depth", LATENT + 1, "pictures from depth maps", "", always=True),
    Plain("{base} to upscale", LATENT + 3, "pictures larger", "", always=True),
    Plain("InstructPix2Pix", 2 * LATENT, "pictures from pictures and instructions", r".*InstructPix2PixPipeline"),
    Plain("{base} to inpaint", INPAINTING, "pictures from parts of them", "", always=True),
)


def unknown_unet(path: Path, clues: Clues) -> str:
    """A sentence for a UNet that no family recognises, if it is one that makes pictures; "" if nothing tells."""
    channels = clues.architecture.in_channels
    base = GENERATIONS.get(clues.architecture.base)
    title = f"plain Stable Diffusion ({base.title})" if base else "plain Stable Diffusion"
    for row in PLAIN:
        if row.channels != channels or clues.architecture.vector_dim:
            continue
        if row.always or re.fullmatch(row.pipelines, clues.pipeline) or _brings_text(path):
            return (
                f"{shown(path)} is {row.title.format(base=title)}, a UNet with {channels} input channels that makes "
                f"{row.makes} and does not perceive: choose a perception checkpoint, or, if it was trained to be one, "
                "name its family and task."
            )
    return ""


def _brings_text(path: Path) -> bool:
    """Whether a UNet's files also hold a text encoder, as whole checkpoints to make pictures with do."""
    files = find_files(path) if os.path.isdir(path) else (path,)
    return any(name.startswith("cond_stage_model.") for file in files for name in read_shapes(file))
