"""`train`: a config -> networks, data and optimiser set up, and the loop started."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, InitProcessGroupKwargs, set_seed
from torch import Tensor, nn
from tqdm import tqdm

from ..core.colour import PALETTES, palette_named
from ..core.heads import NEW_HEADS, untrained_head
from ..core.recipe import Recipe
from ..core.tasks import task_named
from . import latents, objective, state
from .augment import Augmentation
from .base import Start, shape_of, start
from .batches import Batches, Feed
from .config import Config, ConfigError, Source, build, check_known, to_toml
from .data import Records
from .estimate import GIB, advice, estimate, said_plainly
from .latents import Latents
from .light import Pupil, Tutor, open_teacher, pupil_for, with_recipes
from .loop import Journal, Judge, Run, fit
from .optimiser import OPTIMISERS, Average
from .people import People, named_after
from .predict import device_named
from .readers import open_dataset
from .student import DTYPES, Student, Written, choose, groups, whole_weights, widened
from .targets import TargetOptions, check_fit, options_for, renumbering
from .vae import Apprentice, Examiner, untrained
from .validate import Validator

log = logging.getLogger(__name__)

PATIENCE = timedelta(hours=4)
"""How long processes wait for the one that validates."""
COPIES = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
)
"""Kinds of launch where every process holds all weights."""


def run(config: Config) -> None:
    """Train. ValueError, in one sentence, for what a person can mend."""
    check(config)
    with said_plainly(config):
        made = prepare(config)
        if config.estimate and made.first_step < config.steps:
            foretell(made)
        fit(made)


def foretell(run: Run) -> None:
    """Say what a step will take. What cannot be foretold is passed over: the run itself will tell."""
    accelerator, config = run.accelerator, run.config
    if not accelerator.is_main_process:
        return
    device = accelerator.device
    try:
        found = estimate(config, run.learner, run.data[0], lambda: accelerator.autocast(), device)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        log.debug("No estimate: %s", error)
        return
    tqdm.write(found.sentence(config.steps - run.first_step), sys.stderr)
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    if 0 < room < found.memory:
        tqdm.write(f"The GPU has {room / GIB:.1f} GiB. If that is not enough: {advice(config)}.", sys.stderr)


def check(config: Config) -> None:
    """What can be told before anything is read."""
    if not config.tasks:
        raise ConfigError('Nothing says what to learn: set tasks, such as tasks = ["depth"].')
    for task in config.tasks:
        if not config.sources(task):
            raise ConfigError(f"There is no [[data]] to learn {task} from: name a dataset that has it.")
    if config.learn == "perception" and len(config.tasks) > 1 and not config.learns_context:
        raise ConfigError(
            'Several tasks on one network are told apart by learnt contexts: set network.learn_context = "auto".'
        )
    if config.network.head:
        check_known("head", config.network.head, NEW_HEADS)
    if config.network.encoder and (config.objective.loss != "pixel" or config.cache_latents):
        raise ConfigError(
            "An encoder that learns moves the latents that others are compared with: with network.encoder set "
            'objective.loss = "pixel" and cache_latents = false.'
        )
    if config.network.encoder and config.network.unet == "lora":
        raise ConfigError("An adapter holds no encoder: with network.encoder train the whole UNet, or none of it.")
    if len(config.tasks) > 1 and config.network.head:
        raise ConfigError("A head is made for one task: train one, or leave network.head out.")
    frozen, precision = config.network.frozen_precision, config.precision
    if frozen not in ("fp32", precision):
        raise ConfigError(f'network.frozen_precision = "{frozen}" needs precision = "{frozen}".')


def prepare(config: Config) -> Run:
    """Everything that the loop needs, as it was when a killed run last saved it."""
    device = torch.device(device_named(config.device)).type
    if config.precision == "fp16" and device == "cpu":
        raise ConfigError('precision = "fp16" needs a GPU: on a CPU take "no", or "bf16".')
    accelerator = Accelerator(
        mixed_precision="no" if config.precision == "fp64" else config.precision,
        cpu=device == "cpu",
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    if accelerator.distributed_type not in COPIES:
        raise ConfigError(
            f"{accelerator.distributed_type.value} splits weights among processes, which this trainer does not: choose "
            "plain multi-GPU in `accelerate config`; see network.checkpointing and adamw8bit if memory is short."
        )
    set_seed(config.seed)
    out = Path(config.out)
    setup = SETUPS[config.learn](config, accelerator)
    if config.precision == "fp64":
        setup.learner.double()
    optimiser = OPTIMISERS[config.optimiser.name](list(groups(setup.learner, config)), config.optimiser)
    average = Average(setup.learner.learning(), config.optimiser.ema)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.toml").write_text(to_toml(config), "utf-8")
    accelerator.wait_for_everyone()
    model, optimiser = accelerator.prepare(setup.learner, optimiser)
    made = Run(
        config,
        accelerator,
        setup.learner,
        model,
        optimiser,
        average,
        batches_for(config, setup.feeds, accelerator),
        setup.judge,
        Journal(out, accelerator.is_main_process),
    )
    if config.resume and (out / state.FILE).is_file():
        resume(made)
    return made


class Setup(NamedTuple):
    """What differs between the kinds of runs."""

    learner: Student | Apprentice | Pupil
    feeds: list[Feed]
    judge: Judge


def set_up_perception(config: Config, accelerator: Accelerator) -> Setup:
    """A UNet that learns to predict maps."""
    # what can be wrong is looked for before gigabytes are read
    feeds, held_out = open_feeds(config, shape_of(config.base).base)
    recipes = {feed.recipe.id: feed.recipe for feed in feeds}
    objective.check(config, recipes)
    begun = start(config.base)
    student, kept = make(config, begun, recipes)
    student.to(accelerator.device)
    written = Written(config, begun.architecture, begun.vae_architecture, kept, begun.fingerprint)
    return Setup(
        student,
        feeds,
        Validator(config, student, written, held_out, accelerator.device, lambda: accelerator.autocast()),
    )


def set_up_vae(config: Config, accelerator: Accelerator) -> Setup:
    """A VAE that learns to encode pictures and their targets."""
    feeds, held_out = open_feeds(config, "custom")
    apprentice = Apprentice(untrained(config.autoencoder), config.autoencoder).to(accelerator.device)
    judge = Examiner(
        config, apprentice, held_out or feeds, bool(held_out), accelerator.device, lambda: accelerator.autocast()
    )
    return Setup(apprentice, feeds, judge)


def set_up_light(config: Config, accelerator: Accelerator) -> Setup:
    """A light half of a VAE that learns from the whole one."""
    teacher = open_teacher(config, str(accelerator.device))
    feeds, held_out = open_feeds(with_recipes(config, teacher), "custom")
    pupil = pupil_for(config, teacher, feeds).to(accelerator.device)
    return Setup(pupil, feeds, Tutor(config, pupil, held_out, accelerator.device))


SETUPS: dict[str, Callable[[Config, Accelerator], Setup]] = {
    "perception": set_up_perception,
    "vae": set_up_vae,
    "decoder": set_up_light,
    "encoder": set_up_light,
}


def open_feeds(config: Config, base: str) -> tuple[list[Feed], list[Feed]]:
    """What the run learns from, and what it is measured on: whole pictures of the same size, nothing random."""
    augmentation = build(Augmentation, {**config.augment, "size": list(config.size)}, "augment")
    if config.cache_latents:
        latents.check(augmentation, config)
    kept = {"size", "shape", "image_filter", "target_filter"}
    plain = Augmentation(**{name: value for name, value in vars(augmentation).items() if name in kept})
    feeds, held_out = [], []
    for task in config.tasks:
        recipe = recipe_for(task, config, base)
        opened = [(source, open_source(source, recipe, config.size)) for source in config.sources(task)]
        recipe = informed(recipe, [records for _, records in opened])
        feeds += [feed(config, recipe, source, records, augmentation) for source, records in opened]
        measured = [
            (source, open_source(source, recipe, config.size)) for source in config.sources(task, validation=True)
        ]
        named_after(recipe, [records for _, records in measured])  # other keypoints could not be measured
        held_out += [feed(config, recipe, source, records, plain) for source, records in measured]
    return feeds, held_out


def open_source(source: Source, recipe: Recipe, size: tuple[int, int]) -> Records[Any]:
    """A dataset, for the recipe's task. DatasetError if it has nothing of it.

    size: (H, W) of the run. People are cut out at it, in its shape: the recipe's crops are of that shape too, and
    squeezing them would teach other bodies than it then sees.
    """
    if not recipe.row.channels:
        check_crops(source, recipe, size)
    records = open_dataset(source.reader, recipe.row.name, root=source.root, **source.settings)
    return records.at(size) if isinstance(records, People) else records


def check_crops(source: Source, recipe: Recipe, size: tuple[int, int]) -> None:
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


def informed(recipe: Recipe, opened: list[Records[Any]]) -> Recipe:
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
    origin = f"{source.reader} {source.root} {source.settings}"
    return Feed(records, recipe, options, augmentation, source.weight, origin)


def batches_for(config: Config, feeds: list[Feed], accelerator: Accelerator) -> Batches:
    """This process's share of the run."""
    count = config.steps * config.accumulation
    process, processes = accelerator.process_index, accelerator.num_processes
    return Batches(feeds, config.batch_size, count, config.seed, process, processes, config.turns)


