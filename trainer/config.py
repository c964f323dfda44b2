"""Config: everything that a training run can be told, as frozen dataclasses; a field is the TOML key and the flag."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tomlkit

from ..core.errors import UserError, meant
from ..core.tasks import TASKS
from ..core.texts import read_text
from .presets import PRESETS
from .recipes.preset import Preset, under

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class ConfigError(UserError):
    """A run that cannot be understood, in one sentence."""


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value:g} is outside {low:g}..{high:g}.")


def _check_size(size: tuple[int, ...], of: str = "") -> None:
    if len(size) != 2 or any(length < 32 or length % 8 for length in size):
        raise ConfigError(f"size = {list(size)}{of}: height and width must be multiples of 8, and at least 32.")


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """ConfigError that names the nearest right one."""
    known = list(known)
    if name not in known:
        raise ConfigError(f"There is no {what} {name!r}: {meant(name, known, 'take one of {known}.')}")


@dataclass(frozen=True)
class Base:
    """The Stable Diffusion model that training starts from."""

    path: Annotated[str, "folder in diffusers layout, or the single file of an SD1.x or SD2.x checkpoint"] = ""
    architecture: Annotated[str, "an untrained UNet of this shape in place of the base's"] = ""
    widths: Annotated[tuple[int, ...], "of an untrained UNet: channels of its four levels"] = ()
    layers: Annotated[int, "of an untrained UNet with `widths`: residual blocks per level"] = 2
    head_dim: Annotated[int, "of an untrained UNet with `widths`: channels of one attention head"] = 64
    context_dim: Annotated[int, "of an untrained UNet with `widths`: width of its text tokens"] = 256
    vae: Annotated[str, "VAE in place of the base's own: folder or file"] = ""
    context: Annotated[str, "text embedding FILE[:KEY] in place of the empty prompt's"] = ""


@dataclass(frozen=True)
class Source:
    """Pictures with truth."""

    root: Annotated[str, "folder of the dataset"]
    reader: Annotated[str, "how it lies on disk, a row of trainer.data.published.DATASETS"] = "folder"
    tasks: Annotated[tuple[str, ...], "what it teaches; every task of the run if left out"] = ()
    weight: Annotated[float, "how often it is drawn, relative to the other datasets of its task"] = 1.0
    size: Annotated[
        tuple[int, ...], "height and width of its pictures, the run's if left out; a batch is of one dataset"
    ] = ()
    crop: Annotated[
        tuple[int, ...], "height and width, in a picture's own pixels, of a window cut out of it first"
    ] = ()
    crop_at: Annotated[
        Literal["middle", "bottom"], "where the window lies, always halfway across; KITTI's lies at the bottom"
    ] = "middle"
    captions: Annotated[
        str, "FILE in root, or its path, with a text for each picture: `file name<TAB>text` a line, or DMP's .jsonl"
    ] = ""
    settings: Annotated[dict[str, Any], "further settings of the reader"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"weight = {self.weight:g} of {self.root} is not above 0.")
        if self.size:
            _check_size(self.size, f" of {self.root}")
        if self.crop and (len(self.crop) != 2 or min(self.crop) < 1):
            raise ConfigError(f"crop = {list(self.crop)} of {self.root}: give height and width in pixels.")


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    loss: Annotated[
        Literal["latent", "pixel", "both"],
        "between latents, between pictures through the frozen decoder (or the head), or the sum of both",
    ] = "latent"
    latent_loss: Annotated[Literal["mse", "l1"], "between latents, over cells all of whose pixels are valid"] = "mse"
    pixel_losses: Annotated[
        dict[str, Any],
        "{task: losses between pictures}, each NAME or NAME:FACTOR of core.measure.losses; a task's own if left out",
    ] = field(default_factory=dict)
    task_weights: Annotated[dict[str, float], "{task: what its loss is multiplied by}, 1 if left out"] = field(
        default_factory=dict
    )
    timesteps: Annotated[
        Literal["random", "fixed", "final"], "what the network is told: any of 0..999, the recipe's timestep, or 999"
    ] = "random"
    sample_latents: Annotated[bool, "draw latents from the VAE's posterior, as DMP does; otherwise its mean"] = False
    noise: Annotated[Literal["gaussian", "pyramid"], "of the stochastic paradigm; pyramid has several resolutions"] = (
        "pyramid"
    )
    pyramid_strength: Annotated[float, "of each coarser resolution of pyramid noise"] = 0.9
    annealed: Annotated[bool, "pyramid noise grows with the timestep, so that the last steps see plain noise"] = True


@dataclass(frozen=True)
class Network:
    """What is trained."""

    unet: Annotated[Literal["full", "lora", "frozen"], "which of the UNet's weights learn"] = "full"
    rank: Annotated[int, "of LoRA"] = 16
    alpha: Annotated[float, "of LoRA; 0 is the rank"] = 0.0
    lora_layers: Annotated[tuple[str, ...], "of LoRA: endings of layers' diffusers names"] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    )
    whole: Annotated[
        tuple[str, ...], "layers trained whole beside LoRA, such as conv_in; names or their beginnings"
    ] = ()
    head: Annotated[
        str,
        "decode UNet features by this head, not the VAE: a row of core.heads.table, such as dpt_head_identity for "
        "distances and upernet for classes",
    ] = ""
    head_width: Annotated[int, "channels inside the head"] = 256
    decoder: Annotated[bool, "train the VAE's decoder as well"] = False
    encoder: Annotated[bool, "train the VAE's encoder as well, to show the UNet what it needs; of loss = pixel"] = False
    learn_context: Annotated[
        Literal["auto", "yes", "no"], "learn a context for each task; auto does where there are several tasks"
    ] = "auto"
    tokens: Annotated[int, "length of the context"] = 2
    checkpointing: Annotated[
        bool, "compute activations twice instead of keeping them: less memory, a third more time"
    ] = False
    frozen_precision: Annotated[
        Literal["fp32", "fp16", "bf16"], "of networks that do not learn: the VAE, and the UNet under LoRA"
    ] = "fp32"

    def __post_init__(self) -> None:
        _check_range("rank", self.rank, 1, 4096)
        _check_range("tokens", self.tokens, 1, 77)
        _check_range("head_width", self.head_width, 8, 4096)


@dataclass(frozen=True)
class Autoencoder:
    """The VAE that is trained where learn = "vae"."""

    vae_widths: Annotated[
        tuple[int, ...],
        "channels of its levels, multiples of 32; at 32 each is a norm group of its own, which forgets flat colours",
    ] = (64, 64, 128, 128)
    vae_layers: Annotated[int, "residual blocks per level"] = 1
    l1: Annotated[float, "factor of the absolute difference"] = 1.0
    gradient: Annotated[float, "factor of the difference of gradients, which keeps edges"] = 0.5
    kl: Annotated[float, "factor of the divergence of latents from a normal distribution, per latent value"] = 1e-4

    def __post_init__(self) -> None:
        if len(self.vae_widths) != 4 or any(width < 32 or width % 32 for width in self.vae_widths):
            raise ConfigError(f"autoencoder.vae_widths = {list(self.vae_widths)}: give four, multiples of 32.")
        _check_range("vae_layers", self.vae_layers, 1, 8)
        for name in ("l1", "gradient", "kl"):
            _check_range(name, getattr(self, name), 0, 1e6)


@dataclass(frozen=True)
class Distillation:
    """The light half of a VAE that is trained where learn = "decoder" or "encoder"."""

    light_name: Annotated[str, "under which a checkpoint's file keeps it; the first task's if left out"] = ""
    light_width: Annotated[int, "channels of all its blocks"] = 64
    light_blocks: Annotated[tuple[int, ...], "of each level, the coarsest first"] = (4, 4, 3)
    adapter: Annotated[str, "adapter on base.path, where that is no perception checkpoint by itself"] = ""
    predicted: Annotated[
        float, "share of a decoder's latents that the checkpoint's UNet predicts; the others are encoded targets"
    ] = 0.5
    light_l1: Annotated[float, "factor of the absolute difference to what the VAE's half gives"] = 1.0
    light_gradient: Annotated[float, "factor of the difference of gradients, which keeps edges"] = 0.5
    outcome: Annotated[float, "of an encoder: factor of the difference in what the UNet then predicts"] = 0.0

    def __post_init__(self) -> None:
        if "." in self.light_name:
            raise ConfigError(f"light.light_name = {self.light_name!r}: leave the dot out, which parts names in files.")
        _check_range("light_width", self.light_width, 8, 1024)
        _check_range("predicted", self.predicted, 0, 1)
        if not 1 <= len(self.light_blocks) <= 4 or min(self.light_blocks) < 1:
            raise ConfigError(f"light.light_blocks = {list(self.light_blocks)}: give one to four numbers from 1 on.")
        for name in ("light_l1", "light_gradient", "outcome"):
            _check_range(name, getattr(self, name), 0, 1e6)


@dataclass(frozen=True)
class Optimiser:
    """How weights move."""

    name: Annotated[Literal["adamw", "adam", "adamw8bit"], "adamw8bit needs the package bitsandbytes"] = "adamw"
    lr: Annotated[float, "peak learning rate"] = 3e-5
    decoder_lr: Annotated[float, "of the head or the VAE's decoder; 0 is lr"] = 0.0
    context_lr: Annotated[float, "of learnt contexts; 0 is lr"] = 0.0
    betas: Annotated[tuple[float, float], "decay of the moments"] = (0.9, 0.999)
    weight_decay: Annotated[float, "decoupled for adamw; learnt contexts, norms and biases have none"] = 0.0
    eps: Annotated[float, "added to the root of the second moment"] = 1e-8
    max_norm: Annotated[float, "gradients are scaled down to this norm; 0 leaves them"] = 0.0
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "exponential"], "of the learning rate after warm-up"
    ] = "constant"
    warmup: Annotated[int, "optimiser steps over which the rate rises from 0"] = 0
    decay_steps: Annotated[int, "optimiser step at which the rate reaches its last value; 0 is the last step"] = 0
    final_ratio: Annotated[float, "the last learning rate, as a share of lr"] = 0.0
    ema: Annotated[float, "decay of the exponential moving average that is saved and validated; 0 is off"] = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"optimiser.{name} = {getattr(self, name):g} is not above 0.")
        for name in ("decoder_lr", "context_lr", "weight_decay", "max_norm"):
            _check_range(name, getattr(self, name), 0, 1e6)
        for name in ("warmup", "decay_steps"):
            _check_range(name, getattr(self, name), 0, 10**9)
        for beta in self.betas:
            _check_range("betas", beta, 0, 1 - 1e-9)
        _check_range("ema", self.ema, 0, 1)
        _check_range("final_ratio", self.final_ratio, 0, 1)


@dataclass(frozen=True)
class Config:
    """Fine-tune a Stable Diffusion UNet into a predictor of dense maps."""

    out: Annotated[str, "folder for checkpoints, samples and logs"] = "run"
    preset: Annotated[str, "start from a published recipe, by its name; `train --presets` lists them"] = ""
    learn: Annotated[
        Literal["perception", "vae", "decoder", "encoder"],
        "a predictor, the VAE that it will need, or a light half of that VAE for a predictor",
    ] = "perception"
    tasks: Annotated[tuple[str, ...], f"what to learn: of {', '.join(TASKS)}"] = ()
    size: Annotated[tuple[int, int], "height and width of pictures, multiples of 8; a flag says 512,512"] = (512, 512)
    steps: Annotated[int, "optimiser steps"] = 10_000
    batch_size: Annotated[int, "pictures a process looks at at once"] = 1
    accumulation: Annotated[
        int,
        "batches a process adds up before each optimiser step; as many as there are tasks shows each step all of them",
    ] = 1
    turns: Annotated[dict[str, int], "{task: how many batches it has in every round of all tasks}, 1 if left out"] = (
        field(default_factory=dict)
    )
    precision: Annotated[
        Literal["no", "fp16", "bf16", "fp64"], "of the forward pass; fp64 keeps the weights in it too, for checks"
    ] = "no"
    seed: Annotated[int, "of weights, data order, timesteps and noise"] = 0
    device: Annotated[Literal["", "cpu", "cuda", "mps"], "the best there is if left out"] = ""
    workers: Annotated[int, "processes that read pictures beside the training one"] = 2
    cache_latents: Annotated[
        bool, "encode each picture once and keep its latent on disk; only flips are then augmented"
    ] = False
    estimate: Annotated[bool, "say after the first step what memory it took at most"] = True
    resume: Annotated[bool, "go on from the last state in `out`; false starts anew"] = True
    save_every: Annotated[int, "optimiser steps between saved states"] = 500
    validate_every: Annotated[int, "optimiser steps between validations; 0 only at the end"] = 500
    validate_first: Annotated[bool, "measure before the first step too: what the base can do already"] = False
    validation_share: Annotated[
        float, "of the data that is held out to measure on, where no [[validation]] is; whole folders of pictures"
    ] = 0.0
    patience: Annotated[int, "validations in a row that may be no better than the best before the run ends; 0: all"] = 0
    keep_states: Annotated[int, "last states that are kept, in states/, beside the one to go on from"] = 0
    validation_images: Annotated[int, "pictures of each task that a validation looks at; 0 is all"] = 100
    samples: Annotated[int, "sample pictures of each task per validation"] = 4
    log_every: Annotated[int, "optimiser steps between lines of the log"] = 10
    trackers: Annotated[
        tuple[str, ...], "who is told the log's numbers too: tensorboard (where it is installed), wandb, mlflow"
    ] = ("tensorboard",)
    save_precision: Annotated[Literal["fp32", "fp16", "bf16"], "of the weights in the file"] = "fp32"
    licence: Annotated[str, "of the weights, written into the file"] = ""
    title: Annotated[str, "of the weights, written into the file"] = ""
    base: Annotated[Base, "the model that training starts from"] = field(default_factory=Base)
    objective: Annotated[Objective, "what is minimised"] = field(default_factory=Objective)
    network: Annotated[Network, "what is trained"] = field(default_factory=Network)
    optimiser: Annotated[Optimiser, "how weights move"] = field(default_factory=Optimiser)
    augment: Annotated[dict[str, Any], "fields of trainer.data.augment.Augmentation"] = field(
        default_factory=lambda: {"flip": 0.5}
    )
    target: Annotated[dict[str, Any], "fields of trainer.data.targets.TargetOptions; [target.TASK] for one task"] = (
        field(default_factory=dict)
    )
    autoencoder: Annotated[Autoencoder, "the VAE that is trained"] = field(default_factory=Autoencoder)
    light: Annotated[Distillation, "the light half of a VAE that is trained"] = field(default_factory=Distillation)
    recipe: Annotated[dict[str, Any], "fields of core.recipe.Recipe for every task; [recipe.TASK] for one"] = field(
        default_factory=dict
    )
    data: Annotated[tuple[Source, ...], "[[data]]: what to learn from"] = ()
    validation: Annotated[tuple[Source, ...], "[[validation]]: what to measure on"] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "save_every", "log_every"):
            _check_range(name, getattr(self, name), 1, 10**9)
        for name in ("workers", "validate_every", "validation_images", "samples", "patience", "keep_states"):
            _check_range(name, getattr(self, name), 0, 10**9)
        _check_range("validation_share", self.validation_share, 0, 0.9)
        _check_range("seed", self.seed, 0, 2**31 - 1)
        _check_size(self.size)
        for task in (*self.tasks, *self.turns, *self.objective.pixel_losses, *self.objective.task_weights):
            check_known("task", task, TASKS)
        for task, count in self.turns.items():
            _check_range(f"turns.{task}", count, 1, 1000)
        for source in (*self.data, *self.validation):
            for task in source.tasks:
                check_known(f"task of {source.root}", task, TASKS)

    @property
    def learns_context(self) -> bool:
        several = self.network.learn_context == "auto" and len(self.tasks) > 1
        return several or self.network.learn_context == "yes"

    def sources(self, task: str, validation: bool = False) -> list[Source]:
        """Those that teach a task."""
        listed = self.validation if validation else self.data
        return [source for source in listed if task in (source.tasks or self.tasks)]

    @property
    def is_measured(self) -> bool:
        """Whether anything is held out."""
        return bool(self.validation) or self.validation_share > 0

    @property
    def share_held_out(self) -> float:
        """Of [[data]]."""
        return 0.0 if self.validation else self.validation_share

    def size_of(self, source: Source) -> tuple[int, int]:
        """(H, W) of a dataset's pictures as they are learnt."""
        height, width = source.size or self.size
        return height, width

    def recipe_fields(self, task: str) -> dict[str, Any]:
        """What the config says about a task's recipe: its own table over the common one."""
        return _for_task(self.recipe, task)

    def target_fields(self, task: str) -> dict[str, Any]:
        """What it says about a task's targets, likewise."""
        return _for_task(self.target, task)


