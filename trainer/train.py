"""`train`: a config -> networks, data and optimiser set up, and the loop started."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, InitProcessGroupKwargs, set_seed
from torch import Tensor, nn
from tqdm import tqdm

from ..core.checkpoints.tensors import DTYPES
from ..core.diffusion import PARADIGMS
from ..core.display.colour import palette_named
from ..core.heads.table import untrained_head
from ..core.recipe import Recipe
from ..core.whole_file import whole_file
from . import lock, objective, state
from .base import Start, shape_of, start
from .captions import Captions, encoder_beside
from .checks import check_config
from .config import Config, ConfigError, to_toml
from .data.batches import Batches, Feed, changes, listed, marked
from .data.feeds import open_feeds
from .journal import Journal
from .latents import Latents
from .learner import Evaluator
from .loop import Run, fit
from .memory import said_plainly
from .optimiser import OPTIMISERS, Average
from .predict import device_named
from .runs.autoencoder import AutoencoderModel, AutoencoderValidator, untrained_vae
from .runs.light_half import LightHalfModel, LightHalfValidator, light_half_model, open_teacher, with_recipes
from .runs.perception import PerceptionModel
from .runs.trainable import choose, groups, whole_weights, widened
from .runs.validate import Validator
from .runs.written import Written
from .trackers import start_trackers

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
    """Train. UserError, in one sentence, for what a person can mend."""
    check_config(config)
    with said_plainly(config):
        try:
            made = prepare(config)
            begin(made)
            fit(made)
        finally:
            lock.release(Path(config.out))


def begin(run: Run) -> None:
    """Say what lies before the run."""
    config = run.config
    if run.first_step == config.steps and run.accelerator.is_main_process:
        done = f"{run.out} is already at step {run.first_step} of {config.steps}: its weights are written once more."
        tqdm.write(done, sys.stderr)
    if config.precision == "bf16" and emulates_bf16(run.accelerator.device.type):
        slow = 'This processor has no bf16 of its own, which makes it many times slower than precision = "no".'
        tqdm.write(slow, sys.stderr)


def emulates_bf16(device: str) -> bool:
    """Whether bf16 is put together from other instructions on a device ("cpu", "cuda"), as far as PyTorch knows the
    processor; it is many times slower there than float32."""
    if device != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    # PyTorch before 2.6 cannot be asked
    return not any(getattr(torch.cpu, f"_is_{name}_supported", lambda: True)() for name in ("avx512_bf16", "amx_tile"))


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
    main = accelerator.is_main_process
    if main:
        out.mkdir(parents=True, exist_ok=True)
        lock.hold(out)
        state.check_room(out, setup.learner.learning(), config)
    model, optimiser = accelerator.prepare(setup.learner, optimiser)
    content = (
        state.restore(out / state.FILE, config, setup.learner.learning(), optimiser, average)
        if state.goes_on(config)
        else {}
    )
    if main:
        # not before: a good run's config outlives a refused one's
        with whole_file(out / "config.toml") as file:
            file.write_text(to_toml(config), "utf-8")
    accelerator.wait_for_everyone()
    made = Run(
        config,
        accelerator,
        setup.learner,
        model,
        optimiser,
        average,
        _batches_for(config, setup.feeds, accelerator),
        setup.evaluator,
        Journal(out, main, start_trackers(config) if main else []),
        listed=listed(setup.feeds) if main else {},
    )
    if content:
        _resume(made, content)
    return made


class Setup(NamedTuple):
    """What differs between the kinds of runs."""

    learner: PerceptionModel | AutoencoderModel | LightHalfModel
    feeds: list[Feed]
    evaluator: Evaluator


def _set_up_perception(config: Config, accelerator: Accelerator) -> Setup:
    """A UNet that learns to predict maps."""
    # what can be wrong is looked for before gigabytes are read
    feeds, held_out = open_feeds(config, shape_of(config.base).base)
    recipes = {feed.recipe.id: feed.recipe for feed in feeds}
    objective.check_objective(config, recipes)
    begun = start(config.base)
    captions = _captions_for(config, [*feeds, *held_out], accelerator)
    model, kept = make(config, begun, recipes, captions)
    model.to(accelerator.device)
    if model.latents is not None and accelerator.is_main_process:
        model.latents.say_changed(marked(feeds))
    written = Written(config, begun.architecture, begun.vae_architecture, kept, begun.fingerprint)
    return Setup(
        model,
        feeds,
        Validator(config, model, written, held_out, accelerator.device, lambda: accelerator.autocast()),
    )


def _set_up_vae(config: Config, accelerator: Accelerator) -> Setup:
    """A VAE that learns to encode pictures and their targets."""
    feeds, held_out = open_feeds(config, "custom")
    model = AutoencoderModel(untrained_vae(config.autoencoder), config.autoencoder).to(accelerator.device)
    evaluator = AutoencoderValidator(
        config, model, held_out or feeds, bool(held_out), accelerator.device, lambda: accelerator.autocast()
    )
    return Setup(model, feeds, evaluator)


def _set_up_light(config: Config, accelerator: Accelerator) -> Setup:
    """A light half of a VAE that learns from the whole one."""
    teacher = open_teacher(config, str(accelerator.device))
    feeds, held_out = open_feeds(with_recipes(config, teacher), "custom")
    model = light_half_model(config, teacher, feeds).to(accelerator.device)
    if model.latents is not None and accelerator.is_main_process:
        model.latents.say_changed(marked(feeds))
    return Setup(model, feeds, LightHalfValidator(config, model, held_out, accelerator.device))


SETUPS: dict[str, Callable[[Config, Accelerator], Setup]] = {
    "perception": _set_up_perception,
    "vae": _set_up_vae,
    "decoder": _set_up_light,
    "encoder": _set_up_light,
}


def _batches_for(config: Config, feeds: list[Feed], accelerator: Accelerator) -> Batches:
    """This process's share of the run."""
    count = config.steps * config.accumulation
    process, processes = accelerator.process_index, accelerator.num_processes
    return Batches(feeds, config.batch_size, count, config.seed, process, processes, config.turns)


