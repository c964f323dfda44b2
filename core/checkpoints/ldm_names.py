"""Names of weights: Stable Diffusion's own (LDM) <-> diffusers'.

Module by module the two differ only in a prefix, so a table of prefixes is all there is; see unet_prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
VAE_ATTENTION = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
OUTER = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "class_embedding.linear_1"),
    ("label_emb.0.2", "class_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
VAE_PREFIXES = ("first_stage_model.", "vae.", "")


def unet_prefixes(attention: tuple[bool, ...], layers: int) -> Iterator[tuple[str, str]]:
    """(LDM, diffusers) prefix of every module of a UNet.

    attention: which levels have transformers on the way down; layers: residual blocks per level.
    """
    yield from OUTER
    levels = len(attention)
    for level, attends in enumerate(attention):
        for layer in range(layers):
            block = 1 + level * (layers + 1) + layer
            yield from _resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}")
            if attends:
                yield f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{layer}"
        if level < levels - 1:
            yield f"input_blocks.{(level + 1) * (layers + 1)}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield "middle_block.1", "mid_block.attentions.0"
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    # core.fourier.FourierBlock, of those that have one, where nodes/host.py puts it
    yield "middle_block.3", "fftblock"
    for level, attends in enumerate(reversed(attention)):
        for layer in range(layers + 1):
            block = level * (layers + 1) + layer
            yield from _resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{layer}")
            if attends:
                yield f"output_blocks.{block}.1", f"up_blocks.{level}.attentions.{layer}"
        if level < levels - 1:
            last = level * (layers + 1) + layers
            yield f"output_blocks.{last}.{1 + attends}.conv", f"up_blocks.{level}.upsamplers.0.conv"


def _resnet(ldm: str, diffusers: str) -> Iterator[tuple[str, str]]:
    return ((f"{ldm}.{theirs}", f"{diffusers}.{ours}") for theirs, ours in RESNET)


def vae_prefixes(levels: int, layers: int) -> Iterator[tuple[str, str]]:
    """(LDM, diffusers) prefix of every module of a VAE; layers counts the encoder's residual blocks per level."""
    for side, name, extra in (("encoder", "down", 0), ("decoder", "up", 1)):
        for level in range(levels):
            ldm = level if side == "encoder" else levels - 1 - level
            for layer in range(layers + extra):
                theirs, ours = f"{side}.{name}.{ldm}.block.{layer}", f"{side}.{name}_blocks.{level}.resnets.{layer}"
                yield theirs, ours
                yield f"{theirs}.nin_shortcut", f"{ours}.conv_shortcut"
            sampler = "downsample" if side == "encoder" else "upsample"
            yield f"{side}.{name}.{ldm}.{sampler}.conv", f"{side}.{name}_blocks.{level}.{sampler}rs.0.conv"
        yield f"{side}.mid.block_1", f"{side}.mid_block.resnets.0"
        yield f"{side}.mid.block_2", f"{side}.mid_block.resnets.1"
        for theirs, ours in VAE_ATTENTION:
            yield f"{side}.mid.attn_1.{theirs}", f"{side}.mid_block.attentions.0.{ours}"
        yield f"{side}.conv_in", f"{side}.conv_in"
        yield f"{side}.norm_out", f"{side}.conv_norm_out"
        yield f"{side}.conv_out", f"{side}.conv_out"
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"


OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern(key: str) -> str:
    """VAE attention names as diffusers wrote them before 0.18, in today's spelling."""
    return re.sub(r"(attentions\.0)\.(query|key|value|proj_attn)\.", lambda m: f"{m[1]}.{OLD_ATTENTION[m[2]]}.", key)


def rename(keys: Iterable[str], prefixes: Mapping[str, str]) -> dict[str, str]:
    """{key: renamed} for each key under one of the prefixes; the longest prefix wins, other keys are left out."""
    renamed = {}
    for key in keys:
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in prefixes:
                renamed[key] = ".".join([prefixes[prefix], *parts[end:]])
                break
    return renamed


def unet_to_ldm(attention: tuple[bool, ...], layers: int) -> dict[str, str]:
    """Diffusers prefix -> LDM prefix."""
    return {diffusers: ldm for ldm, diffusers in unet_prefixes(attention, layers)}


def vae_to_ldm(levels: int, layers: int) -> dict[str, str]:
    return {diffusers: ldm for ldm, diffusers in vae_prefixes(levels, layers)}


def unet_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """{LDM key: diffusers key}; the network's levels and layers are read from the names."""
    present = set(keys)
    layers = 0
    while f"input_blocks.{layers + 1}.0.in_layers.0.weight" in present:
        layers += 1
    attention, block = [], 1
    while f"input_blocks.{block}.0.in_layers.0.weight" in present:
        attention.append(f"input_blocks.{block}.1.norm.weight" in present)
        block += layers + 1
    return rename(present, dict(unet_prefixes(tuple(attention), layers)))


def vae_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """{LDM key: diffusers key}."""
    present = set(keys)
    levels = layers = 0
    while f"encoder.down.{levels}.block.0.conv1.weight" in present:
        levels += 1
    while f"encoder.down.0.block.{layers}.conv1.weight" in present:
        layers += 1
    return rename(present, dict(vae_prefixes(levels, layers)))