def _for_task(table: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The common keys of a table, under those of the task's own."""
    common = {name: value for name, value in table.items() if name not in TASKS}
    return {**common, **table.get(task, {})}


# From tables


def read(path: Path | None, flags: Mapping[str, Any] | None = None) -> Config:
    """The config in a TOML file, over those of its preset, under the flags {dotted key: value or text}. ConfigError."""
    table = parse_toml(path) if path else {}
    for key, text in (flags or {}).items():
        place(table, key, text)
    preset = str(table.get("preset", ""))
    if preset:
        check_known("preset", preset, PRESETS)
        table = _laid_under(PRESETS[preset], table)
    return build(Config, table, "")


def _laid_under(preset: Preset, table: Mapping[str, Any]) -> dict[str, Any]:
    """A config's table over what its preset says, of its datasets too."""
    datasets = {name: under(table[name], preset.data) for name in ("data", "validation") if name in table}
    return merged(preset.settings, {**table, **datasets})


def parse_toml(path: Path) -> dict[str, Any]:
    """ConfigError if it is missing or no TOML."""
    if not path.is_file():
        raise ConfigError(f"There is no config {path}: check the path.")
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # of bytes, numbers too long, brackets too deep
        raise ConfigError(f"{path} is not TOML ({error}).") from None


def place(table: dict[str, Any], key: str, value: Any) -> None:
    """table["a"]["b"] = value for the key a.b."""
    *sections, last = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{section} is {table!r}: expected a table, [{section}].")
    table[last] = value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other, key by key."""
    both = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = merged(both[key], value) if nested else value
    return both


def build(cls: type, table: Any, where: str) -> Any:
    """The dataclass that a table says. ConfigError for what it does not know, or cannot be."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}: expected a table, [{where}].")
    hints = get_type_hints(cls)
    for key in table:
        _check_key(key, hints, where)
    missing = [row.name for row in fields(cls) if _is_needed(row) and row.name not in table]
    if missing:
        raise ConfigError(f"{where} lacks {missing[0]}.")
    values = {key: _typed(hints[key], value, f"{where}.{key}" if where else key) for key, value in table.items()}
    return cls(**values)


