"""Architecture: the shape of a Stable Diffusion UNet or VAE, read from its config or from its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..backbone import Shapes, count
from ..errors import UserError
from ..generations import (
    CUSTOM,
    GENERATIONS,
    LATENT,
    SD_LATENTS,
    SDXL,
    STRANGERS,
    LatentSpace,
    base_of,
    heads_by_rule,
)


class Shaped(Protocol):
    """A tensor, or a lazy slice of one, of which only the shape is asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class UNetArchitecture:
    """A UNet2DConditionModel of the SD 1.x / 2.x kind."""

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    """Channels of each level."""
    layers: int
    """Residual blocks per level on the way down; one more on the way up."""
    attention: tuple[bool, ...]
    """Which levels have transformers, on the way down."""
    heads: tuple[int, ...]
    """Attention heads of each level. They cannot be read from weights."""
    context_dim: int
    linear_projection: bool
    """SD2 projects into its transformers by a Linear, SD1 by a 1x1 convolution."""
    vector_dim: int | None = None
    """Width of the class embedding's input, if the network has one."""
    fourier: bool = False
    """Whether a core.fourier.FourierBlock stands behind its mid block."""

    @classmethod
    def from_weights(cls, shapes: Shapes) -> UNetArchitecture:
        """Read from weight shapes; heads by the rule of the generation.

        UserError, without a full stop, if they are no SD UNet's.
        """
        _check_is_sd_unet(shapes)
        levels = count(shapes, "down_blocks.{}.resnets.0.conv1.weight")
        widths = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        attention = tuple(f"down_blocks.{i}.attentions.0.norm.weight" in shapes for i in range(levels))
        linear = len(shapes["mid_block.attentions.0.proj_in.weight"]) == 2
        context_dim = shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1]
        return cls(
            in_channels=shapes["conv_in.weight"][1],
            out_channels=shapes["conv_out.weight"][0] if "conv_out.weight" in shapes else LATENT,
            widths=widths,
            layers=count(shapes, "down_blocks.0.resnets.{}.conv1.weight"),
            attention=attention,
            heads=heads_by_rule(context_dim, linear, widths),
            context_dim=context_dim,
            linear_projection=linear,
            vector_dim=shapes.get("class_embedding.linear_1.weight", (0, None))[1],
            fourier=any(name.startswith("fftblock.") for name in shapes),
        )

    def with_config(self, config: Mapping[str, Any]) -> UNetArchitecture:
        """With the head counts that a diffusers config.json states. UserError for a config of another kind of UNet."""
        for field, usual in STABLE_DIFFUSION.items():
            if config.get(field, usual) not in (usual, [usual] * len(self.widths)):
                raise UserError(f"its config says {field}={config[field]!r}; Stable Diffusion UNets have {usual!r}")
        if config.get(FOURIER) and not self.fourier:
            raise UserError("its config says that it has a Fourier block, but no fftblock.* is among its weights")
        stated = config.get("num_attention_heads") or config.get("attention_head_dim")
        if stated is None:
            return self
        # diffusers calls the number of heads attention_head_dim: a name it keeps for old files
        heads = tuple(stated) if isinstance(stated, list | tuple) else (stated,) * len(self.widths)
        counted = len(heads) == len(self.widths) and all(type(count) is int and count > 0 for count in heads)
        if not counted or any(width % count for width, count in zip(self.widths, heads)):
            raise UserError(f"its config says {heads} attention heads, which do not divide the widths {self.widths}")
        return replace(self, heads=heads)

    def config(self) -> dict[str, Any]:
        """The diffusers config of this network, and whether it has a Fourier block, of which diffusers knows none."""
        down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in self.attention]
        up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(self.attention)]
        config = {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": list(self.widths),
            "layers_per_block": self.layers,
            "down_block_types": down,
            "up_block_types": up,
            "attention_head_dim": list(self.heads),
            "cross_attention_dim": self.context_dim,
            "use_linear_projection": self.linear_projection,
        }
        if self.vector_dim:
            config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": self.vector_dim}
        return config | ({FOURIER: True} if self.fourier else {})

    @property
    def base(self) -> str:
        """The Stable Diffusion generation by its text width."""
        return base_of(self.context_dim)


