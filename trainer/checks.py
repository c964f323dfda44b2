"""Checks: what can be told of a config before anything is read. `train` and `--print-config` make the same ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple

from ..core.diffusion import PARADIGMS
from ..core.errors import UserError
from ..core.generations import CUSTOM
from ..core.heads.table import HEADS
from ..core.recipe import Recipe
from ..core.tasks import TASKS
from . import objective, state
from .config import Config, ConfigError, build, check_known, toml_value
from .data.augment import Augmentation
from .data.feeds import check_cache, recipe_for
from .data.published import check_reader
from .data.records import root_of
from .data.targets import TargetOptions, spans_quantiles
from .data.tasks import TASK_DATA, data_of
from .presets import PRESETS
from .text import LONGEST
from .trackers import check_trackers

log = logging.getLogger(__name__)


def check_config(config: Config) -> None:
    """ConfigError for what is missing, cannot be, or would have no effect."""
    check_complete(config)
    check_said(config)
    for source in (*config.data, *config.validation):
        check_reader(source.reader)
        root_of(source.root)


def check_said(config: Config) -> None:
    """ConfigError for what stands in the config, whatever is missing there."""
    _check_possible(config)
    sentences = list(_without_effect(config))
    if sentences and not state.is_of(config):
        raise ConfigError(sentences[0])
    for sentence in sentences:
        log.warning("%s", sentence)  # a run that was begun when nothing was said of it goes on


def check_complete(config: Config) -> None:
    """ConfigError if there is nothing to learn, or to learn it from."""
    if not config.tasks:
        raise ConfigError(
            'Nothing says what to learn: set tasks, such as tasks = ["depth"] in CONFIG.toml, or --tasks depth.'
        )
    for task in config.tasks:
        if not config.sources(task):
            raise ConfigError(f"There is no [[data]] to learn {task} from: name a dataset that has it.")


def _check_possible(config: Config) -> None:
    """ConfigError for settings that contradict each other."""
    if config.learn == "perception" and len(config.tasks) > 1 and not config.learns_context:
        raise ConfigError(
            'Several tasks on one network are told apart by learnt contexts: set network.learn_context = "auto".'
        )
    check_trackers(config.trackers)
    if config.network.head:
        check_known("head", config.network.head, HEADS)
    if config.network.encoder and (config.objective.loss != "pixel" or config.cache_latents):
        raise ConfigError(
            "An encoder that learns moves the latents that others are compared with: with network.encoder set "
            'objective.loss = "pixel" and cache_latents = false.'
        )
    if config.network.encoder and config.network.unet == "lora":
        raise ConfigError("An adapter holds no encoder: with network.encoder train the whole UNet, or none of it.")
    if len(config.tasks) > 1 and config.network.head:
        raise ConfigError("A head is made for one task: train one, or leave network.head out.")
    _check_captions(config)
    frozen, precision = config.network.frozen_precision, config.precision
    if frozen not in ("fp32", precision):
        raise ConfigError(f'network.frozen_precision = "{frozen}" needs precision = "{frozen}".')
    _check_tables(config)


def _check_captions(config: Config) -> None:
    """ConfigError where the texts of pictures cannot be told to the network."""
    captioned = [source.root for source in (*config.data, *config.validation) if source.captions]
    if not captioned:
        return
    if config.learn != "perception" or config.learns_context:
        raise ConfigError(
            f"captions of {captioned[0]} stand in the place of a context that is learnt, or that is not needed: leave "
            'them out, or learn one task with learn = "perception" and network.learn_context = "no".'
        )
    if config.network.tokens != LONGEST:
        raise ConfigError(
            f"captions of {captioned[0]} are padded to {LONGEST} tokens, and network.tokens = {config.network.tokens}: "
            f"set network.tokens = {LONGEST}."
        )


def _check_tables(config: Config) -> None:
    """ConfigError for what the free tables of a config cannot say."""
    augmentation = build(Augmentation, {**config.augment, "size": list(config.size)}, "augment")
    if config.cache_latents:
        check_cache(augmentation, config)
    for task in config.tasks or ("depth",):
        build(TargetOptions, config.target_fields(task), "target")
    if config.learn == "perception":
        objective.check_objective(config, {task: recipe_for(task, config, CUSTOM) for task in config.tasks})
    for task, listed in config.objective.pixel_losses.items():
        objective.picture_terms(listed, task)
    if config.base.architecture or config.base.widths:
        from .base import architecture_of  # and diffusers with it

        architecture_of(config.base)


# Settings without effect


class Effect(NamedTuple):
    """When some settings decide anything."""

    keys: tuple[str, ...]
    needs: str
    works: Callable[[Config], bool]


def every(section: str, *but: str) -> tuple[str, ...]:
    """The keys of a section."""
    rows = fields(getattr(Config(), section))
    return tuple(f"{section}.{row.name}" for row in rows if row.name not in but)


def _draws_noise(config: Config) -> bool:
    """Whether a task's paradigm begins with noise."""
    named = (config.recipe_fields(task).get("paradigm", Recipe.paradigm) for task in config.tasks)
    return any(PARADIGMS[name].draws_noise for name in named if name in PARADIGMS)


