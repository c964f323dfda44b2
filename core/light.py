"""Light: small stand-ins for the two halves of the VAE, and TAESD's, which users have already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .architecture import Shapes, VAEArchitecture, count
from .backbone import Autoencoder, Layers
from .fingerprint import Fingerprint, fingerprint, matches
from .image import CELL
from .pipeline import Perceiver
from .recipe import KEY, Recipe, from_header, to_header
from .weights import CheckpointError, Weights, header_object, network, pick_vae, read_metadata, shown, strip, unpickle

Role = Literal["decoder", "encoder"]
ROLES: tuple[Role, ...] = get_args(Role)
LIGHT_KEY = KEY.replace(".recipe", ".light")
"""Header field of a file that holds nothing but a light half."""
LATENTS_KEY = KEY.replace(".recipe", ".latents")
"""Header field: the fingerprint of the VAE between whose latents and pictures the file's light halves are."""
ALIKE = ("sd15", "sd21")
"""Bases whose VAEs make the same latents, which are TAESD's too. Any other has those of its own VAE."""
STABLE_DIFFUSION = VAEArchitecture((128, 256, 512, 512), 2)
"""The VAE that makes them."""
ENCODER = (
    "encoder.conv_in.weight",
    "encoder.down_blocks.0.resnets.0.conv1.weight",
    "encoder.down_blocks.1.resnets.0.conv2.weight",
    "encoder.down_blocks.2.downsamplers.0.conv.weight",
    "encoder.mid_block.resnets.1.conv2.weight",
    "encoder.conv_out.weight",
    "quant_conv.weight",
)
"""Enough of a VAE to tell whose latents are its own. Older files of light halves name three of these."""
LATENT = 4
SCALING_FACTOR = 0.18215
"""Of Stable Diffusion 1.x and 2.x, where no VAE is there to say it."""
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
        blocks = blocks_of(shapes)
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
        x = self.from_picture(F.pixel_unshuffle(whole_cells(picture), self.pixels))
        for level in self.levels:
            x = level(x)
        return self.to_latent(F.relu(x))

    @classmethod
    def from_shapes(cls, shapes: Shapes, layers: Layers = nn) -> LightEncoder:
        return cls(shapes["from_picture.weight"][0], blocks_of(shapes), layers)


def squeezed(latent: Tensor) -> Tensor:
    return LIMIT * (latent / LIMIT).tanh()


