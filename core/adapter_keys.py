"""Names in adapter files: the many spellings of one layer and its part -> diffusers' name of the layer, and a role.

A key is a prefix, a layer, and an ending. Each of the three has its own table here, so any mixture of them is read:
kohya's endings on diffusers' layers, peft's on LDM's. The roles are `down`, `up`, `middle` and `alpha` of a low-rank
pair, `weight` and `bias` of a difference, and `base` for weights of the base that a training run has saved along.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .keys import rename, unet_prefixes

Layout = tuple[tuple[bool, ...], int]
"""Which levels have transformers on the way down, and residual blocks per level: what LDM's block numbers depend on."""

STABLE_DIFFUSION: Layout = ((True, True, True, False), 2)


class Key(NamedTuple):
    """One key, read."""

    layer: str
    """The layer by its diffusers name."""
    role: str


PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "module.")
UNDERSCORED = ("lora_unet_", "lycoris_")
"""After these the layer's dots are underscores."""

TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(text_encoder(_\d)?\.|lora_te\d?_|cond_stage_model\.|text_model\.)")

ENDINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(.+?){ending}"), role)
    for ending, role in (
        (r"\.lora_down\.weight", "down"),  # kohya
        (r"\.lora_up\.weight", "up"),
        (r"\.lora_mid\.weight", "middle"),
        (r"\.alpha", "alpha"),
        (r"_lora\.down\.weight", "down"),  # diffusers up to 0.20, in attention processors
        (r"_lora\.up\.weight", "up"),
        (r"\.(?:lora|lora_layer|lora_linear_layer)\.down\.weight", "down"),  # diffusers since
        (r"\.(?:lora|lora_layer|lora_linear_layer)\.up\.weight", "up"),
        (r"\.lora_A(?:\.[^.]+)?\.weight", "down"),  # peft, with or without the adapter's name
        (r"\.lora_B(?:\.[^.]+)?\.weight", "up"),
        (r"\.(?:diff|w_norm)", "weight"),  # differences, by kohya, LyCORIS and ComfyUI
        (r"\.(?:diff_b|b_norm)", "bias"),
        (r"\.base_layer\.(?:weight|bias)", "base"),  # peft, where the whole network was saved
        (r"\.(?:weight|bias)", "base"),
    )
)

METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "boft_": "BOFT",
    "ia3_": "IA3",
    "set_weight": "weight replacement",
    "reshape_weight": "weight reshaping",
}
"""Part of a key -> an adapter method that is none of ours."""

OTHERS = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"joint_blocks"), "Stable Diffusion 3"),
    (re.compile(r"^(transformer\.|diffusion_model\.blocks|blocks\.)"), "a transformer without a UNet"),
    (re.compile(r"lora_te2_|text_encoder_2\.|add_embedding|transformer_blocks[._][1-9]"), "SDXL"),
    (re.compile(r"motion_modules"), "AnimateDiff"),
)
"""What the keys of adapters for other networks have in them."""

WORDS = """
down_blocks up_blocks mid_block input_blocks output_blocks middle_block attentions resnets transformer_blocks
downsamplers upsamplers time_embedding time_embed class_embedding label_emb conv_norm_out conv_shortcut time_emb_proj
skip_connection in_layers out_layers emb_layers proj_in proj_out conv_in conv_out linear_1 linear_2 to_q to_k to_v
to_out attn1 attn2 norm1 norm2 norm3 norm conv1 conv2 conv ff net proj op out
"""
"""What a layer's name is made of, besides numbers."""

WORD = re.compile(rf"({'|'.join(sorted(WORDS.split(), key=len, reverse=True))}|\d+)(?:_|$)")
BLOCKS = re.compile(r"(down_blocks|up_blocks|mid_block|time_embedding|class_embedding)\..+|conv_(in|out|norm_out)")
"""Layers under their diffusers names."""


def reader(layout: Layout = STABLE_DIFFUSION) -> Callable[[str], Key | None]:
    """A function from a key to what it means, None for a key of no layer of a UNet of this layout."""
    ldm = dict(unet_prefixes(*layout))

    def read(key: str) -> Key | None:
        for pattern, role in ENDINGS:
            match = pattern.fullmatch(key)
            if match:
                layer = layer_name(match[1], ldm)
                return Key(layer, role) if layer else None
        return None

    return read


def layer_name(text: str, ldm: dict[str, str]) -> str:
    """The diffusers name of a layer, "" if it is none."""
    name = strip(text).replace(".processor.", ".")
    for prefix in UNDERSCORED:
        if name.startswith(prefix):
            name = dotted(name[len(prefix) :])
    if BLOCKS.fullmatch(name):
        return f"{name}.0" if name.endswith(".to_out") else name
    return rename([name], ldm).get(name, "")


def strip(name: str) -> str:
    """Without any of the prefixes, however many are stacked."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return strip(name[len(prefix) :])
    return name


def dotted(name: str) -> str:
    """down_blocks_0_attentions_1 -> down_blocks.0.attentions.1; "" where a word is no layer's."""
    words, position = [], 0
    while position < len(name):
        match = WORD.match(name, position)
        if not match:
            return ""
        words.append(match[1])
        position = match.end()
    return ".".join(words)


def other_network(keys: list[str]) -> str:
    """The network that these keys belong to if it is one of the known others, else ""."""
    return next((name for pattern, name in OTHERS if any(pattern.search(key) for key in keys)), "")


def other_method(keys: list[str]) -> str:
    """The adapter method of these keys if it is one of the known others, else ""."""
    return next((name for part, name in METHODS.items() if any(part in key for key in keys)), "")