def _learns_light(config: Config) -> bool:
    return config.learn in ("decoder", "encoder")


PREDICTS = 'learn = "perception"'
EFFECTS = (
    Effect(every("autoencoder"), 'learn = "vae"', lambda config: config.learn == "vae"),
    Effect(every("light"), 'learn = "decoder" or "encoder"', _learns_light),
    Effect(("light.predicted",), 'learn = "decoder"', lambda config: config.learn == "decoder"),
    Effect(("light.outcome",), 'learn = "encoder"', lambda config: config.learn == "encoder"),
    Effect(every("network", "frozen_precision"), PREDICTS, lambda config: config.learn == "perception"),
    Effect(("network.frozen_precision", "cache_latents"), "a VAE that does not learn", lambda c: c.learn != "vae"),
    Effect(every("objective", "task_weights"), PREDICTS, lambda config: config.learn == "perception"),
    Effect(every("base"), 'another learn than "vae"', lambda config: config.learn != "vae"),
    Effect(("base.architecture", "base.widths"), PREDICTS, lambda config: config.learn == "perception"),
    Effect(("base.widths",), "base.architecture left out", lambda config: not config.base.architecture),
    Effect(
        ("base.layers", "base.head_dim", "base.context_dim"),
        "base.widths, and base.architecture left out",
        lambda config: bool(config.base.widths) and not config.base.architecture,
    ),
    Effect(
        ("objective.pixel_losses",),
        'objective.loss = "pixel" or "both"',
        lambda config: config.objective.loss != "latent",
    ),
    Effect(
        ("objective.latent_loss",),
        'objective.loss = "latent" or "both"',
        lambda config: config.objective.loss != "pixel",
    ),
    Effect(
        ("objective.noise", "objective.pyramid_strength", "objective.annealed"),
        'recipe.paradigm = "stochastic"',
        _draws_noise,
    ),
    Effect(
        ("objective.pyramid_strength", "objective.annealed"),
        'objective.noise = "pyramid"',
        lambda config: config.objective.noise == "pyramid",
    ),
    Effect(
        ("network.rank", "network.alpha", "network.lora_layers", "network.whole"),
        'network.unet = "lora"',
        lambda config: config.network.unet == "lora",
    ),
    Effect(("network.head_width",), "network.head", lambda config: bool(config.network.head)),
    Effect(
        ("optimiser.decoder_lr",),
        "something that decodes and learns (network.head, network.decoder, network.encoder)",
        lambda config: (
            config.learn == "vae" or bool(config.network.head or config.network.decoder or config.network.encoder)
        ),
    ),
    Effect(
        ("optimiser.context_lr",),
        'contexts that learn (network.learn_context = "yes")',
        lambda config: config.learn == "perception" and config.learns_context,
    ),
    Effect(
        ("optimiser.decay_steps", "optimiser.final_ratio"),
        "another optimiser.schedule than constant",
        lambda config: config.optimiser.schedule != "constant",
    ),
    Effect(("turns",), "several tasks", lambda config: len(config.tasks) != 1),
    Effect(("validation_share",), "no [[validation]]", lambda config: not config.validation),
    Effect(
        ("samples", "validate_every", "validate_first", "patience"),
        "[[validation]] or validation_share",
        lambda config: config.is_measured or not config.data,
    ),
    Effect(("patience",), "validate_every above 0", lambda config: config.validate_every > 0),
    Effect(
        ("validation_images",),
        "[[validation]] or validation_share",
        lambda config: config.is_measured or not config.data or config.learn == "vae",
    ),
)
"""Settings that decide nothing in some runs."""
PER_TASK = ("objective.pixel_losses", "objective.task_weights", "turns", "target", "recipe")
"""Tables that may name tasks."""
AMOUNTS = {
    "brightness": "jitter",
    "contrast": "jitter",
    "saturation": "jitter",
    "hue": "jitter",
    "blur_sigma": "blur",
    "jpeg_quality": "jpeg",
}
"""Fields of [augment] that say how much, and how likely it is at all."""