FOURIER = "fourier_block"
"""What the project's own files call it in a UNet's config."""

STABLE_DIFFUSION = {
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
}
"""What a config.json may state and weights do not show; every Stable Diffusion UNet has the same."""


@dataclass(frozen=True)
class VAEArchitecture:
    """An AutoencoderKL of the Stable Diffusion kind."""

    widths: tuple[int, ...]
    layers: int
    """Residual blocks per level of the encoder; one more in the decoder."""
    scaling_factor: float = SD_LATENTS.scaling_factor
    latent_channels: int = LATENT

    @classmethod
    def from_weights(cls, shapes: Shapes, latents: LatentSpace = SD_LATENTS) -> VAEArchitecture:
        """Read from diffusers weight shapes; what these do not show is as in that latent space.

        UserError, without a full stop, if it is no KL autoencoder with as many latent channels.
        """
        latent = shapes.get("post_quant_conv.weight", (0, 0))[1]
        if "encoder.conv_in.weight" not in shapes or latent != latents.channels:
            raise UserError(
                f"expected a Stable Diffusion VAE with {latents.channels} latent channels, found {latent or 'none'}"
            )
        levels = count(shapes, "encoder.down_blocks.{}.resnets.0.conv1.weight")
        widths = tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        layers = count(shapes, "encoder.down_blocks.0.resnets.{}.conv1.weight")
        return cls(widths, layers, latents.scaling_factor, latents.channels)

    @classmethod
    def usual(cls, latents: LatentSpace) -> VAEArchitecture:
        """The one that comes with models whose latents these are."""
        return cls(latents.widths, latents.layers, latents.scaling_factor, latents.channels)

    @property
    def base(self) -> str:
        """The last generation of which it is the usual VAE; earlier ones may share it."""
        usual = (row.name for row in reversed(GENERATIONS.values()) if self.usual(row.latents) == self)
        return next(usual, CUSTOM)

    def with_config(self, config: Mapping[str, Any]) -> VAEArchitecture:
        """With the scaling factor that a config.json states. UserError for SDXL's, which has the same shapes."""
        for row in STRANGERS:
            if config.get("scaling_factor") == row.scaling_factor:
                raise UserError(f"it is the VAE of {row.title}; expected one of Stable Diffusion 1.x or 2.x")
        factor = config.get("scaling_factor") or self.scaling_factor
        if not isinstance(factor, float | int) or not 0 < factor < math.inf:
            raise UserError(f"its config says scaling_factor={factor!r}; expected a number above 0")
        return replace(self, scaling_factor=factor)

    def config(self) -> dict[str, Any]:
        """The diffusers config of this network."""
        levels = len(self.widths)
        return {
            "block_out_channels": list(self.widths),
            "layers_per_block": self.layers,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "latent_channels": self.latent_channels,
            "scaling_factor": self.scaling_factor,
        }


NEEDED = (
    "conv_in.weight",
    "down_blocks.0.resnets.0.conv1.weight",
    "mid_block.attentions.0.proj_in.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
)


def _check_is_sd_unet(shapes: Shapes) -> None:
    """UserError that says what the weights are instead."""
    if "add_embedding.linear_1.weight" in shapes or any(".transformer_blocks.1." in key for key in shapes):
        raise UserError(f"it holds an {SDXL.title} UNet; this version runs SD 1.x and SD 2.x UNets")
    if any(".base_layer." in key for key in shapes):
        raise UserError("it holds a LoRA and its base as peft wraps them; give it as an adapter, with the base apart")
    missing = [key for key in NEEDED if len(shapes.get(key, ())) < 2]
    if missing:
        found = f"{missing[0]} is not among its {len(shapes)} tensors" if shapes else "it holds none"
        raise UserError(f"expected the weights of a Stable Diffusion UNet, but {found}")