def whole_cells(picture: Tensor) -> Tensor:
    """Without the pixels at right and bottom that fill no latent cell: the full encoder has no latent for them."""
    height, width = (length // CELL * CELL for length in picture.shape[-2:])
    return picture[..., :height, :width]


def blocks_of(shapes: Shapes) -> tuple[int, ...]:
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
        x = (whole_cells(picture) + 1) / 2
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


def kind_of(shapes: Shapes) -> Kind:
    """ValueError for weights of anything else."""
    for kind in KINDS:
        if kind.telltale in shapes:
            return kind
    raise ValueError("The weights are of no light decoder or encoder that this version knows: get them again.")


def build_light(shapes: Shapes, layers: Layers = nn) -> nn.Module:
    """The light half for weights of these shapes, still without them. ValueError if they are none's."""
    kind = kind_of(shapes)
    missing = [name for name in kind.ends if name not in shapes]
    try:
        if missing:
            raise KeyError(missing[0])
        return kind.build(shapes, layers)
    except (KeyError, IndexError) as error:
        raise ValueError(f"The weights of a light {kind.role} lack {error}: get them again.") from None


def channels_of(shapes: Shapes) -> int:
    """Of the pictures that a light decoder makes."""
    made = shapes[kind_of(shapes).ends[1]][0]
    return made // packed(len(blocks_of(shapes))) ** 2 if "to_picture.weight" in shapes else made


# In place of the VAE's halves

Half = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Halves:
    """An Autoencoder of which a half or both are light."""

    full: Autoencoder | None
    """Whose halves stand where there is no light one."""
    light_encoder: Half | None = None
    light_decoder: Half | None = None

    @property
    def scaling_factor(self) -> float:
        return SCALING_FACTOR if self.full is None else self.full.scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        return (self.light_encoder or self.needs_full().encode)(image)

    def decode(self, latent: Tensor) -> Tensor:
        return (self.light_decoder or self.needs_full().decode)(latent)

    def needs_full(self) -> Autoencoder:
        """The VAE. ValueError where there is none."""
        if self.full is None:
            missing = "encoder" if self.light_encoder is None else "decoder"
            raise ValueError(
                f"The checkpoint brings no VAE of its own: connect one, or take a light {missing} as well."
            )
        return self.full


def with_light(perceiver: Perceiver, encoder: Half | None, decoder: Half | None) -> Perceiver:
    """With light halves in place of the VAE's; the same perceiver where there are none."""
    if encoder is None and decoder is None:
        return perceiver
    return replace(perceiver, autoencoder=Halves(perceiver.autoencoder, encoder, decoder))


def with_full(perceiver: Perceiver, full: Autoencoder) -> Perceiver:
    """With another VAE, light halves left as they are."""
    held = perceiver.autoencoder
    return replace(perceiver, autoencoder=replace(held, full=full) if isinstance(held, Halves) else full)


def eye_of(autoencoder: Autoencoder | None) -> object:
    """What encodes for it: the same object wherever one encode serves both."""
    if isinstance(autoencoder, Halves):
        return autoencoder.light_encoder or autoencoder.full
    return autoencoder


# On disk


@dataclass(frozen=True)
class Light:
    """A light half on disk."""

    role: Role
    name: str
    weights: Weights
    cost: str = ""
    """What it costs in the task's own metric; for people."""
    base: str = "sd21"
    """Whose latents it is for."""
    vae: Fingerprint = field(default_factory=dict)
    """Of the VAE that makes them, if the file says so."""


@dataclass(frozen=True)
class Held(Weights):
    """Weights that were read already."""

    tensors: Mapping[str, Tensor]

    def load(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *files: Path) -> Held:
        """Under the names that they have."""
        return cls(files, {name: name for name in tensors}, {n: tuple(t.shape) for n, t in tensors.items()}, tensors)


PICKLES = (".pth", ".pt", ".bin")
FULL, LIGHT = "full", "light"
"""The VAE's own half, or the light one that the checkpoint brings; anything else that is chosen is a file."""
TAESD = "taesd"
"""What TAESD's halves are called where they are stored."""


def own_light(path: Path, role: Role, recipe: Recipe) -> Weights | None:
    """The light half that a recipe names, from its file. CheckpointError if the file lacks it."""
    name = getattr(recipe, role)
    if not name:
        return None
    light = network((path,), lambda names: strip(names, f"{role}.{name}."))
    if not light.shapes:
        raise CheckpointError(
            f"{path.name} lacks the light {role} {name!r} that its recipe {recipe.id} names: export it again."
        )
    check_fits(light.shapes, role, recipe, path)
    return light


def chosen(role: Role, choice: str, recipe: Recipe, own: Weights | None, vae: Weights | None = None) -> Weights | None:
    """The light half that a person chose, None for the VAE's. CheckpointError if there is none.

    own: the one that came with the recipe. vae: the VAE in whose place it stands, where there is one.
    """
    if choice == FULL:
        return None
    if role == "decoder" and recipe.head:
        raise CheckpointError(f"{recipe.id} is decoded by its head {recipe.head}, not by the VAE: take {FULL}.")
    if choice != LIGHT:
        return open_light(Path(choice), role, recipe, vae).weights
    if own is None:
        raise CheckpointError(
            f"The checkpoint brings no light {role} for {recipe.id}: take {FULL}, or {TAESD.upper()}'s, or train one "
            f'(learn = "{role}").'
        )
    said = latents_in(own.path)
    if said and vae is not None:  # an adapter's base may have come with another VAE
        check_latents(Light(role, getattr(recipe, role), own, base=recipe.base, vae=said), recipe, vae)
    return own


def open_light(path: Path, role: Role, recipe: Recipe, vae: Weights | None = None) -> Light:
    """The light half for a recipe in a file of `train`, a checkpoint that has one, or a file of TAESD's.

    vae: the VAE in whose place it stands, where there is one. CheckpointError, in one sentence, if none is for it.
    """
    pickled = path.suffix in PICKLES
    metadata = {} if pickled else read_metadata(path)
    light = open_stored(path, role, recipe, metadata) if KEY in metadata else open_taesd(path, role, pickled)
    check_fits(light.weights.shapes, role, recipe, path)
    check_latents(light, recipe, vae)
    return light


def meant_for(path: Path, role: Role, recipe: Recipe) -> bool:
    """Whether a file holds a light half for this very recipe; TAESD's are anybody's."""
    metadata = {} if path.suffix in PICKLES else read_metadata(path)
    if KEY not in metadata:
        return True
    return any(held.id == recipe.id and getattr(held, role) for held in from_header(metadata, path.name))


def open_stored(path: Path, role: Role, recipe: Recipe, metadata: dict[str, str]) -> Light:
    """From one of the project's own files: what the recipe of the same id names there, else the only one."""
    try:
        recipes = {held.id: held for held in from_header(metadata, path.name)}
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    named = [held for held in (recipes.get(recipe.id), *recipes.values()) if held and getattr(held, role)]
    names = list(dict.fromkeys(getattr(held, role) for held in named))
    if not names or (len(names) > 1 and recipe.id not in recipes):
        held = f"those of {', '.join(names)}" if names else f"no light {role}"
        raise CheckpointError(f"{shown(path)} holds {held}, none for {recipe.id}: train one, or name another file.")
    weights = own_light(path, role, named[0])
    assert weights is not None
    cost = getattr(named[0], f"{role}_cost") if recipe.id in recipes else ""
    return Light(role, names[0], weights, cost, named[0].base, latents_in(path))


def open_taesd(path: Path, role: Role, pickled: bool) -> Light:
    """From a file as ComfyUI or diffusers keep it."""
    if path.name.startswith("taesdxl"):
        raise CheckpointError(f"{path.name} is for the latents of SDXL: take TAESD's own, taesd_{role}.")
    tensors = unpickle(path) if pickled else network((path,), lambda names: {name: name for name in names}).load()
    return Light(role, TAESD, Held.of(renamed(tensors, role), path))


def renamed(tensors: Mapping[str, Tensor], role: Role) -> dict[str, Tensor]:
    """One half under its published names. diffusers keeps both in one file, and the decoder without its first module,
    which has no weights; ComfyUI's VAE says which half it is."""
    for prefix, moved in ((f"{role}.layers.", 1 if role == "decoder" else 0), (f"{TAESD}_{role}.", 0)):
        inner = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if inner:
            return {shifted(name, moved): tensor for name, tensor in inner.items()}
    return dict(tensors)


def shifted(name: str, by: int) -> str:
    number, _, rest = name.partition(".")
    return f"{int(number) + by}.{rest}"


def check_fits(shapes: Shapes, role: Role, recipe: Recipe, path: Path) -> None:
    """CheckpointError unless it is a light half of this role, for latents of four channels and the task's pictures."""
    try:
        kind = kind_of(shapes)
        with torch.device("meta"):
            build_light(shapes)
    except ValueError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from None
    if kind.role != role:
        raise CheckpointError(f"{shown(path)} holds a light {kind.role}, not a light {role}: give it as that.")
    first, last = (shapes[name] for name in kind.ends)
    latent = first[1] if role == "decoder" else last[0]
    if latent != LATENT:
        raise CheckpointError(f"{shown(path)} is for latents of {latent} channels; Stable Diffusion 1.x and 2.x has 4.")
    if role == "decoder" and channels_of(shapes) < recipe.channels:
        raise CheckpointError(
            f"{shown(path)} holds a light decoder of {channels_of(shapes)} channel; "
            f"{recipe.id} needs {recipe.channels}: train one for it."
        )


def check_latents(light: Light, recipe: Recipe, vae: Weights | None) -> None:
    """CheckpointError unless a light half is for the latents that a recipe's network perceives.

    vae: that makes them, where it is known. What is said of none is trusted on Stable Diffusion, which has one.
    """
    if recipe.base in ALIKE and (light.base in ALIKE or not light.vae):
        return
    known = latents_of(vae)
    if matches(light.vae, known):
        return
    if light.base in ALIKE:
        meant = "latents of Stable Diffusion 1.x and 2.x"
    else:
        meant = "latents of the VAE it was trained with" if light.vae else "latents of a VAE that it does not name"
    if recipe.base in ALIKE:
        wanted = "those of Stable Diffusion 1.x and 2.x"
    else:
        wanted = "those of its own VAE, which is another" if known else "those of a VAE that did not come with it"
    raise CheckpointError(
        f"{shown(light.weights.path)} is for {meant}; {recipe.id} perceives {wanted}: take the VAE's own "
        f'{light.role}, or train a light one for it (learn = "{light.role}").'
    )


def latents_of(vae: Weights | None) -> Fingerprint:
    """What tells the latents of a VAE from those of others; empty where there is none. Little of it is read."""
    if vae is None:
        return {}
    # a host's are under LDM's names
    wanted = {name: new for name, new in pick_vae(list(vae.shapes)).items() if new in ENCODER}
    tensors = replace(vae, names={old: name for old, name in vae.names.items() if name in wanted}).load()
    return fingerprint({new: tensors[name] for name, new in wanted.items()}.__getitem__, ENCODER)


def latents_in(path: Path) -> Fingerprint:
    """The same of the VAE that one of the project's files names for its light halves, or holds; empty if neither."""
    metadata = read_metadata(path)
    if LATENTS_KEY not in metadata:
        return latents_of(network((path,), lambda names: strip(names, "vae.")))
    return header_object(metadata, LATENTS_KEY, path)


def latents_note(vae: Weights | None) -> dict[str, str]:
    """The header field that says whose latents a file's light halves are for; nothing where that is not known."""
    known = latents_of(vae)
    return {LATENTS_KEY: json.dumps(known)} if known else {}


Stored = Mapping[Role, Mapping[str, Mapping[str, Tensor]]]
"""{role: {name: tensors}}"""


def write_light(path: Path, light: Stored, recipes: list[Recipe], about: Mapping[str, str]) -> None:
    """A file of light halves alone. recipes: those that name them; about: further header fields."""
    header = {**to_header(recipes), LIGHT_KEY: json.dumps(sorted(light)), "format": "pt", **about}
    save_file({name: tensor.detach().contiguous() for name, tensor in named(light).items()}, path, metadata=header)


def named(light: Stored) -> dict[str, Tensor]:
    """{name in the project's file: tensor}."""
    return {
        f"{role}.{name}.{key}": tensor
        for role, held in light.items()
        for name, tensors in held.items()
        for key, tensor in tensors.items()
    }