def _check_key(key: str, known: Iterable[str], where: str) -> None:
    """ConfigError that names the nearest right key of the section, or the section in which there is such a key."""
    if key in (known := list(known)):
        return
    section = f"{where}." if where else ""
    elsewhere = [other for other, *_ in leaves() if other.rpartition(".")[2] == key]
    if elsewhere:
        raise ConfigError(f"There is no key '{section}{key}': did you mean {elsewhere[0]!r}?")
    check_known("key", f"{section}{key}", [f"{section}{name}" for name in known])


def _is_needed(row: Field[Any]) -> bool:
    return row.default is MISSING and row.default_factory is MISSING


def _typed(hint: Any, value: Any, where: str) -> Any:
    """The value as its field's type; flags come as text. ConfigError if it is of another."""
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{where} = {value!r} is not one of {', '.join(map(repr, inner))}.")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}: expected a table.")
        return {key: _typed(inner[1], held, f"{where}.{key}") for key, held in value.items()}
    if origin is tuple:
        return _typed_tuple(inner, value, where)
    if origin in (Union, UnionType):
        return None if value is None else _typed(next(kind for kind in inner if kind is not type(None)), value, where)
    return value if hint is Any else _scalar(hint, value, where)


def _typed_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} = {value!r}: expected a list.")
    kinds = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} = {list(value)!r}: expected {len(kinds)} values.")
    return tuple(_typed(kind, held, f"{where}.{i}") for i, (kind, held) in enumerate(zip(kinds, value)))