def resume(run: Run) -> None:
    """Go on from the saved state."""
    content = state.load(run.out / state.FILE, run.config, run.learner.learning(), run.optimiser, run.average)
    if run.accelerator.scaler is not None and content["scaler"]:
        run.accelerator.scaler.load_state_dict(content["scaler"])
    run.first_step, run.progress = content["step"], content["progress"]


def make(config: Config, begun: Start, recipes: Mapping[str, Recipe]) -> tuple[Student, dict[str, Tensor]]:
    """The student, its weights that learn chosen; and what those were that are trained whole beside LoRA."""
    needed = {8 if recipe.paradigm == "stochastic" else 4 for recipe in recipes.values()}
    if len(needed) > 1:
        raise ConfigError("One network cannot be shown one latent for a task and two for another: set one paradigm.")
    (channels,) = needed
    learns_input = config.network.unet == "full" or "conv_in" in config.network.whole
    if begun.architecture.in_channels != channels and not learns_input:
        raise ConfigError(
            "The stochastic paradigm shows the network two latents, and its first layer must learn to read them: set "
            'network.whole = ["conv_in"] beside LoRA.'
        )
    kept = whole_weights(begun.unet, config.network)
    unet = widened(begun.unet, channels)
    contexts = {task: begun.context(task, config.network.tokens) for task in recipes}
    head = new_head(config, begun, recipes)
    known = Latents.of_run(config, config.precision, recipes.values(), begun.vae)
    student = Student(unet, begun.vae, contexts, recipes, config.objective, head, known)
    choose(student, config)
    dtype = DTYPES[config.network.frozen_precision]
    for part in (student.unet, student.vae):
        for weight in part.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(dtype)
    return student, kept


def new_head(config: Config, begun: Start, recipes: Mapping[str, Recipe]) -> nn.Module | None:
    """An untrained head for the UNet's features."""
    if not config.network.head:
        return None
    (recipe,) = recipes.values()
    return untrained_head(
        config.network.head, begun.architecture.widths, config.network.head_width, channels_of(recipe)
    )


def channels_of(recipe: Recipe) -> int:
    """What its head gives for each pixel: a score for each class, or values. ConfigError if classes are not known."""
    if not recipe.target_codec().classes:
        return recipe.channels
    if not recipe.palette:
        raise ConfigError("Nothing says which classes there are: name a palette in [recipe] or in dataset.toml.")
    return len(palette_named(recipe.palette).classes)


def recipe_for(task: str, config: Config, base: str) -> Recipe:
    """How the weights of a task are to be run. ConfigError for fields that a recipe does not have."""
    fields = config.recipe_fields(task)
    head = config.network.head
    defaults: dict[str, Any] = {
        "base": base,
        "resolution": max(config.size),
        # people are cut out in the shape that the network saw
        **({} if task_named(task).channels else {"aspect": config.size[1] / config.size[0]}),
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
    except ValueError as error:
        raise ConfigError(f"[recipe] for {task}: {error}") from None