def _without_effect(config: Config) -> Iterator[str]:
    """A sentence for each setting that someone made and that decides nothing. What a preset brings is not meant."""
    usual = [Config(), build(Config, PRESETS[config.preset].settings, "")] if config.preset else [Config()]
    for row in EFFECTS:
        for key in row.keys:
            value = attrgetter(key)(config)
            if value and not any(value == attrgetter(key)(other) for other in usual) and not row.works(config):
                said = f"{key} = {_shown_value(value)}"
                yield f"{said} has no effect here: it needs {row.needs}; leave it out, or set that."
    for key in PER_TASK:
        for task in _unused_tasks(attrgetter(key)(config), config.tasks):
            if not any(task in attrgetter(key)(other) for other in usual):
                yield f"{key}.{task} has no effect: the run learns {', '.join(config.tasks)}; leave it out."
    for source in (*config.data, *config.validation):
        if config.tasks and source.tasks and not set(source.tasks) & set(config.tasks):
            yield f"{source.root} teaches {', '.join(source.tasks)} and the run learns none of that: leave it out."
        if source.crop_at != "middle" and not source.crop:
            yield f"crop_at of {source.root} has no effect here: it needs crop; leave it out, or set that."
    yield from _idle_augmentation(config)
    yield from _idle_targets(config)


def _shown_value(value: object) -> str:
    return "{...}" if isinstance(value, Mapping) else toml_value(value)


def _unused_tasks(table: Mapping[str, Any], tasks: Iterable[str]) -> list[str]:
    """Those that a table names beside the run's; none where nothing says which the run has."""
    return [name for name in table if name in TASKS and name not in tasks] if tasks else []


def _idle_augmentation(config: Config) -> Iterator[str]:
    """Of [augment]."""
    said, usual = config.augment, Augmentation()
    if "size" in said:
        yield "augment.size has no effect: set size, the run's."
    for name, cause in AMOUNTS.items():
        if said.get(name, getattr(usual, name)) != getattr(usual, name) and not said.get(cause, 0):
            yield f"augment.{name} has no effect: it needs augment.{cause} above 0, which says how often."
    if said.get("copy_paste", 0) and config.tasks and not any(data_of(task).pasted for task in config.tasks):
        yield "augment.copy_paste has no effect: it needs a task whose truth marks what is put elsewhere, such as mask."


def _idle_targets(config: Config) -> Iterator[str]:
    """Of [target]."""
    said = {task: config.target_fields(task) for task in config.tasks}
    special = {name for row in TASK_DATA.values() for name in row.target.options}
    for name in dict.fromkeys(name for table in said.values() for name in table):
        tasks = [
            task
            for task, table in said.items()
            if name in table and (name not in special or name in data_of(task).target.options)
        ]
        if name == "quantiles":
            tasks = [task for task in tasks if spans_quantiles(said[task].get("span") or data_of(task).target.span)]
        if not tasks:
            yield f"target.{name} has no effect on {', '.join(config.tasks)}: leave it out."


def missing(config: Config) -> str:
    """What `train` would still ask for; empty if nothing."""
    try:
        check_complete(config)
    except UserError as error:
        return str(error)
    return ""
