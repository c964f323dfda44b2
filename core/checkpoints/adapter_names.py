"""Names in adapter files: the many spellings of one layer and its part -> diffusers' name of the layer, and a role.

A key is a prefix, a layer, and an ending. Each of the three has its own table here, so any mixture of them is read:
kohya's endings on diffusers' layers, peft's on LDM's. The roles are `down`, `up`, `middle` and `alpha` of a low-rank
pair, `weight` and `bias` of a difference, and `base` for weights of the base that a training run has saved along.
What a file's spelling is called stands in the same rows, so that whatever can be read has a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..generations import SDXL
from .ldm_names import rename, unet_prefixes

Layout = tuple[tuple[bool, ...], int]
"""Which levels have transformers on the way down, and residual blocks per level: what LDM's block numbers depend on."""

STABLE_DIFFUSION: Layout = ((True, True, True, False), 2)


SPELLINGS = PEFT_WITH_BASE, PROCESSORS, COMFYUI, KOHYA, PEFT, DIFFUSERS, DIFFERENCES = (
    "peft with its base",
    "diffusers processors",
    "comfyui",
    "kohya",
    "peft",
    "diffusers",
    "differences",
)
"""Of several ways of naming that a file has in it the first of these is the file's, and any other comes after them."""


class Key(NamedTuple):
    """One key, read."""

    layer: str
    """The layer by its diffusers name."""
    role: str
    spellings: frozenset[str] = frozenset()
    """What the rows of its prefixes and of its ending call these; most have no name."""


PREFIXES: tuple[tuple[str, str], ...] = (
    ("base_model.model.", ""),
    ("model.diffusion_model.", COMFYUI),
    ("diffusion_model.", COMFYUI),
    ("unet.", ""),
    ("module.", ""),
)
UNDERSCORED: tuple[tuple[str, str], ...] = (("lora_unet_", KOHYA), ("lycoris_", KOHYA))
"""After these the layer's dots are underscores."""

TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(text_encoder(_\d)?\.|lora_te\d?_|cond_stage_model\.|text_model\.)")

ENDINGS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(rf"(.+?){ending}"), role, spelling)
    for ending, role, spelling in (
        (r"\.lora_down\.weight", "down", KOHYA),
        (r"\.lora_up\.weight", "up", KOHYA),
        (r"\.lora_mid\.weight", "middle", KOHYA),
        (r"\.alpha", "alpha", ""),
        (r"_lora\.down\.weight", "down", PROCESSORS),  # up to diffusers 0.20
        (r"_lora\.up\.weight", "up", PROCESSORS),
        (r"\.(?:lora|lora_layer|lora_linear_layer)\.down\.weight", "down", DIFFUSERS),  # since
        (r"\.(?:lora|lora_layer|lora_linear_layer)\.up\.weight", "up", DIFFUSERS),
        (r"\.lora_A(?:\.[^.]+)?\.weight", "down", PEFT),  # with or without the adapter's name
        (r"\.lora_B(?:\.[^.]+)?\.weight", "up", PEFT),
        (r"\.(?:diff|w_norm)", "weight", DIFFERENCES),  # by kohya, LyCORIS and ComfyUI
        (r"\.(?:diff_b|b_norm)", "bias", DIFFERENCES),
        (r"\.base_layer\.(?:weight|bias)", "base", PEFT_WITH_BASE),
        (r"\.(?:weight|bias)", "base", ""),
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
    "on_input": "IA3",
    "vera_lambda": "VeRA",
    "a1.weight": "GLoRA",
    "set_weight": "weight replacement",
    "reshape_weight": "weight reshaping",
}
"""Part of a key -> an adapter method that is none of ours."""

OTHERS = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"joint_blocks"), "Stable Diffusion 3"),
    (
        re.compile(
            r"^((base_model\.model\.)?transformer\.|(diffusion_model\.)?(blocks|layers)\.|diffusion_model\.transformer_blocks"
            r"|lora_unet_(blocks|layers|transformer_blocks)_|lora_transformer_)|[._](img|txt)_m(lp|od)|[._]add_[qkv]_proj"
        ),
        "a transformer without a UNet, such as Wan or Qwen-Image",
    ),
    (re.compile(r"lora_te2_|text_encoder_2\.|add_embedding|transformer_blocks[._][1-9]"), SDXL.title),
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
        for pattern, role, spelling in ENDINGS:
            match = pattern.fullmatch(key)
            if match:
                name, spellings = _strip_prefixes(match[1])
                layer = _layer_name(name, ldm)
                return Key(layer, role, spellings | {spelling} - {""}) if layer else None
        return None

    return read


def spelling_of(keys: Iterable[Key]) -> str:
    """What the way in which a file names its tensors is called, "" if nothing tells."""
    found = frozenset[str]().union(*(key.spellings for key in keys))
    return next((spelling for spelling in (*SPELLINGS, *sorted(found)) if spelling in found), "")


def _layer_name(text: str, ldm: dict[str, str]) -> str:
    """The diffusers name of a layer, "" if it is none."""
    name = text.replace(".processor.", ".")
    if BLOCKS.fullmatch(name):
        return f"{name}.0" if name.endswith(".to_out") else name
    return rename([name], ldm).get(name, "")


def _strip_prefixes(name: str) -> tuple[str, frozenset[str]]:
    """A layer, with dots, without any of the prefixes, however many are stacked; and the spellings that they tell."""
    for prefix, spelling in PREFIXES:
        if name.startswith(prefix):
            inner, spellings = _strip_prefixes(name[len(prefix) :])
            return inner, spellings | {spelling} - {""}
    for prefix, spelling in UNDERSCORED:
        if name.startswith(prefix):
            return _dotted(name[len(prefix) :]), frozenset({spelling})
    return name, frozenset()


def _dotted(name: str) -> str:
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


def adapts(keys: Iterable[str]) -> bool:
    """Whether any of these keys is one of an adapter, for whichever network and by whichever method."""
    return any(
        any(role not in ("base", "alpha") and pattern.fullmatch(key) for pattern, role, _ in ENDINGS)
        or any(f".{part}" in key for part in METHODS)
        for key in keys
    )
