"""Light: small stand-ins for the two halves of the VAE, and TAESD's, which users have already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Layers, Shapes, count
from .errors import UserError
from .generations import LATENT
from .image import CELL

Role = Literal["decoder", "encoder"]
ROLES: tuple[Role, ...] = get_args(Role)
LIMIT = 3.0
"""Latents are squeezed between plus and minus this, so that a stray one cannot spoil its surroundings."""


# The networks


class Block(nn.Module):
    """Residual unit of two 3x3 convolutions without norms, as super-resolution uses it (EDSR, Lim et al. 2017)."""

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.conv1 = layers.Conv2d(width, width, 3, padding=1)
        self.conv2 = layers.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Level(nn.Module):
    """Blocks at one size, after the convolution that leads to it from the size before."""

    def __init__(self, width: int, blocks: int, layers: Layers, resize: nn.Module | None) -> None:
        super().__init__()
        self.resize = nn.Identity() if resize is None else resize
        self.blocks = nn.ModuleList(Block(width, layers) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.resize(x)
        for block in self.blocks:
            x = block(x)
        return x


def packed(levels: int) -> int:
    """Pixels along one cell of the finest level: what doublings between levels leave of a latent cell's 8."""
    return CELL >> (levels - 1)


class LightDecoder(nn.Module):
    """Scaled latents (B, 4, h, w) -> picture (B, 1 or 3, 8h, 8w), of no fixed range.

    Blocks of one width at every level, nearest-neighbour doubling between levels; the last convolution makes all pixels
    of a cell of the finest level at once (sub-pixel convolution, Shi et al. 2016): full size is where arithmetic is
    dear and least is left to do.
    """

    def __init__(self, channels: int, width: int, blocks: tuple[int, ...], layers: Layers = nn) -> None:
        """blocks: of each level, the coarsest first."""
        super().__init__()
        self.pixels = packed(len(blocks))
        self.from_latent = layers.Conv2d(LATENT, width, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(width, number, layers, layers.Conv2d(width, width, 3, padding=1) if index else None)
            for index, number in enumerate(blocks)
        )
        self.to_picture = layers.Conv2d(width, channels * self.pixels**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.from_latent(squeezed(latent))
        for level in self.levels:
            if level is not self.levels[0]:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(x)
        return F.pixel_shuffle(self.to_picture(F.relu(x)), self.pixels)

    @classmethod
    def from_shapes(cls, shapes: Shapes, layers: Layers = nn) -> LightDecoder:
        blocks = _blocks_of(shapes)
        width, channels = shapes["from_latent.weight"][0], shapes["to_picture.weight"][0] // packed(len(blocks)) ** 2
        return cls(channels, width, blocks, layers)


class LightEncoder(nn.Module):
    """Picture (B, 3, H, W) in [-1, 1] -> scaled latents (B, 4, H // 8, W // 8); the decoder the other way round."""

    def __init__(self, width: int, blocks: tuple[int, ...], layers: Layers = nn) -> None:
        """blocks: of each level, the finest first."""
        super().__init__()
        self.pixels = packed(len(blocks))
        self.from_picture = layers.Conv2d(3 * self.pixels**2, width, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(width, number, layers, layers.Conv2d(width, width, 3, stride=2, padding=1) if index else None)
            for index, number in enumerate(blocks)
        )
        self.to_latent = layers.Conv2d(width, LATENT, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.from_picture(F.pixel_unshuffle(_whole_cells(picture), self.pixels))
        for level in self.levels:
            x = level(x)
        return self.to_latent(F.relu(x))

    @classmethod
    def from_shapes(cls, shapes: Shapes, layers: Layers = nn) -> LightEncoder:
        return cls(shapes["from_picture.weight"][0], _blocks_of(shapes), layers)


def squeezed(latent: Tensor) -> Tensor:
    return LIMIT * (latent / LIMIT).tanh()


def _whole_cells(picture: Tensor) -> Tensor:
    """Without the pixels at right and bottom that fill no latent cell: the full encoder has no latent for them."""
    height, width = (length // CELL * CELL for length in picture.shape[-2:])
    return picture[..., :height, :width]


def _blocks_of(shapes: Shapes) -> tuple[int, ...]:
    """How many blocks each level has."""
    blocks = []
    while number := count(shapes, f"levels.{len(blocks)}.blocks.{{}}.conv1.weight"):
        blocks.append(number)
    return tuple(blocks)


def untrained(role: Role, channels: int, width: int, blocks: tuple[int, ...]) -> LightDecoder | LightEncoder:
    """A network whose blocks begin as nothing, so that it needs no norms to begin well; blocks: the coarsest first."""
    made = LightDecoder(channels, width, blocks) if role == "decoder" else LightEncoder(width, blocks[::-1])
    for module in made.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    return made


# TAESD's networks, under their published names: the number of a module in the sequence that they were


class TaesdBlock(nn.Module):
    """Three 3x3 convolutions beside a way around them."""

    def __init__(self, inputs: int, width: int, layers: Layers) -> None:
        super().__init__()
        # numbers in between are of activations
        self.conv = nn.ModuleDict(
            {
                "0": layers.Conv2d(inputs, width, 3, padding=1),
                "2": layers.Conv2d(width, width, 3, padding=1),
                "4": layers.Conv2d(width, width, 3, padding=1),
            }
        )
        self.skip = layers.Conv2d(inputs, width, 1, bias=False) if inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.conv["2"](F.relu(self.conv["0"](x))))
        return F.relu(self.conv["4"](inner) + self.skip(x))


class Taesd(nn.Module):
    """One half of TAESD; a convolution without a bias is where the size changes."""

    def __init__(self, shapes: Shapes, layers: Layers, stride: int) -> None:
        """stride: of the convolutions that change the size."""
        super().__init__()
        self.resizing: set[str] = set()
        for number in sorted({int(name.split(".")[0]) for name in shapes}):
            self.add_module(str(number), self.made(str(number), shapes, layers, stride))

    def made(self, number: str, shapes: Shapes, layers: Layers, stride: int) -> nn.Module:
        if f"{number}.conv.0.weight" in shapes:
            width, inputs = shapes[f"{number}.conv.0.weight"][:2]
            return TaesdBlock(inputs, width, layers)
        width, inputs = shapes[f"{number}.weight"][:2]
        if f"{number}.bias" in shapes:
            return layers.Conv2d(inputs, width, 3, padding=1)
        self.resizing.add(number)
        return layers.Conv2d(inputs, width, 3, padding=1, stride=stride, bias=False)


class TaesdDecoder(Taesd):
    """Scaled latents -> pictures."""

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        super().__init__(shapes, layers, stride=1)

    def forward(self, latent: Tensor) -> Tensor:
        x, first = squeezed(latent), True
        for number, module in self.named_children():
            if number in self.resizing:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.relu(module(x)) if first else module(x)
            first = False
        return x * 2 - 1


class TaesdEncoder(Taesd):
    """Pictures -> scaled latents."""

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        super().__init__(shapes, layers, stride=2)

    def forward(self, picture: Tensor) -> Tensor:
        x = (_whole_cells(picture) + 1) / 2
        for module in self.children():
            x = module(x)
        return x


# Which of them some weights are


class Kind(NamedTuple):
    """One kind of light half."""

    role: Role
    telltale: str
    """A tensor that no other kind has."""
    build: Callable[[Shapes, Layers], nn.Module]
    ends: tuple[str, str]
    """Names of the tensors that read and make what it is between."""


KINDS = (
    Kind("decoder", "from_latent.weight", LightDecoder.from_shapes, ("from_latent.weight", "to_picture.weight")),
    Kind("encoder", "from_picture.weight", LightEncoder.from_shapes, ("from_picture.weight", "to_latent.weight")),
    Kind("decoder", "1.weight", TaesdDecoder, ("1.weight", "19.weight")),
    Kind("encoder", "0.weight", TaesdEncoder, ("0.weight", "14.weight")),
)


def light_kind(shapes: Shapes) -> Kind:
    """UserError for weights of anything else."""
    for kind in KINDS:
        if kind.telltale in shapes:
            return kind
    raise UserError("The weights are of no light decoder or encoder that this version knows: get them again.")


def build_light(shapes: Shapes, layers: Layers = nn) -> nn.Module:
    """The light half for weights of these shapes, still without them. UserError if they are none's."""
    kind = light_kind(shapes)
    missing = [name for name in kind.ends if name not in shapes]
    try:
        if missing:
            raise KeyError(missing[0])
        return kind.build(shapes, layers)
    except (KeyError, IndexError) as error:
        raise UserError(f"The weights of a light {kind.role} lack {error}: get them again.") from None


def decoder_channels(shapes: Shapes) -> int:
    """Of the pictures that a light decoder makes."""
    made = shapes[light_kind(shapes).ends[1]][0]
    return made // packed(len(_blocks_of(shapes))) ** 2 if "to_picture.weight" in shapes else made


# In place of the VAE's halves


# On disk
