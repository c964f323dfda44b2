"""Feeds: the datasets of a run, opened for its recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...core.display.colour import PALETTES, palette_named
from ...core.errors import UserError
from ...core.recipe import DEFAULTS, Recipe
from ...core.tasks import task_named
from ..config import Config, ConfigError, Source, build
from .augment import Augmentation
from .batches import Feed
from .captions import captions_of
from .parts import split_off
from .people import People, named_after
from .published import open_dataset
from .records import Records
from .targets import TargetOptions, check_fit, options_for, renumbering
from .windows import cut_out


def open_feeds(config: Config, base: str) -> tuple[list[Feed], list[Feed]]:
    """What the run learns from, and what it is measured on: whole pictures of the same sizes, nothing random."""
    augmentation = build(Augmentation, {**config.augment, "size": list(config.size)}, "augment")
    if config.cache_latents:
        check_cache(augmentation, config)
    kept = {"size", "shape", "image_filter", "target_filter"}
    plain = Augmentation(**{name: value for name, value in vars(augmentation).items() if name in kept})
    feeds, held_out = [], []
    for task in config.tasks:
        recipe = recipe_for(task, config, base)
        opened = [(source, open_source(source, recipe, config.size_of(source))) for source in config.sources(task)]
        parts = [(source, *split_off(records, config.share_held_out)) for source, records in opened]
        recipe = _informed(recipe, [records for _, records in opened])
        feeds += [feed(config, recipe, source, learnt, augmentation) for source, learnt, _ in parts]
        measured = [(source, kept) for source, _, kept in parts if kept is not None] + [
            (source, open_source(source, recipe, config.size_of(source)))
            for source in config.sources(task, validation=True)
        ]
        named_after(recipe, [records for _, records in measured])  # other keypoints could not be measured
        held_out += [feed(config, recipe, source, records, plain) for source, records in measured]
    return feeds, held_out


def open_source(source: Source, recipe: Recipe, size: tuple[int, int]) -> Records[Any]:
    """A dataset, for the recipe's task. DatasetError if it has nothing of it.

    size: (H, W) of its pictures. People are cut out at it, in its shape: the recipe's crops are of that shape too, and
    squeezing them would teach other bodies than it then sees.
    """
    if recipe.row.per == "person":
        _check_crops(source, recipe, size)
    records = open_dataset(source.reader, recipe.row.name, root=source.root, **source.settings)
    return cut_out(source, records.at(size) if isinstance(records, People) else records)


def _check_crops(source: Source, recipe: Recipe, size: tuple[int, int]) -> None:
    """ConfigError if people would be cut out in one shape to learn from and in another to be predicted."""
    said = source.settings.get("size", size)
    if said not in (size, list(size)):
        raise ConfigError(
            f"{source.root} has people in crops of size = {said}, the run pictures of size = {list(size)}: set the "
            "run's alone."
        )
    if abs(recipe.aspect - size[1] / size[0]) > 1e-3:
        raise ConfigError(
            f"The recipe's aspect = {recipe.aspect:g}, width to height of the crops around people, is not that of "
            f"size = {list(size)}: leave it out."
        )
    for field in LEARNT:
        if getattr(recipe, field) != DEFAULTS[field]:
            raise ConfigError(
                f"The recipe's {field} = {getattr(recipe, field)} is another than training teaches, "
                f"{DEFAULTS[field]}: leave it out."
            )


LEARNT = ("crop", "decoding")
"""How the readers cut people out, and where they draw keypoints in heatmaps."""


def _informed(recipe: Recipe, opened: list[Records[Any]]) -> Recipe:
    """The recipe with what its datasets say of their values, where the config does not."""
    first = opened[0]
    palettes = [records.palette for records in opened if records.palette is not None]
    palette = next((each.name if each.name in PALETTES else each.text() for each in palettes), "")
    return replace(
        named_after(recipe, opened),
        axes=recipe.axes or first.convention.axes,
        palette=recipe.palette or palette,
        data=recipe.data or ", ".join(dict.fromkeys(records.name for records in opened)),
    )


def feed(config: Config, recipe: Recipe, source: Source, records: Records[Any], augmentation: Augmentation) -> Feed:
    """A dataset that teaches what the recipe, and [target] above it, say."""
    default = options_for(recipe, records.palette.colours if records.palette else ())
    if records.palette is not None and recipe.palette:
        # classes go by their names: datasets may number them differently, or have more of them
        numbers = renumbering(records.name, records.palette, palette_named(recipe.palette))
        default = replace(default, renumbered=numbers)
    options = build(TargetOptions, {**vars(default), **config.target_fields(recipe.row.name)}, "target")
    check_fit(records.name, recipe.row.name, records.convention, options)
    own = {"size": config.size_of(source)} if source.size else {}
    captions = captions_of(source, records) if source.captions else {}
    return Feed(records, recipe, options, replace(augmentation, **own), source.weight, _origin_of(source), captions)


def _origin_of(source: Source) -> str:
    """What tells a dataset, as the run sees it, from all others."""
    seen = (source.size, source.crop, source.crop_at)
    apart = f" {seen}" if source.size or source.crop else ""  # what is kept of runs from before them stays known
    return f"{source.reader} {source.root} {source.settings}{apart}"


def recipe_for(task: str, config: Config, base: str) -> Recipe:
    """How the weights of a task are to be run. ConfigError for fields that a recipe does not have."""
    fields = config.recipe_fields(task)
    head = config.network.head
    defaults: dict[str, Any] = {
        "base": base,
        "resolution": max(config.size),
        # people are cut out in the shape that the network saw
        **({"aspect": config.size[1] / config.size[0]} if task_named(task).per == "person" else {}),
        "licence": config.licence,
        "head": head,
        "codec": task_named(task).head_codec if head else "",
    }
    if config.learns_context:
        fields["tokens"] = 0
    try:
        return build(Recipe, {**defaults, **fields, "task": task}, "recipe")
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(f"[recipe] for {task}: {error}") from None


def check_cache(augmentation: Augmentation, config: Config) -> None:
    """ConfigError where pictures are not the same every time."""
    plain = Augmentation(
        augmentation.size,
        flip=augmentation.flip,
        image_filter=augmentation.image_filter,
        target_filter=augmentation.target_filter,
    )
    if augmentation != plain or config.objective.sample_latents:
        raise ConfigError(
            "cache_latents needs pictures that are the same every time: leave only flip in [augment], and "
            "objective.sample_latents false."
        )