def _resume(run: Run, content: dict[str, Any]) -> None:
    """Go on from the saved state, whose weights are in place."""
    if run.accelerator.scaler is not None and content["scaler"]:
        run.accelerator.scaler.load_state_dict(content["scaler"])
    run.first_step, run.progress = content["step"], content["progress"]
    run.journal.saved = run.first_step
    if run.listed and content.get("data"):
        for clause in changes(content["data"], run.listed, run.data.feeds):
            log.warning("The data changed since step %d: %s. The run goes on.", run.first_step, clause)


def _captions_for(config: Config, feeds: list[Feed], accelerator: Accelerator) -> Captions | None:
    """What knows the texts of the run's pictures, each encoded once; None where they have none."""
    texts = {text for feed in feeds for text in feed.captions.values()}
    if not texts:
        return None
    captions = Captions(Path(config.out) / "captions", encoder_beside(config.base))
    if accelerator.is_main_process:
        captions.make(sorted(texts), accelerator.device)
    accelerator.wait_for_everyone()
    return captions


def make(
    config: Config, begun: Start, recipes: Mapping[str, Recipe], captions: Captions | None = None
) -> tuple[PerceptionModel, dict[str, Tensor]]:
    """The model, its weights that learn chosen; and what those were that are trained whole beside LoRA."""
    kept = whole_weights(begun.unet, config.network)
    unet = widened(begun.unet, _shown_channels(config, begun, recipes))
    contexts = {task: begun.context(task, config.network.tokens) for task in recipes}
    head = _new_head(config, begun, recipes)
    known = Latents.of_run(config, config.precision, recipes.values(), begun.vae)
    model = PerceptionModel(unet, begun.vae, contexts, recipes, config.objective, head, known, captions)
    choose(model, config)
    dtype = DTYPES[config.network.frozen_precision]
    for part in (model.unet, model.vae):
        for weight in part.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(dtype)
    return model, kept


def _shown_channels(config: Config, begun: Start, recipes: Mapping[str, Recipe]) -> int:
    """Of what the paradigm shows the network. ConfigError where its first layer cannot be brought to take them."""
    needed = {PARADIGMS[recipe.paradigm].channels: recipe.paradigm for recipe in recipes.values()}
    if len(needed) > 1:
        raise ConfigError("One network cannot be shown one latent for a task and two for another: set one paradigm.")
    ((channels, paradigm),) = needed.items()
    have = begun.architecture.in_channels
    if have != channels and config.network.unet != "full" and "conv_in" not in config.network.whole:
        raise ConfigError(
            f"The {paradigm} paradigm shows the network {channels} channels and its first layer reads {have}, so that "
            'it must learn: set network.whole = ["conv_in"] beside LoRA.'
        )
    return channels


def _new_head(config: Config, begun: Start, recipes: Mapping[str, Recipe]) -> nn.Module | None:
    """An untrained head for the UNet's features."""
    if not config.network.head:
        return None
    (recipe,) = recipes.values()
    return untrained_head(
        config.network.head, begun.architecture.widths, config.network.head_width, _channels_of(recipe)
    )


def _channels_of(recipe: Recipe) -> int:
    """What its head gives for each pixel: a score for each class, or values. ConfigError if classes are not known."""
    if not recipe.target_codec().classes:
        return recipe.channels
    if not recipe.palette:
        raise ConfigError("Nothing says which classes there are: name a palette in [recipe] or in dataset.toml.")
    return len(palette_named(recipe.palette).classes)