WORDS = {"true": True, "false": False}


def _scalar(hint: type, value: Any, where: str) -> Any:
    """A number, a truth value or a text."""
    if isinstance(value, str) and hint is not str:
        value = parsed(hint, value)
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where} = {value!r} holds a zero byte, which no path or name can.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} = {value!r}: expected {NAMES[hint]}.")
    return value


NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def parsed(hint: type, text: str) -> Any:
    """A flag's text; the text itself if it cannot be one."""
    try:
        return WORDS.get(text.lower(), text) if hint is bool else hint(text)
    except ValueError:
        return text


# To flags and to TOML


def leaves(cls: type = Config, section: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted key, help, default) of everything that one flag can say."""
    hints = get_type_hints(cls, include_extras=True)
    for row in fields(cls):
        hint, text = get_args(hints[row.name])
        key = f"{section}{row.name}"
        if is_dataclass(hint):
            yield from leaves(hint, f"{key}.")  # type: ignore[arg-type]
        elif get_origin(hint) is not dict and not any(map(is_dataclass, get_args(hint))):
            yield key, text, row.default


def to_toml(config: Config) -> str:
    """The config in full, as a file that says the same."""
    return tomlkit.dumps(asdict(config))


def from_toml(text: str) -> Config:
    """The config that to_toml() wrote, at this or an earlier time: keys that have come since are as by default.

    ConfigError for what it does not know; ValueError for what is no TOML.
    """
    return build(Config, tomllib.loads(text), "")


def toml_value(value: Any) -> str:
    """As it stands behind an equals sign."""
    return tomlkit.item(value).as_string()
